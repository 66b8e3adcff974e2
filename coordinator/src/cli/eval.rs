//! `ropewalk eval`: a model's perplexity under given factors, at given lengths.

pub(super) mod choice;
mod retrieval;

use super::failure::{Failure, OrFail as _, Outcome};
use super::options::{JsonArgs, SourceArgs, tokens};
use super::output;
use super::prepare::ModelFolder;
use choice::FactorChoice;
use clap::{Args, ValueEnum};
use indicatif::ProgressBar;
use retrieval::RetrievalArgs;
use ropewalk_shared::outcome::{Loss, perplexity};
use ropewalk_shared::rope::Rescale;
use ropewalk_shared::sample::Sample;
use ropewalk_worker::cancel::CancelFlag;
use ropewalk_worker::device::{DeviceChoice, Dtype};
use ropewalk_worker::evaluator::{Evaluator, EvaluatorOptions};
use ropewalk_worker::gradient::Gradient;
use ropewalk_worker::memory;
use ropewalk_worker::model::Model;
use serde::Serialize;
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

    /// Factors to measure: a factor file (JSON or CSV), none, pi, ntk, yarn or yarn-factors; may be given several times
    #[arg(long, value_name = "FACTORS", value_delimiter = ',', default_value = "none")]
    factors: Vec<String>,

    /// Use at most this many documents, the first that are long enough
    #[arg(long, default_value_t = 10, value_name = "N")]
    samples: usize,

    /// Also tell how the loss changes with each factor, for the price of about three evaluations (CPU only)
    #[arg(long)]
    #[arg(conflicts_with = "retrieval")]
    gradient: bool,

    /// Where to compute: cpu or cuda:N
    #[arg(long, default_value = "cpu")]
    device: DeviceChoice,

    /// Arithmetic [default: f32 on the CPU, bf16 on a GPU]
    #[arg(long, value_enum)]
    dtype: Option<DtypeArg>,

    /// Threads of the CPU [default: all cores]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,

    #[command(flatten)]
    output: JsonArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum DtypeArg {
    F32,
    Bf16,
    F16,
}

/// What is printed.
#[derive(Serialize)]
struct Report {
    model: String,
    dtype: String,
    device: String,
    results: Vec<Measurement>,
}

/// One set of factors at one length. `nll` is in nats per token, the mean over the samples' means.
#[derive(Serialize)]
struct Measurement {
    length: u32,
    factors: String,
    attention_factor: f64,
    start_tokens: u32,
    nll: f64,
    tokens: u64,
    perplexity: f64,
    seconds: f64,
    tokens_per_second: f64,
    peak_rss_mib: Option<f64>,
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
}

// Evaluations of other commands ask the same questions.
pub(super) use retrieval::Prompts;

pub(super) async fn run(args: EvalArgs) -> Outcome {
    // The evaluation owns its threads; the runtime only has to wait for it.
    tokio::task::spawn_blocking(move || evaluate(args)).await.or_work()?
}

fn evaluate(args: EvalArgs) -> Outcome {
    let folder = ModelFolder::open(&args.model)?;
    let choices: Vec<FactorChoice> =
        args.factors.iter().map(|text| FactorChoice::read(text, &folder.description)).collect::<Result<_, _>>()?;
    let mut lengths = args.length.clone();
    if lengths.is_empty() {
        lengths.push(folder.description.original_length);
    }
    let given = SourceArgs { data: args.data.clone(), tokens: args.tokens.clone() };
    let source = folder.source(&given)?;

    let dtype = args.dtype.map_or_else(|| default_dtype(args.device), DtypeArg::dtype);
    let device = args.device.open().or_input()?;
    let model = Model::load(&args.model, &device, dtype).or_input()?;
    let options = EvaluatorOptions { threads: args.threads.unwrap_or(0), ..Default::default() };
    let evaluator = Evaluator::new(model.into(), options).or_work()?;

    if args.retrieval.is_asked() {
        let source = (!given.data.is_empty() || !given.tokens.is_empty()).then_some(&source);
        return args.retrieval.run(&folder, source, &evaluator, (&choices, &lengths), args.output.json);
    }

    let mut report = Report {
        model: folder.name.clone(),
        dtype: dtype.to_string(),
        device: args.device.to_string(),
        results: Vec::new(),
    };
    for &length in &lengths {
        let samples = source.first(length, args.samples)?;
        for choice in &choices {
            let rescale = choice.at(&folder.description, length);
            report.results.push(args.measure(&evaluator, choice.name(), &rescale, &samples, length)?);
        }
    }
    if args.output.json { output::json(&report) } else { output::line(table(&report)) }
}

