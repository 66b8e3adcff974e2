//! `ropewalk carry-plan`: what a coordinator runs to have a plan carried out. It says on standard output, a line of JSON each,
//! what becomes of the stages, and ends when its standard input does.

use super::folder::PlanFolder;
use super::inputs::Inputs;
use super::order::Order;
use super::runner::Runner;
use crate::cli::access::AccessArgs;
use crate::cli::failure::{Failure, OrFail as _, Outcome};
use crate::cli::output;
use crate::cli::stop::{orphaned, stop_signal};
use crate::driver::said::{PlanLine, state};
use clap::Args;
use ropewalk_shared::plan::OrderId;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process;
use std::thread;
use std::time::Duration;

/// Pause between looks at a folder that another process has.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// How long this process may take to stop properly.
const GRACE: Duration = Duration::from_secs(5);

/// Carry out a plan for a coordinator.
#[derive(Args, Debug)]
pub struct CarryArgs {
    /// The plan's folder
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// Digest of the order in it
    #[arg(long, value_name = "HEX")]
    order: OrderId,

    /// URL of the coordinator
    #[arg(long, value_name = "URL")]
    coordinator: String,

    #[command(flatten)]
    access: AccessArgs,
}

/// Runs what is not done of the plan, and says how it ended.
pub async fn carry(args: CarryArgs) -> Outcome {
    end_with_standard_input().or_work()?;
    let carried = carry_out(args).await;
    let (state, reason) = match &carried {
        Ok(()) => (state::COMPLETE, None),
        Err(failure) if failure.is_input() => (state::INVALID, Some(failure.to_string())),
        Err(failure) => (state::FAILED, Some(failure.to_string())),
    };
    say(state, reason)?;
    carried
}

async fn carry_out(args: CarryArgs) -> Outcome {
    let order = Order::read(&args.out, args.order)?;
    let folder = tokio::select! {
        folder = free(&args.out) => folder?,
        () = stop_signal() => return Err(Failure::work_message("stopped before the plan's folder was free")),
    };
    let (plan, args) = order.arguments(args.out, args.coordinator, args.access)?;
    let inputs = tokio::task::block_in_place(|| Inputs::open(&args, plan))?;
    Runner::new(&args, &inputs, folder)?.run().await
}

/// Lets this process stop when its standard input ends, as it does when whoever started it is gone, or wants its end. What
/// does not stop within a grace, or waits for no signal, is ended: everything that a plan does may be killed.
fn end_with_standard_input() -> io::Result<()> {
    let watch = || {
        let mut buffer = [0; 256];
        while io::stdin().lock().read(&mut buffer).is_ok_and(|count| count > 0) {}
        orphaned();
    };
    thread::Builder::new().name("parent".into()).spawn(watch)?;
    let stop = stop_signal();
    tokio::spawn(async move {
        stop.await;
        tokio::time::sleep(GRACE).await;
        process::exit(1);
    });
    Ok(())
}

/// The folder, once nobody else has it: an earlier process may be about to end, or somebody runs the plan by hand.
async fn free(out: &Path) -> Result<PlanFolder, Failure> {
    let mut told = false;
    loop {
        if let Some(folder) = PlanFolder::open_if_free(out)? {
            return Ok(folder);
        }
        if !std::mem::replace(&mut told, true) {
            say(state::WAITING, Some(format!("{} is in use by another process", out.display())))?;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn say(state: &str, reason: Option<String>) -> Outcome {
    output::json(&PlanLine { state: state.to_owned(), reason, ..PlanLine::default() })
}
