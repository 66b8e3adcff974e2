//! `ropewalk eval`: a model's perplexity under given factors, at given lengths.

pub(super) mod choice;
mod names;
mod progress;
mod retrieval;
mod sliding;
mod table;

use super::device::DeviceArgs;
use super::failure::{Failure, OrFail as _, Outcome};
use super::numbers::{count, threads};
use super::options::{JsonArgs, SourceArgs, tokens};
use super::output;
use super::prepare::{ModelFolder, Source};
use super::stop::stop_signal;
use choice::FactorChoice;
use clap::{Args, ValueEnum};
use progress::Progress;
use retrieval::RetrievalArgs;
use ropewalk_shared::model_description::ModelDescription;
use ropewalk_shared::outcome::{Loss, perplexity};
use ropewalk_shared::sample::Sample;
use ropewalk_worker::cancel::CancelFlag;
use ropewalk_worker::device::Dtype;
use ropewalk_worker::evaluator::{Evaluator, EvaluatorOptions};
use ropewalk_worker::gradient::Gradient;
use ropewalk_worker::ledger::Ledger;
use ropewalk_worker::memory;
use ropewalk_worker::perplexity::EvalError;
use serde::Serialize;
use sliding::Sliding;
use std::path::PathBuf;
use std::time::Instant;

/// Measure a model's perplexity under given factors, or how often it finds a hidden number.
#[derive(Args, Debug)]
pub struct EvalArgs {
    /// Folder of the model: config.json, weights and, for --data, tokenizer.json
    #[arg(long, value_name = "DIR")]
    model: PathBuf,

    /// Text to read: .txt, .md, .jsonl with "text", .parquet with a text column, or folders of these
    #[arg(long, value_name = "PATH", num_args = 1.., conflicts_with = "tokens")]
    #[arg(required_unless_present_any = ["tokens", "retrieval"])]
    data: Vec<PathBuf>,

    /// Token ids to read: JSON Lines with "input_ids", used as they are (no tokenizer needed)
    #[arg(long, value_name = "PATH", num_args = 1..)]
    tokens: Vec<PathBuf>,

    #[command(flatten)]
    retrieval: RetrievalArgs,

    /// Lengths in tokens, for example 4096,32k [default: the model's original length]
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = tokens)]
    length: Vec<u32>,

    /// Factors to measure: a factor file (JSON or CSV; of a factor table the set for each length), none, pi, ntk, yarn,
    /// yarn-factors or dynamic-ntk; may be given several times
    #[arg(long, value_name = "FACTORS", value_delimiter = ',', default_value = "none")]
    factors: Vec<String>,

    /// Scale pi, ntk and yarn to this window at every length, as a deployed model has them [default: to each length, which
    /// makes ntk and dynamic-ntk the same]
    #[arg(long, value_name = "N", value_parser = tokens)]
    target_length: Option<u32>,

    /// Perplexity by sliding windows of --length tokens, this many tokens apart: the first window of a document counts
    /// whole, later ones their last N tokens, and the mean is over all windows
    #[arg(long, value_name = "N", value_parser = tokens, conflicts_with_all = ["gradient", "retrieval"])]
    sliding_window: Option<u32>,

    /// Tokens of each document that windows slide over [default: twice the length]
    #[arg(long, value_name = "N", value_parser = tokens, requires = "sliding_window")]
    document_tokens: Option<u32>,

    /// Use at most this many documents, the first that are long enough
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = |text: &str| count(text, 1 << 20))]
    #[arg(conflicts_with = "retrieval")]
    samples: usize,

    /// Also tell how the loss changes with each factor, for the price of about three evaluations (CPU only)
    #[arg(long)]
    #[arg(conflicts_with = "retrieval")]
    gradient: bool,

    #[command(flatten)]
    device: DeviceArgs,

    /// Number format [default: f32 on the CPU, bf16 on a GPU]. On the CPU bf16 takes half the memory, and f32-fast is bf16x3
    /// where there is AMX; f16 is for GPUs
    #[arg(long, value_enum)]
    dtype: Option<DtypeArg>,

    /// Threads of the CPU [default: all cores]
    #[arg(long, value_name = "N", value_parser = threads)]
    threads: Option<usize>,

    #[command(flatten)]
    output: JsonArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum DtypeArg {
    F32,
    F32Fast,
    Bf16,
    F16,
}

