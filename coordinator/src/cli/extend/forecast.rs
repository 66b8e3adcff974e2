//! `ropewalk extend --check`: what every stage would take, and what is wrong or missing. Nothing runs.

use super::ExtendArgs;
use super::evaluate::SETS;
use super::inputs::Inputs;
use crate::cli::failure::{Failure, OrFail as _, Outcome};
use crate::cli::output;
use crate::cli::plan::SPEEDS;
use crate::cli::prepare::ModelFolder;
use crate::documents::PER_DOCUMENT;
use crate::engine::SearchPasses;
use crate::plan::{FinetuneStage, InvalidPlan, Plan, Stage, Training, Work};
use ropewalk_worker::cost::{self, Format, Load, Memory};
use ropewalk_worker::model::config::DecoderSpec;
use ropewalk_worker::train;
use serde::Serialize;

const GIB: f64 = (1u64 << 30) as f64;
/// A gradient step runs a sequence forward, once more for what was not kept, and back, which is twice a forward pass.
const PASSES_OF_A_STEP: f64 = 4.0;

/// What is predicted of a plan.
#[derive(Serialize)]
struct Forecast<'a> {
    plan: &'a str,
    model: &'a str,
    stages: Vec<StageForecast<'a>>,
    /// TFLOP/s for which `seconds` of the stages are given.
    tflops: Vec<f64>,
    problems: Vec<String>,
}

/// What is predicted of a stage.
#[derive(Serialize)]
struct StageForecast<'a> {
    stage: &'a str,
    kind: &'a str,
    from: &'a str,
    /// Longest sequence, in tokens.
    length: Option<u32>,
    /// Candidates evaluated if nothing stops the searches early; steps of a training.
    evaluations: u64,
    /// Sequences that go through the model.
    passes: u64,
    tokens: u64,
    /// Of one worker.
    memory_gib: f64,
    tflop: f64,
    /// At each speed, on one worker.
    seconds: Vec<f64>,
    /// What cannot be told from here.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'static str>,
}

/// Predicts from one model's shape.
struct Predictor<'a> {
    plan: &'a Plan,
    folder: &'a ModelFolder,
    spec: DecoderSpec,
    /// How numbers are kept where it is evaluated.
    format: Format,
    /// Tokens that go through a layer at a time.
    chunk: usize,
    speeds: Vec<f64>,
}

/// Prints the forecast; a plan that cannot be run fails after it.
pub fn run(args: &ExtendArgs, plan: Plan) -> Outcome {
    let (_, problems) = Inputs::checked(args, plan.clone())?;
    let folder = ModelFolder::open(args.model()?)?;
    let spec = DecoderSpec::from_config_json(&folder.config_json).or_input()?;
    let devices = args.machine.device.devices();
    let format = Format::on(devices.is_cpu(), devices.usual_dtype());
    let chunk = cost::chunk_tokens(format.cpu);
    let speeds = args.tflops.map_or(SPEEDS.to_vec(), |tflops| vec![tflops]);
    let predictor = Predictor { plan: &plan, folder: &folder, spec, format, chunk, speeds };
    let forecast = Forecast {
        plan: &plan.name,
        model: &folder.name,
        stages: plan.stages.iter().map(|stage| predictor.stage(stage)).collect(),
        tflops: predictor.speeds.clone(),
        problems: problems.iter().map(ToString::to_string).collect(),
    };
    if args.output.json {
        output::json(&forecast)?
    } else {
        output::line(forecast.describe())?
    }
    if problems.is_empty() { Ok(()) } else { Err(Failure::input(InvalidPlan { problems })) }
}

// === impl Predictor ===

