//! The evaluation stage: what came out, on documents that no search saw.

mod measured;

use super::folder::{Made, write};
use super::runner::{Runner, StageModel};
use crate::cli::eval::Prompts;
use crate::cli::failure::{Failure, OrFail as _};
use crate::cli::output::note;
use crate::cli::prepare::ModelFolder;
use crate::cli::progress::bar;
use crate::cli::stop::stop_signal;
use crate::documents::DocumentTokenizer;
use crate::plan::{EvaluateStage, RetrievalTask, Stage};
use crate::report::extension::{EXTENDED, LONG, ORIGINAL, SCHEMA};
use crate::report::retrieval::{AtDepth, depths};
use crate::report::{ExtensionReport, PerplexityAt, Retrieval, RetrievalRun, heat_map, length_plot};
use indicatif::ProgressBar;
use measured::Measured;
use ropewalk_shared::attention_factor::AttentionFactorPolicy;
use ropewalk_shared::baselines::Baseline;
use ropewalk_shared::factor_file::FactorFile;
use ropewalk_shared::model_description::ModelDescription;
use ropewalk_shared::outcome::{Loss, perplexity};
use ropewalk_shared::retrieval::{GRASS, Template};
use ropewalk_shared::rope::Rescale;
use ropewalk_shared::sample::Sample;
use ropewalk_worker::cancel::CancelFlag;
use ropewalk_worker::evaluator::{Evaluator, EvaluatorOptions};
use ropewalk_worker::perplexity::EvalError;
use std::path::Path;

/// Digits of a pass key, as in the paper's prompt.
const KEY_DIGITS: u32 = 5;
/// YaRN with attention factor 1.
const YARN_PLAIN: &str = "yarn-attention-1";

/// A set of factors that is judged, and on which model.
struct Judged<'a> {
    name: &'static str,
    model: &'a StageModel,
    evaluator: &'a Evaluator,
    at: At<'a>,
}

/// The factors of a set at a length.
type At<'a> = Box<dyn Fn(u32) -> Rescale + 'a>;

/// How many sets of factors are judged at each length.
pub(super) const SETS: usize = 7;