/// What is printed.
#[derive(Serialize)]
struct Report {
    model: String,
    dtype: String,
    device: String,
    /// Name of the kernels that ran.
    kernels: String,
    /// Whether more was asked for, and what was finished is here.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    interrupted: bool,
    results: Vec<Measurement>,
}

/// One set of factors at one length. `nll` is in nats per token, the mean over the samples' means.
#[derive(Serialize)]
struct Measurement {
    length: u32,
    factors: String,
    attention_factor: f64,
    start_tokens: u32,
    /// Of a factor table, where the window begins whose set this is, in tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    window_from: Option<u32>,
    /// Stride of sliding windows; `samples` are then windows.
    #[serde(skip_serializing_if = "Option::is_none")]
    sliding_window: Option<u32>,
    documents: usize,
    nll: f64,
    tokens: u64,
    perplexity: f64,
    seconds: f64,
    tokens_per_second: f64,
    /// The most that was resident while the model was loaded, or while this was measured if that is more.
    peak_rss_mib: Option<f64>,
    /// What lay where.
    placement: String,
    /// The most that was alive on any of the devices, weights included.
    peak_device_mib: f64,
    samples: Vec<SampleMeasurement>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gradient: Option<Slope>,
}

#[derive(Serialize)]
struct SampleMeasurement {
    nll: f64,
    tokens: u64,
}

/// Derivatives of `nll`: how many nats per token a factor that is larger by 1 % costs, times 100.
#[derive(Serialize)]
struct Slope {
    log_factors: Vec<f64>,
    log_attention_factor: f64,
    /// By the attention factor of each pair; their sum is the number above.
    log_pair_attention: Vec<f64>,
}

// Evaluations of other commands ask the same questions.
pub(super) use retrieval::Prompts;

pub(super) async fn run(args: EvalArgs) -> Outcome {
    // The evaluation owns its threads; the runtime only has to wait for it.
    tokio::task::spawn_blocking(move || evaluate(args)).await.or_work()?
}

fn evaluate(args: EvalArgs) -> Outcome {
    let folder = ModelFolder::open(&args.model)?;
    let choices = FactorChoice::read_all(&args.factors, &folder.description)?;
    let mut lengths: Vec<u32> = Vec::new();
    for &length in &args.length {
        if !lengths.contains(&length) {
            lengths.push(length);
        }
    }
    if lengths.is_empty() {
        lengths.push(folder.description.original_length);
    }
    if lengths.contains(&1) {
        return Err(Failure::input_message("--length 1: a document of less than 2 tokens has nothing to predict"));
    }
    let is_file = |choice: &FactorChoice| matches!(choice, FactorChoice::None | FactorChoice::File { .. });
    if args.target_length.is_some() && choices.iter().all(is_file) {
        return Err(Failure::input_message(
            "--target-length scales the published methods (pi, ntk, yarn, yarn-factors), and --factors names none of them",
        ));
    }
    let given = SourceArgs { data: args.data.clone(), tokens: args.tokens.clone() };
    let source = folder.source(&given)?;

    // Of all lengths first: nothing is measured in vain.
    let drawn: Vec<(u32, Documents)> = match args.retrieval.is_asked() {
        true => Vec::new(),
        false => lengths
            .iter()
            .map(|&length| Ok((length, args.samples(&source, length)?)))
            .collect::<Result<_, Failure>>()?,
    };
    let devices = args.device.devices();
    let dtype = args.dtype.map_or_else(|| devices.usual_dtype(), DtypeArg::dtype);
    if args.gradient && !(devices.is_cpu() && dtype == Dtype::F32) {
        return Err(Failure::input_message(format!(
            "--gradient is computed on the CPU in 32-bit numbers: leave out --device and --dtype (they are {devices} and {dtype} now)"
        )));
    }
    let (threads, device_memory) = (args.threads.unwrap_or(0), args.device.device_memory);
    let options = EvaluatorOptions { threads, device_memory, ..EvaluatorOptions::on(devices.is_cpu()) };
    let longest = lengths.iter().copied().max().unwrap_or(2) as usize;
    choice::note_other_weights(&choices, &folder)?;
    memory::reset_peak();
    let evaluator = Evaluator::open(&args.model, &devices.open().or_input()?, dtype, longest, options).or_input()?;
    let loading_mib = memory::peak_rss_mib();
    let cancel = raised_by_signals();

    if args.retrieval.is_asked() {
        let source = (!given.data.is_empty() || !given.tokens.is_empty()).then_some(&source);
        let run = (&choices[..], &lengths[..], args.target_length);
        return args.retrieval.run(&folder, source, &evaluator, run, (&cancel, args.output.json));
    }

    let mut report = Report {
        model: folder.name.clone(),
        dtype: dtype.to_string(),
        device: devices.to_string(),
        kernels: evaluator.model().kernels_name(),
        interrupted: false,
        results: Vec::new(),
    };
    let asked = drawn.len() * choices.len();
    let mut progress = Progress::of(asked);
    'lengths: for (length, documents) in &drawn {
        for choice in &choices {
            let course = (&mut progress, &cancel);
            let measured = args.measure(&evaluator, (choice, &folder.description), (documents, *length), course);
            let Some(mut result) = unless_interrupted(measured)? else { break 'lengths };
            result.peak_rss_mib =
                result.peak_rss_mib.zip(loading_mib).map(|(measuring, loading)| measuring.max(loading));
            report.results.push(result);
        }
    }
    progress.end();
    report.interrupted = report.results.len() < asked;
    if args.output.json {
        output::json(&report)?
    } else if !report.results.is_empty() {
        output::line(table::table(&report))?
    }
    if report.interrupted {
        return Err(interrupted(report.results.len(), asked));
    }
    report.check()
}