impl Predictor<'_> {
    fn stage<'s>(&self, stage: &'s Stage) -> StageForecast<'s> {
        let mut forecast = StageForecast {
            stage: &stage.name,
            kind: stage.work.kind(),
            from: stage.from.as_deref().unwrap_or("model"),
            length: None,
            evaluations: 0,
            passes: 0,
            tokens: 0,
            memory_gib: 0.0,
            tflop: 0.0,
            seconds: Vec::new(),
            note: None,
        };
        match &stage.work {
            Work::Search(_) | Work::Recover(_) => self.searches(stage, &mut forecast),
            Work::Evaluate(evaluate) => {
                let documents = evaluate.samples.min(self.plan.held_out) as u64;
                for &length in &evaluate.lengths {
                    self.add(&mut forecast, length, SETS as u64 * documents);
                }
                if let Some(task) = &evaluate.retrieval {
                    for &length in &task.lengths {
                        self.add(&mut forecast, length, 2 * u64::from(task.depths) * u64::from(task.trials));
                    }
                }
            }
            Work::Finetune(tune) => self.training(tune, &mut forecast),
            Work::Export(_) => {}
        }
        forecast.seconds = self.speeds.iter().map(|speed| forecast.tflop / speed).collect();
        forecast
    }

    fn searches(&self, stage: &Stage, forecast: &mut StageForecast<'_>) {
        for (length, samples, options) in stage.work.searches() {
            let planned = SearchPasses::planned(options, samples, self.plan.held_out, PER_DOCUMENT);
            forecast.evaluations += planned.evaluations;
            for (length, passes) in planned.short.into_iter().chain([(length, planned.long)]) {
                self.add(forecast, length, passes);
            }
        }
    }

    fn training(&self, tune: &FinetuneStage, forecast: &mut StageForecast<'_>) {
        match &tune.training {
            Training::Embedded { settings } => {
                let Some(spec) = super::finetune::expected(settings, self.folder) else { return };
                self.add(forecast, spec.length, u64::from(spec.steps) * u64::from(spec.sequences_per_step));
                forecast.evaluations = spec.steps.into();
                forecast.tflop *= PASSES_OF_A_STEP;
                forecast.memory_gib = train::bytes(&self.spec, &spec, spec.length as usize) as f64 / GIB;
            }
            Training::Command { steps, length, .. } => {
                (forecast.evaluations, forecast.length) = (u64::from(steps.unwrap_or(0)), *length);
                forecast.note = Some("what the command takes is not known here");
            }
            Training::Checkpoint { .. } => forecast.note = Some("done before"),
        }
    }

    /// Adds passes of documents of one length.
    fn add(&self, forecast: &mut StageForecast<'_>, length: u32, passes: u64) {
        let (spec, format, chunk_tokens, tokens) = (&self.spec, self.format, self.chunk, length as usize);
        let memory = Memory::of(Load { spec, format, chunk_tokens, tokens });
        let work = cost::Work::of(&self.spec, length as usize);
        forecast.length = forecast.length.max(Some(length));
        forecast.passes += passes;
        forecast.tokens += passes * u64::from(length);
        forecast.memory_gib = forecast.memory_gib.max(memory.total() as f64 / GIB);
        forecast.tflop += passes as f64 * work.total() / 1e12;
    }
}

// === impl Forecast ===

impl Forecast<'_> {
    fn describe(&self) -> String {
        let speeds: Vec<String> = self.tflops.iter().map(|speed| format!("at {speed} TFLOP/s")).collect();
        let mut header = vec!["stage", "kind", "from", "length", "evaluations", "passes", "tokens", "GiB", "TFLOP"];
        header.extend(speeds.iter().map(String::as_str));
        let shown = |known: bool, text: String| if known { text } else { "-".to_owned() };
        let mut rows: Vec<Vec<String>> = Vec::new();
        for stage in &self.stages {
            let known = stage.passes > 0;
            let mut row = vec![
                stage.stage.to_owned(),
                stage.kind.to_owned(),
                stage.from.to_owned(),
                stage.length.map_or_else(|| "-".to_owned(), |length| length.to_string()),
                shown(stage.evaluations > 0, stage.evaluations.to_string()),
                shown(known, stage.passes.to_string()),
                shown(known, stage.tokens.to_string()),
                shown(known, format!("{:.2}", stage.memory_gib)),
                shown(known, format!("{:.3}", stage.tflop)),
            ];
            row.extend(stage.seconds.iter().map(|&seconds| shown(known, output::duration(seconds))));
            rows.push(row);
        }
        let mut total = vec![String::new(); header.len()];
        total[0] = "all".to_owned();
        total[5] = self.stages.iter().map(|stage| stage.passes).sum::<u64>().to_string();
        total[6] = self.stages.iter().map(|stage| stage.tokens).sum::<u64>().to_string();
        total[8] = format!("{:.3}", self.stages.iter().map(|stage| stage.tflop).sum::<f64>());
        for (at, speed) in self.tflops.iter().enumerate() {
            let seconds: f64 = self.stages.iter().map(|stage| stage.tflop / speed).sum();
            total[9 + at] = output::duration(seconds);
        }
        rows.push(total);
        let mut text =
            format!("plan {} on {}, times on one worker\n\n{}", self.plan, self.model, output::columns(&header, &rows));
        for stage in self.stages.iter().filter_map(|stage| Some(format!("\n{}: {}", stage.stage, stage.note?))) {
            text += &stage;
        }
        text
    }
}