impl Runner<'_> {
    /// Measures perplexity and retrieval, and writes `report.json`, the tables and the heat maps.
    pub(super) async fn evaluate(&self, stage: &Stage, evaluate: &EvaluateStage, out: &Path) -> Result<Made, Failure> {
        let (model, factors) = (self.model_of(stage)?, self.factors(&evaluate.factors)?);
        let original =
            StageModel { folder: ModelFolder::open(&self.inputs.folder.path)?, fingerprint: self.inputs.fingerprint };
        let cancel = CancelFlag::new();
        let stop = cancel.clone();
        let stopping = tokio::spawn(async move {
            stop_signal().await;
            stop.cancel();
        });
        // The evaluation owns its threads; the runtime only has to wait for it.
        let report =
            tokio::task::block_in_place(|| self.measure(evaluate, (&original, &model), &factors, (out, &cancel)));
        stopping.abort();
        let report = report?;
        write(&out.join("report.json"), &(serde_json::to_string_pretty(&report).or_work()? + "\n"))?;
        write(&out.join("report.md"), &report.markdown())?;
        let title = format!("Perplexity of {} by length", report.model);
        write(&out.join("perplexity.svg"), &length_plot(&title, &report.curves()).or_work()?)?;
        for run in &report.retrieval {
            let title = format!("Pass keys found, {}", if run.factors == ORIGINAL { "before" } else { "after" });
            let svg = heat_map(&title, &run.results.iter().collect::<Vec<_>>()).or_work()?;
            write(&out.join(format!("passkey-{}.svg", run.factors)), &svg)?;
        }
        if !self.args.output.json {
            // Not to standard output: a reader that went away would end the plan here.
            note(report.markdown());
        }
        Ok(Made { summary: summary(&report), ..Made::default() })
    }

    fn measure(
        &self,
        evaluate: &EvaluateStage,
        (original, model): (&StageModel, &StageModel),
        factors: &FactorFile,
        (out, cancel): (&Path, &CancelFlag),
    ) -> Result<ExtensionReport, Failure> {
        let retrieval = evaluate.retrieval.iter().flat_map(|task| &task.lengths);
        let longest = evaluate.lengths.iter().chain(retrieval).copied().max().unwrap_or(2) as usize;
        let description = &self.inputs.folder.description;
        let mut log = Measured::open(&out.join("measured.jsonl"))?;
        let documents = self.inputs.drawn.held_out(2, evaluate.samples)?.len();
        let mut report = ExtensionReport {
            schema: SCHEMA.to_owned(),
            plan: self.inputs.plan.name.clone(),
            model: self.inputs.folder.name.clone(),
            original_length: description.original_length,
            documents,
            perplexity: Vec::new(),
            retrieval: Vec::new(),
        };
        let prompts =
            evaluate.retrieval.as_ref().map_or(0, |task| 2 * task.lengths.len() * (task.depths * task.trials) as usize);
        let units = evaluate.lengths.len() * SETS * documents + prompts;
        let bar =
            if self.args.output.json { ProgressBar::hidden() } else { bar(units as u64, "{msg} {bar:28} {pos}/{len}") };
        // One model after the other: there may be no room for both.
        for (model, sets) in [(original, of_original(description)), (model, of_extended(description, factors))] {
            let evaluator = self.evaluator(model, longest)?;
            let sets: Vec<Judged<'_>> =
                sets.into_iter().map(|(name, at)| Judged { name, model, evaluator: &evaluator, at }).collect();
            for &length in &evaluate.lengths {
                let samples = self.inputs.drawn.held_out(length, evaluate.samples)?;
                for set in &sets {
                    bar.set_message(format!("{} at {length}", set.name));
                    let rescale = (set.at)(length);
                    let mut losses = Vec::with_capacity(samples.len());
                    for sample in &samples {
                        losses.push(set.measure(&rescale, sample, &mut log, cancel)?.loss);
                        bar.inc(1);
                    }
                    report.perplexity.push(perplexity_at(set, length, &rescale, &losses));
                }
            }
            let judged = sets.iter().filter(|set| [ORIGINAL, EXTENDED].contains(&set.name));
            for (task, set) in evaluate.retrieval.iter().flat_map(|task| judged.clone().map(move |set| (task, set))) {
                let results = self.retrieve(task, set, &mut log, (cancel, &bar))?;
                report.retrieval.push(RetrievalRun {
                    factors: set.name.into(),
                    model: set.model.folder.name.clone(),
                    results,
                });
            }
        }
        // At each length the original first, and the others in their order.
        report.perplexity.sort_by_key(|at| at.length);
        bar.finish_and_clear();
        Ok(report)
    }

    /// For documents of so many tokens at most.
    fn evaluator(&self, model: &StageModel, length: usize) -> Result<Evaluator, Failure> {
        let given = &self.args.machine.device;
        let devices = given.devices();
        let options = EvaluatorOptions { device_memory: given.device_memory, ..EvaluatorOptions::on(devices.is_cpu()) };
        Evaluator::open(&model.folder.path, &devices.open().or_input()?, devices.usual_dtype(), length, options)
            .or_work()
    }

    fn retrieve(
        &self,
        task: &RetrievalTask,
        set: &Judged<'_>,
        log: &mut Measured,
        (cancel, bar): (&CancelFlag, &ProgressBar),
    ) -> Result<Vec<Retrieval>, Failure> {
        let folder = &self.inputs.folder;
        let tokenizer = DocumentTokenizer::open(&folder.path, &folder.description).or_input()?;
        let (template, grass) = (Template::passkey(), grass(&tokenizer)?);
        let mut results = Vec::new();
        for &length in &task.lengths {
            bar.set_message(format!("pass keys, {} at {length}", set.name));
            let rescale = (set.at)(length);
            let prompts = pass_keys(&template, (&tokenizer, &grass), length);
            let (mut by_depth, mut nll, mut seconds) = (Vec::new(), 0.0, 0.0);
            for (row, depth) in depths(task.depths).into_iter().enumerate() {
                let mut at = AtDepth { depth, prompts: 0, exact: 0 };
                for trial in 0..task.trials as usize {
                    let prompt = prompts.build(task.seed, depth, row * task.trials as usize + trial)?;
                    let sample = Sample::counted(prompt.tokens, prompt.counted_from).or_work()?;
                    let answer = set.measure(&rescale, &sample, log, cancel)?;
                    at.prompts += 1;
                    at.exact += u64::from(answer.is_exact());
                    (nll, seconds) = (nll + answer.loss.nll_sum, seconds + answer.seconds);
                    bar.inc(1);
                }
                by_depth.push(at);
            }
            results.push(Retrieval::of_depths(length, set.name, &rescale, by_depth, (nll, seconds)));
        }
        Ok(results)
    }
}

