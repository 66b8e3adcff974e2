//! The command line: one file a command, and what commands share.
//!
//! Data goes to standard output; progress, hints and errors to standard error. Exit status: 0 done, 1 the work
//! failed, 2 wrong usage or input.

pub mod failure;
pub mod output;

mod access;
mod budget;
mod compare;
mod control;
#[cfg(feature = "local")]
mod device;
#[cfg(feature = "local")]
mod eval;
mod export;
#[cfg(feature = "local")]
mod extend;
mod factors;
mod files;
#[cfg(feature = "local")]
mod finetune;
#[cfg(feature = "local")]
mod forecast;
mod init;
mod jobs;
mod launch;
#[cfg(feature = "local")]
mod local;
mod logging;
mod needle;
mod numbers;
mod options;
#[cfg(feature = "local")]
mod plan;
mod prepare;
mod progress;
#[cfg(feature = "local")]
mod quickstart;
#[cfg(feature = "local")]
mod results;
#[cfg(feature = "local")]
mod search;
mod serve;
mod status;
mod stop;
mod typed;
mod watch;
mod workers;

use clap::{Parser, Subcommand};
use failure::{Failure, Outcome};

/// Stretch the context window of a language model: search the RoPE rescale factors that keep its perplexity low.
#[derive(Debug, Parser)]
#[command(name = "ropewalk", version, propagate_version = true, max_term_width = 100, arg_required_else_help = true)]
#[command(after_help = "New here? `ropewalk quickstart` searches factors for a bundled model in a few minutes.")]
pub struct Cli {
    /// What is logged, and how.
    #[command(flatten)]
    pub logging: logging::LoggingArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[cfg(feature = "local")]
    Quickstart(quickstart::QuickstartArgs),
    #[cfg(feature = "local")]
    Search(Box<search::SearchCommand>),
    Serve(serve::ServeArgs),
    Launch(Box<launch::LaunchArgs>),
    Jobs(jobs::JobsArgs),
    Status(status::StatusArgs),
    Watch(watch::WatchArgs),
    Pause(control::PauseArgs),
    Resume(control::ResumeArgs),
    Cancel(control::CancelArgs),
    Workers(workers::WorkersArgs),
    Export(export::ExportArgs),
    #[cfg(feature = "local")]
    Eval(eval::EvalArgs),
    #[cfg(feature = "local")]
    Finetune(Box<finetune::FinetuneArgs>),
    #[cfg(feature = "local")]
    Extend(Box<extend::ExtendArgs>),
    #[cfg(feature = "local")]
    #[command(hide = true)]
    CarryPlan(extend::CarryArgs),
    #[cfg(feature = "local")]
    Plan(plan::PlanArgs),
}

/// Runs a parsed command to its end.
///
/// # Errors
/// The failure that the user is to be told, with its exit status.
pub fn run(cli: Cli) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::work(anyhow::Error::new(e).context("cannot start the runtime")))?;
    let outcome = runtime.block_on(dispatch(cli.command));
    // An evaluation in progress must not keep a finished command alive.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    outcome
}

async fn dispatch(command: Command) -> Outcome {
    match command {
        #[cfg(feature = "local")]
        Command::Quickstart(args) => quickstart::run(args).await,
        #[cfg(feature = "local")]
        Command::Search(args) => search::run(*args).await,
        Command::Serve(args) => serve::run(args).await,
        Command::Launch(args) => launch::run(*args).await,
        Command::Jobs(args) => jobs::run(args).await,
        Command::Status(args) => status::run(args).await,
        Command::Watch(args) => watch::run(args).await,
        Command::Pause(args) => control::pause(args).await,
        Command::Resume(args) => control::resume(args).await,
        Command::Cancel(args) => control::cancel(args).await,
        Command::Workers(args) => workers::run(args).await,
        Command::Export(args) => export::run(args).await,
        #[cfg(feature = "local")]
        Command::Eval(args) => eval::run(args).await,
        #[cfg(feature = "local")]
        Command::Finetune(args) => finetune::run(*args).await,
        #[cfg(feature = "local")]
        Command::Extend(args) => extend::run(*args).await,
        #[cfg(feature = "local")]
        Command::CarryPlan(args) => extend::carry(args).await,
        #[cfg(feature = "local")]
        Command::Plan(args) => plan::run(args).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