/// A flag that is raised when the process is asked to stop. Until then a signal ends the process, which loses nothing:
/// there are no results yet.
fn raised_by_signals() -> CancelFlag {
    let cancel = CancelFlag::new();
    let (stop, raised) = (stop_signal(), cancel.clone());
    tokio::spawn(async move {
        stop.await;
        raised.cancel();
    });
    cancel
}

/// What was measured, or nothing where it was interrupted.
fn unless_interrupted<T>(measured: Result<T, Failure>) -> Result<Option<T>, Failure> {
    match measured.map_err(Failure::downcast::<EvalError>) {
        Ok(measured) => Ok(Some(measured)),
        Err(Ok(EvalError::Cancelled)) => Ok(None),
        Err(Ok(error)) => Err(Failure::work(error)),
        Err(Err(failure)) => Err(failure),
    }
}

/// How an interrupted command ends; what it finished is printed before.
fn interrupted(done: usize, asked: usize) -> Failure {
    Failure::work_message(format!("interrupted; {done} of {asked} measurements were finished"))
}

impl Report {
    /// What has no loss was not measured, though it was evaluated.
    fn check(&self) -> Outcome {
        let lost = self.results.iter().filter(|result| !result.nll.is_finite());
        let lost: Vec<String> = lost.map(|result| format!("{} at {}", result.factors, result.length)).collect();
        if lost.is_empty() {
            return Ok(());
        }
        Err(Failure::work_message(format!(
            "the loss is no finite number under {}: look for NaN in the weights, for factors that are far off, or try --dtype \
             f32 where another was used",
            lost.join(", ")
        )))
    }
}

impl EvalArgs {
    /// Documents of a length, or with sliding windows one document after the other in overlapping parts.
    fn samples(&self, source: &Source<'_>, length: u32) -> Result<Documents, Failure> {
        let Some(stride) = self.sliding_window else {
            let samples = source.first(length, self.samples)?;
            return Ok(Documents { units: samples.len(), samples, sliding: None });
        };
        let tokens = self.document_tokens.unwrap_or(length.saturating_mul(2));
        if length < 3 || stride > length - 2 || tokens < length {
            return Err(Failure::input_message(format!(
                "--sliding-window {stride} with windows of {length} tokens over {tokens}: the stride must leave windows that \
                 overlap (at most {}), and a document hold one window at least",
                length.saturating_sub(2)
            )));
        }
        let samples = source.first(tokens, self.samples)?;
        let sliding = Sliding { length: length as usize, stride: stride as usize, begin: source.begin() };
        Ok(Documents { units: samples.len() * sliding.count(tokens as usize), samples, sliding: Some(sliding) })
    }

