//! `ropewalk pause`, `resume` and `cancel`.

use super::failure::Outcome;
use super::options::{CoordinatorArgs, JsonArgs};
use super::status;
use crate::client::Client;
use clap::Args;

/// The job that a command is about.
#[derive(Args, Debug)]
struct Target {
    /// The job's id, or a beginning of it that fits one job only
    job: String,
    #[command(flatten)]
    coordinator: CoordinatorArgs,
    #[command(flatten)]
    output: JsonArgs,
}

/// Lease no more work of a job until it is resumed.
#[derive(Args, Debug)]
pub struct PauseArgs {
    #[command(flatten)]
    target: Target,
}

/// Go on with a paused job.
#[derive(Args, Debug)]
pub struct ResumeArgs {
    #[command(flatten)]
    target: Target,
}

/// End a job; what was evaluated stays stored, and launching it again goes on from there.
#[derive(Args, Debug)]
pub struct CancelArgs {
    #[command(flatten)]
    target: Target,
}

impl Target {
    async fn client(&self) -> Result<Client, super::Failure> {
        self.coordinator.connect().await
    }
}

pub(super) async fn pause(PauseArgs { target }: PauseArgs) -> Outcome {
    let status = target.client().await?.pause(&target.job).await?;
    status::print(&status, target.output)
}

pub(super) async fn resume(ResumeArgs { target }: ResumeArgs) -> Outcome {
    let status = target.client().await?.resume(&target.job).await?;
    status::print(&status, target.output)
}

pub(super) async fn cancel(CancelArgs { target }: CancelArgs) -> Outcome {
    let status = target.client().await?.cancel(&target.job).await?;
    status::print(&status, target.output)
}