/// The ids of what pass keys are hidden in.
pub(super) fn grass(tokenizer: &DocumentTokenizer) -> Result<Vec<u32>, Failure> {
    tokenizer.ids(GRASS).or_input()
}

/// The prompts of a length.
pub(super) fn pass_keys<'a>(
    template: &'a Template,
    (tokenizer, grass): (&'a DocumentTokenizer, &'a [u32]),
    length: u32,
) -> Prompts<'a> {
    Prompts { template, tokenizer, grass, documents: Vec::new(), length, digits: KEY_DIGITS }
}

impl Judged<'_> {
    /// The loss of a sample, measured now or before.
    fn measure(
        &self,
        rescale: &Rescale,
        sample: &Sample,
        log: &mut Measured,
        cancel: &CancelFlag,
    ) -> Result<measured::Unit, Failure> {
        log.get_or(self.model.fingerprint, rescale, sample, || {
            let (tokens, from) = (sample.tokens(), sample.counted_from() as usize);
            // Whole documents take the way that searches take, to the last bit.
            if from <= 1 {
                let loss = self.evaluator.evaluate(rescale, tokens, cancel, &mut |_| ()).map_err(failure)?;
                return Ok((loss, 0));
            }
            let counted =
                self.evaluator.evaluate_counted(rescale, tokens, from, cancel, &mut |_| ()).map_err(failure)?;
            Ok((counted.loss, counted.correct))
        })
    }
}

fn failure(error: EvalError) -> Failure {
    match error {
        EvalError::Cancelled => Failure::work_message("interrupted; the same command goes on where it stopped"),
        error => Failure::work(error),
    }
}

/// What the original model is judged with: what it was shipped with.
fn of_original(description: &ModelDescription) -> Vec<(&'static str, At<'_>)> {
    vec![(ORIGINAL, Box::new(|length| description.shipped_rescale(length as usize)))]
}

/// What the fine-tuned model is judged with: the published methods at each length, and the plan's factors.
fn of_extended<'a>(description: &'a ModelDescription, factors: &'a FactorFile) -> Vec<(&'static str, At<'a>)> {
    let published = |baseline: Baseline, policy: AttentionFactorPolicy| {
        move |length: u32| {
            let original = description.original_length;
            let ratio = (f64::from(length) / f64::from(original)).max(1.0);
            let factors = baseline.factors(&description.geometry, original, ratio);
            Rescale { attention_factor: policy.value(ratio, original), ..Rescale::with_factors(factors) }
        }
    };
    let (none, yarn) = (AttentionFactorPolicy::None, AttentionFactorPolicy::Yarn);
    let sets: [(&'static str, At<'a>); SETS - 1] = [
        ("pi", Box::new(published(Baseline::Pi, none))),
        ("ntk", Box::new(published(Baseline::Ntk, none))),
        (YARN_PLAIN, Box::new(published(Baseline::Yarn, none))),
        ("yarn", Box::new(published(Baseline::Yarn, yarn))),
        (LONG, Box::new(|_| factors.rescale())),
        (EXTENDED, Box::new(|length| factors.rescale_for(length))),
    ];
    sets.into()
}

fn perplexity_at(set: &Judged<'_>, length: u32, rescale: &Rescale, losses: &[Loss]) -> PerplexityAt {
    PerplexityAt {
        length,
        factors: set.name.to_owned(),
        model: set.model.folder.name.clone(),
        attention_factor: rescale.attention_factor,
        start_tokens: rescale.start_tokens,
        perplexity: perplexity(losses),
        losses: losses.iter().map(Loss::mean).collect(),
    }
}

/// The result at the longest length in a line.
fn summary(report: &ExtensionReport) -> String {
    let longest = report.perplexity.last().map_or(0, |at| at.length);
    let extended = report.at(longest, EXTENDED).unwrap_or(f64::NAN);
    let yarn = report.at(longest, "yarn").unwrap_or(f64::NAN);
    let found = report.retrieval.last().map(|run| {
        let least = run.results.iter().map(|at| at.accuracy).fold(1.0, f64::min);
        format!("; pass keys found at every length: at least {:.0} %", least * 100.0)
    });
    format!("held-out perplexity at {longest} tokens {extended:.3}, YaRN {yarn:.3}{}", found.unwrap_or_default())
}