    fn measure(
        &self,
        evaluator: &Evaluator,
        (choice, description): (&FactorChoice, &ModelDescription),
        (documents, length): (&Documents, u32),
        (progress, cancel): (&mut Progress, &CancelFlag),
    ) -> Result<Measurement, Failure> {
        memory::reset_peak();
        let ledgers = evaluator.model().ledgers();
        ledgers.iter().for_each(Ledger::reset_peak);
        let rescale = choice.at(description, length, self.target_length);
        let unit = if documents.sliding.is_some() { "windows" } else { "documents" };
        progress.begin((choice.name(), length), (documents.units, unit));
        let start = Instant::now();
        let mut losses: Vec<Loss> = Vec::with_capacity(documents.units);
        let (mut slopes, mut read) = (Vec::new(), 0);
        documents.each(|sample| {
            let done = losses.len();
            let mut tell = |share: f32| progress.at(done, share);
            let (tokens, from) = (sample.tokens(), sample.counted_from() as usize);
            read += tokens.len();
            losses.push(if self.gradient {
                let gradient = evaluator.gradient(&rescale, (tokens, from), cancel, &mut tell).or_work()?;
                let loss = gradient.loss;
                slopes.push(gradient);
                loss
            } else if sample.shape().is_whole() {
                evaluator.evaluate(&rescale, tokens, cancel, &mut tell).or_work()?
            } else {
                evaluator.evaluate_counted(&rescale, tokens, from, cancel, &mut tell).or_work()?.loss
            });
            Ok(())
        })?;
        let seconds = start.elapsed().as_secs_f64();
        progress.end();
        let perplexity = perplexity(&losses);
        Ok(Measurement {
            length,
            factors: choice.name().to_owned(),
            attention_factor: rescale.attention_factor,
            start_tokens: rescale.start_tokens,
            window_from: choice.window_from(length),
            sliding_window: self.sliding_window,
            documents: documents.samples.len(),
            nll: perplexity.ln(),
            tokens: losses.iter().map(|loss| loss.tokens).sum(),
            perplexity,
            seconds,
            tokens_per_second: read as f64 / seconds,
            peak_rss_mib: memory::peak_rss_mib(),
            placement: evaluator.placement(length as usize).or_work()?.to_string(),
            peak_device_mib: ledgers.iter().map(Ledger::peak).max().unwrap_or(0) as f64 / f64::from(1 << 20),
            samples: losses.iter().map(|loss| SampleMeasurement { nll: loss.mean(), tokens: loss.tokens }).collect(),
            gradient: self.gradient.then(|| Slope::mean(&slopes, rescale.factors.len())),
        })
    }
}

/// What is evaluated at one length.
struct Documents {
    samples: Vec<Sample>,
    sliding: Option<Sliding>,
    /// Documents, or windows of all of them.
    units: usize,
}

impl Documents {
    /// Hands over document by document, or window by window: those of one document need not be held at once.
    fn each(&self, mut evaluate: impl FnMut(&Sample) -> Outcome) -> Outcome {
        for sample in &self.samples {
            match self.sliding {
                None => evaluate(sample)?,
                Some(sliding) => {
                    sliding.windows(sample.tokens()).try_for_each(|window| evaluate(&window.or_input()?))?;
                }
            }
        }
        Ok(())
    }
}

impl Slope {
    /// The derivatives of the mean over samples of the per-sample mean.
    fn mean(gradients: &[Gradient], pairs: usize) -> Self {
        let mean = |part: &dyn Fn(&Gradient) -> f64| {
            let per_token = gradients.iter().map(|gradient| part(gradient) / gradient.loss.tokens as f64);
            per_token.sum::<f64>() / gradients.len() as f64
        };
        Self {
            log_factors: (0..pairs).map(|pair| mean(&|gradient: &Gradient| gradient.log_factors[pair])).collect(),
            log_attention_factor: mean(&|gradient| gradient.log_attention_factor),
            log_pair_attention: (0..pairs)
                .map(|pair| mean(&|gradient: &Gradient| gradient.log_pair_attention[pair]))
                .collect(),
        }
    }

    fn describe(&self) -> String {
        let list = |slopes: &[f64]| slopes.iter().map(|slope| format!("{slope:+.4}")).collect::<Vec<_>>().join(" ");
        format!(
            "{}\nattention factor {:+.4}, by pair {}",
            list(&self.log_factors),
            self.log_attention_factor,
            list(&self.log_pair_attention)
        )
    }
}

impl DtypeArg {
    fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::F32Fast => Dtype::F32Fast,
            Self::Bf16 => Dtype::Bf16,
            Self::F16 => Dtype::F16,
        }
    }
}
