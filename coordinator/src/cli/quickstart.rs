//! `ropewalk quickstart`: the whole job on a bundled model and bundled text.

mod assets;

use super::failure::{OrFail as _, Outcome};
use super::files::check_folder;
use super::local::{LocalSearch, Machine};
use super::options::{JsonArgs, SamplingArgs, SourceArgs};
use super::output::{self, note};
use super::prepare::{ModelFolder, prepare};
use super::search::MachineArgs;
use crate::search::ropewalk::planned;
use clap::Args;
use ropewalk_shared::job::{SearchOptions, StrategyKind};
use ropewalk_worker::model::fingerprint_dir;
use std::path::PathBuf;
use std::time::Instant;

/// The window to reach: 8 times the model's 256 tokens, as in the paper.
const TARGET_LENGTH: u32 = 2048;
/// Documents of the bundled text that the search sees; the others are held out.
const SAMPLES: usize = 5;
const HELD_OUT: usize = 10;
/// Search factors for the bundled model: 256 to 2,048 tokens in a few minutes.
///
/// Writes factors.json, the patch for transformers, plots, and the model itself, so that every other command has something
/// to work on. The same seed gives the same files.
#[derive(Args, Debug)]
pub struct QuickstartArgs {
    /// Folder for the results
    #[arg(long, value_name = "DIR", default_value = "ropewalk-quickstart")]
    out: PathBuf,

    /// Seed of every random choice
    #[arg(long, default_value_t = 0)]
    seed: u64,

    #[command(flatten)]
    machine: MachineArgs,

    #[command(flatten)]
    output: JsonArgs,
}

pub(super) async fn run(args: QuickstartArgs) -> Outcome {
    let started = Instant::now();
    check_folder(&args.out)?;
    let (model, text) = assets::write(&args.out)?;
    let strategy = StrategyKind::Ropewalk;
    let options =
        SearchOptions { strategy, seed: args.seed, evolution: strategy.options(), ..SearchOptions::default() };
    let folder = ModelFolder::open(&model)?;
    note(format!(
        "quickstart: a model with a window of {} tokens is to read {TARGET_LENGTH}; {} candidates on {SAMPLES} documents",
        folder.description.original_length,
        planned(&options).0,
    ));
    let source = SourceArgs { data: vec![text.clone()], tokens: Vec::new() };
    let sampling = SamplingArgs { samples: SAMPLES, held_out: HELD_OUT };
    let fingerprint = || fingerprint_dir(&folder.path).or_input();
    let job = prepare(&folder, fingerprint, Some("quickstart"), TARGET_LENGTH, (&source, sampling, options, None))?;

    let machine = Machine::new(args.machine, &folder, TARGET_LENGTH, SAMPLES)?;
    LocalSearch { folder: &folder, job, out: &args.out, machine, json: args.output }.run().await?;
    if !args.output.json {
        note(format!("done in {}; try next:", output::duration(started.elapsed().as_secs_f64())));
        note(format!(
            "  ropewalk eval --model {} --data {} --length 256,2048,4096 --factors none,yarn,{}",
            model.display(),
            text.display(),
            args.out.join("factors.json").display(),
        ));
        note("  ropewalk search --help    the same for your model");
    }
    Ok(())
}