impl EvalArgs {
    fn measure(
        &self,
        evaluator: &Evaluator,
        name: &str,
        rescale: &Rescale,
        samples: &[Sample],
        length: u32,
    ) -> Result<Measurement, Failure> {
        memory::reset_peak();
        let bar = progress_bar(samples.len(), self.output.json);
        bar.set_message(format!("{name} at {length}"));
        let start = Instant::now();
        let mut losses: Vec<Loss> = Vec::with_capacity(samples.len());
        let mut slopes = Vec::new();
        for (done, sample) in samples.iter().enumerate() {
            let mut progress = |share: f32| bar.set_position(((done as f32 + share) * STEPS) as u64);
            let (tokens, cancel) = (sample.tokens(), CancelFlag::new());
            if self.gradient {
                let gradient = evaluator.gradient(rescale, (tokens, 0), &cancel, &mut progress).or_work()?;
                losses.push(gradient.loss);
                slopes.push(gradient);
            } else {
                losses.push(evaluator.evaluate(rescale, tokens, &cancel, &mut progress).or_work()?);
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        bar.finish_and_clear();
        let tokens = samples.iter().map(|sample| sample.tokens().len() as u64).sum::<u64>();
        let perplexity = perplexity(&losses);
        Ok(Measurement {
            length,
            factors: name.to_owned(),
            attention_factor: rescale.attention_factor,
            start_tokens: rescale.start_tokens,
            nll: perplexity.ln(),
            tokens: losses.iter().map(|loss| loss.tokens).sum(),
            perplexity,
            seconds,
            tokens_per_second: tokens as f64 / seconds,
            peak_rss_mib: memory::peak_rss_mib(),
            samples: losses.iter().map(|loss| SampleMeasurement { nll: loss.mean(), tokens: loss.tokens }).collect(),
            gradient: self.gradient.then(|| Slope::mean(&slopes, rescale.factors.len())),
        })
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
        }
    }

    fn describe(&self) -> String {
        let factors: Vec<String> = self.log_factors.iter().map(|slope| format!("{slope:+.4}")).collect();
        format!("{}\nattention factor {:+.4}", factors.join(" "), self.log_attention_factor)
    }
}

/// Steps of the bar per document.
const STEPS: f32 = 100.0;

fn progress_bar(documents: usize, quiet: bool) -> ProgressBar {
    if quiet {
        ProgressBar::hidden()
    } else {
        super::progress::bar((documents as f32 * STEPS) as u64, "{msg} {bar} {percent}%")
    }
}

fn table(report: &Report) -> String {
    let header =
        ["factors", "length", "documents", "attention factor", "loss (nats)", "perplexity", "tokens/s", "peak MiB"];
    let rows = report.results.iter().map(|result| {
        vec![
            result.factors.clone(),
            result.length.to_string(),
            result.samples.len().to_string(),
            format!("{:.4}", result.attention_factor),
            format!("{:.5}", result.nll),
            format!("{:.3}", result.perplexity),
            format!("{:.0}", result.tokens_per_second),
            result.peak_rss_mib.map_or_else(|| "-".to_owned(), |mib| format!("{mib:.0}")),
        ]
    });
    let mut text = output::columns(&header, &rows.collect::<Vec<_>>());
    for result in &report.results {
        if let Some(slope) = &result.gradient {
            let (name, length) = (&result.factors, result.length);
            text += &format!("\n\nd loss / d ln factor of {name} at {length}, by rotary pair:\n{}", slope.describe());
        }
    }
    text
}

/// The CPU computes in f32 only; GPUs are built for bf16.
fn default_dtype(device: DeviceChoice) -> Dtype {
    match device {
        DeviceChoice::Cpu => Dtype::F32,
        DeviceChoice::Cuda(_) => Dtype::Bf16,
    }
}

impl DtypeArg {
    fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::Bf16 => Dtype::Bf16,
            Self::F16 => Dtype::F16,
        }
    }
}
