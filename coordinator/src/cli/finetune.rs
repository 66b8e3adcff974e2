//! `ropewalk finetune`: trains a model under rescale factors, on this machine, in one process.

pub mod data;
pub mod options;
pub mod progress;

use super::eval::choice::FactorChoice;
use super::failure::{Failure, OrFail as _, Outcome};
use super::files::{keep_factors, write};
use super::numbers::threads;
use super::options::{JsonArgs, SourceArgs};
use super::output::{self, note};
use super::prepare::ModelFolder;
use super::typed::wrong_training;
use crate::report::loss_plot;
use anyhow::Context as _;
use clap::Args;
use options::TrainingArgs;
use progress::TrainingProgress;
use ropewalk_shared::factor_file::FactorFile;
use ropewalk_shared::training::{TrainSequence, TrainSpec};
use ropewalk_worker::train::{self, StepRecord, TrainError, TrainEvent, Trained};
use serde::Serialize;
use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Train a model under rescale factors, so that it makes good use of the window they give it.
///
/// Interrupted or killed, the same command goes on where it stopped, and ends with the same weights. The folder --out then
/// holds the model (model/), the factors it was trained with (factors.json) and its losses (loss.csv, loss.svg).
#[derive(Args, Debug)]
pub struct FinetuneArgs {
    /// Folder of the model: config.json, weights and, for --data, tokenizer.json
    #[arg(long, value_name = "DIR")]
    model: PathBuf,

    #[command(flatten)]
    source: SourceArgs,

    /// Factors to train with: a factor file (JSON or CSV; of a table the set for the window that is trained for), none, pi, ntk, yarn or
    /// yarn-factors
    #[arg(long, value_name = "FACTORS")]
    factors: String,

    /// Folder for the trained model, and for what an interrupted training needs to go on
    #[arg(long, value_name = "DIR", default_value = "ropewalk-finetune")]
    out: PathBuf,

    /// Threads [default: all cores]; the weights do not depend on it
    #[arg(long, value_name = "N", value_parser = threads)]
    threads: Option<usize>,

    #[command(flatten)]
    output: JsonArgs,

    #[command(flatten)]
    training: TrainingArgs,
}

/// What is printed in the end.
#[derive(Serialize)]
struct Report<'a> {
    model: PathBuf,
    factors: PathBuf,
    identity: &'a str,
    steps: u32,
    first_loss: f64,
    last_loss: f64,
}

pub(super) async fn run(args: FinetuneArgs) -> Outcome {
    let stop = Arc::new(AtomicBool::new(false));
    let raised = stop.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            raised.store(true, Ordering::Relaxed);
        }
    });
    // The training owns its threads; the runtime only has to wait for it.
    tokio::task::spawn_blocking(move || finetune(&args, &stop)).await.or_work()?
}

fn finetune(args: &FinetuneArgs, stop: &AtomicBool) -> Outcome {
    let folder = ModelFolder::open(&args.model)?;
    let choice = FactorChoice::read(&args.factors, &folder.description)?;
    let spec = args.training.spec(choice.at(&folder.description, args.training.reach(), None));
    args.training.check()?;
    spec.check(&folder.description).map_err(wrong_training)?;
    let is_own = |file: &FactorFile| file.search.is_none() && file.rescale() == spec.rescale;
    keep_factors(&args.out.join("factors.json"), "training", is_own)?;
    let sequences = data::sequences(&folder, &args.source, &spec)?;

    std::fs::create_dir_all(&args.out).with_context(|| format!("--out {}", args.out.display())).or_input()?;
    let trained = train_on_pool(args, &folder, &spec, &sequences, stop)?;
    write(&args.out.join("loss.csv"), &csv(&trained.curve))?;
    write(&args.out.join("loss.svg"), &loss_plot(&title(&folder, &spec), &points(&trained.curve)).or_work()?)?;
    let mut factors = FactorFile::from_rescale(spec.rescale.clone());
    factors.original_length = Some(folder.description.original_length);
    factors.target_length = Some(spec.reach());
    write(&args.out.join("factors.json"), &factors.to_json().or_work()?)?;
    report(args, &trained)
}

fn train_on_pool(
    args: &FinetuneArgs,
    folder: &ModelFolder,
    spec: &TrainSpec,
    sequences: &[TrainSequence],
    stop: &AtomicBool,
) -> Result<Trained, Failure> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(args.threads.unwrap_or(0)).build().or_work()?;
    let mut progress = TrainingProgress::new(spec.steps, args.output.json);
    let (work, out) = (args.out.join("checkpoints"), args.out.join("model"));
    let mut told = Ok(());
    let trained = pool.install(|| {
        let mut tell = |event: TrainEvent| {
            if told.is_ok() {
                told = progress.update(&event);
            }
            let go_on = told.is_ok() && !stop.load(Ordering::Relaxed);
            if go_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        train::run(&folder.path, spec, sequences, &work, &out, &mut tell)
    });
    progress.finish();
    told?;
    trained.map_err(failure)
}

/// Sorts what went wrong into wrong input and failed work.
pub fn failure(error: TrainError) -> Failure {
    Failure::sorted(error.is_input(), error)
}

/// Steps as CSV, one a line.
pub fn csv(curve: &[StepRecord]) -> String {
    let mut text = "step,loss,long,short,gradient_norm,learning_rate,tokens\n".to_owned();
    let or_empty = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
    for step in curve {
        let (long, short) = (or_empty(step.long), or_empty(step.short));
        let StepRecord { step, loss, gradient_norm, learning_rate, tokens, .. } = step;
        // Writing to a text cannot fail.
        let _ = writeln!(text, "{step},{loss},{long},{short},{gradient_norm},{learning_rate},{tokens}");
    }
    text
}

/// Losses for a plot: all sequences, long windows, short windows.
pub fn points(curve: &[StepRecord]) -> Vec<loss_plot::Losses> {
    let of = |record: &StepRecord| loss_plot::Losses {
        step: record.step,
        all: record.loss,
        long: record.long,
        short: record.short,
    };
    curve.iter().map(of).collect()
}

fn title(folder: &ModelFolder, spec: &TrainSpec) -> String {
    format!("Fine-tuning of {} at {} tokens", folder.name, spec.length)
}

fn report(args: &FinetuneArgs, trained: &Trained) -> Outcome {
    let loss = |record: Option<&StepRecord>| record.map_or(f64::NAN, |record| record.loss);
    let (first, last) = (loss(trained.curve.first()), loss(trained.curve.last()));
    let path = |name: &str| args.out.join(name);
    if args.output.json {
        return output::json(&Report {
            model: path("model"),
            factors: path("factors.json"),
            identity: &trained.identity,
            steps: trained.spec.steps,
            first_loss: first,
            last_loss: last,
        });
    }
    note(format!(
        "{} steps, loss {first:.4} to {last:.4}; loss.csv, loss.svg and factors.json beside it",
        trained.spec.steps
    ));
    note(next_command(&path("model"), &path("factors.json"), trained.spec.reach()));
    output::line(path("model").display().to_string())
}

fn next_command(model: &Path, factors: &Path, length: u32) -> String {
    let (model, factors) = (model.display(), factors.display());
    format!("next: ropewalk eval --model {model} --data PATH --length {length} --factors {factors}")
}
