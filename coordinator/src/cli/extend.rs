//! `ropewalk extend`: the whole method. A plan's stages run one after another, and what is done is never repeated.
//!
//! The folder `--out` is the plan's whole state. Every stage has a folder in it, and a `result.json` that is written last and
//! whole, with the identity of everything that determined it. So the command is its own resumption: killed at any moment and
//! typed again, it passes over what is done and goes on inside the stage it died in, whose search has its store, whose
//! training its checkpoints and whose evaluation its measurements. Searches and trainings are jobs like any other, of a coordinator in
//! this process or of one that outlives it. With --detach the plan is such a job, too: the coordinator runs this same code in a
//! process of its own ([`carry`]), as often as it takes.

mod carry;
mod command;
mod detach;
mod documents;
mod evaluate;
mod export;
mod finetune;
mod folder;
mod forecast;
mod foreseen;
mod former;
mod inputs;
mod order;
mod remote;
mod runner;
mod search;
mod status;

pub use carry::{CarryArgs, carry};

use super::access::AccessArgs;
use super::failure::{Failure, OrFail as _, Outcome};
use super::files::check_folder;
use super::numbers::tflops as speed;
use super::options::JsonArgs;
use super::search::MachineArgs;
use crate::plan::{Plan, presets};
use anyhow::Context as _;
use clap::Args;
use clap::builder::PossibleValuesParser;
use std::path::{Path, PathBuf};

/// Run a plan: searches, fine-tuning, a second search, recovery of short windows, evaluation and export.
///
/// Killed or interrupted, the same command goes on where it stopped. Everything is kept in --out, with a folder for each stage
/// and the models that were made in models/. With --check nothing runs: what each stage would take is printed. With --detach
/// a coordinator carries the plan out, and goes on by itself whatever is killed.
#[derive(Args, Debug)]
pub struct ExtendArgs {
    /// The plan, a TOML file with a [[stage]] for each step
    #[arg(value_name = "PLAN.toml", required_unless_present_any = ["preset", "status"], conflicts_with = "preset")]
    plan: Option<PathBuf>,

    /// A plan that comes with the program
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(presets::ALL.map(|(name, _)| name)))]
    preset: Option<String>,

    /// Folder of the model to extend: config.json, weights and, for text, tokenizer.json
    #[arg(long, value_name = "DIR", required_unless_present = "status")]
    model: Option<PathBuf>,

    /// Documents to train on: .txt, .md, .jsonl with "text", .parquet with a text column, or folders of these
    #[arg(long, value_name = "PATH", num_args = 1..)]
    data: Vec<PathBuf>,

    /// Long documents to search and to judge on, of the same forms
    #[arg(long, value_name = "PATH", num_args = 1..)]
    valid: Vec<PathBuf>,

    /// Documents are token ids, JSON Lines with "input_ids", used as they are (no tokenizer needed)
    #[arg(long)]
    token_ids: bool,

    /// Folder for everything that the plan makes, and for what an interrupted plan needs to go on
    #[arg(long, value_name = "DIR", default_value = "ropewalk-extend")]
    out: PathBuf,

    /// Search and train on this coordinator's workers, and not in this process. Workers find the plan's models below --out
    /// in models/ (their --model-root); those that train see --out itself (their --train-root)
    #[arg(long, value_name = "URL")]
    coordinator: Option<String>,

    #[command(flatten)]
    access: AccessArgs,

    /// Train in this process, though searches run on the coordinator's workers
    #[arg(long, requires = "coordinator")]
    train_here: bool,

    /// Hand the plan over to the coordinator, which carries it out by itself, and print the job's id. The coordinator sees --out
    /// (its --plan-root), the model and the documents under the same paths as this machine
    #[arg(long, requires = "coordinator", conflicts_with_all = ["check", "status"])]
    detach: bool,

    /// Print what every stage would take, and everything that is wrong or missing; nothing runs
    #[arg(long, conflicts_with_all = ["status", "from"])]
    check: bool,

    /// TFLOP/s that one worker sustains, for --check [default: a few are shown]
    #[arg(long, value_name = "TFLOPS", requires = "check", value_parser = speed)]
    tflops: Option<f64>,

    /// Repeat this stage, and all that need its result: what they made is set aside
    #[arg(long, value_name = "STAGE")]
    from: Option<String>,

    /// Show how the plan in --out stands
    #[arg(long, conflicts_with_all = ["from", "preset", "plan"])]
    status: bool,

    #[command(flatten)]
    machine: MachineArgs,

    #[command(flatten)]
    output: JsonArgs,

    /// Whether this process carries the plan out for a coordinator, which hears of stages and shows jobs itself.
    #[arg(skip)]
    carried: bool,
}

pub(super) async fn run(args: ExtendArgs) -> Outcome {
    check_folder(&args.out)?;
    if args.status {
        return status::run(&args.out, args.output);
    }
    let (plan, text) = args.plan()?;
    if let Some(from) = args.from.as_ref().filter(|from| plan.stage(from).is_none()) {
        let names: Vec<&str> = plan.stages.iter().map(|stage| stage.name.as_str()).collect();
        let message = format!("--from {from}: no such stage; the plan has {}", names.join(", "));
        return Err(Failure::input_message(message));
    }
    if args.check {
        return forecast::run(&args, plan);
    }
    let inputs = inputs::Inputs::open(&args, plan)?;
    if args.detach {
        return detach::run(&args, &inputs, text).await;
    }
    runner::Runner::new(&args, &inputs, folder::PlanFolder::open(&args.out)?)?.run().await
}

// === impl ExtendArgs ===

impl ExtendArgs {
    /// The plan, and its text.
    fn plan(&self) -> Result<(Plan, String), Failure> {
        let preset = self.preset.as_deref().and_then(presets::text);
        match (&self.plan, preset) {
            (Some(path), _) => {
                let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
                let text = text.or_input()?;
                let plan = Plan::read(&text).with_context(|| path.display().to_string()).or_input()?;
                Ok((plan, text))
            }
            (None, Some(text)) => Ok((Plan::read(text).or_input()?, text.to_owned())),
            (None, None) => Err(Failure::input_message("name a plan, or a --preset")),
        }
    }

    /// The form of what is said of jobs that stages wait for.
    fn of_jobs(&self) -> JsonArgs {
        JsonArgs { json: self.output.json && !self.carried }
    }

    fn model(&self) -> Result<&Path, Failure> {
        self.model.as_deref().ok_or_else(|| Failure::input_message("name the folder of the model with --model"))
    }
}
