//! `ropewalk watch`: follows a job until it ends.

use super::failure::{Failure, OrFail as _, Outcome};
use super::options::{CoordinatorArgs, JsonArgs};
use super::output::{self, note};
use super::progress::{JobProgress, ProgressStyleChoice};
use super::{compare, status};
use crate::client::{Client, Watched};
use clap::Args;
use ropewalk_shared::event::Event;
use ropewalk_shared::status::{JobState, JobStatus};

/// Follow a job until it ends, then print its comparison. Of a plan, stages are told as they begin and end.
#[derive(Args, Debug)]
pub struct WatchArgs {
    /// The job's id, or a beginning of it that fits one job only
    job: String,
    #[command(flatten)]
    coordinator: CoordinatorArgs,
    /// First event to show [default: the first there is]
    #[arg(long, value_name = "SEQUENCE")]
    from: Option<u64>,
    #[command(flatten)]
    output: JsonArgs,
}

pub(super) async fn run(args: WatchArgs) -> Outcome {
    let client = args.coordinator.connect().await?;
    let status = client.job(&args.job).await?;
    let style =
        if args.output.json { ProgressStyleChoice::Json { of_others: true } } else { ProgressStyleChoice::People };
    let (job, from) = (status.job_id.as_str(), args.from.unwrap_or(1));
    let last = follow_in(style, &client, job, from, &mut |_| ()).await?;
    if args.output.json {
        output::json(&last)?;
    } else if last.state == JobState::Done && last.training.is_none() && last.plan.is_none() {
        let result = client.result(last.job_id.as_str()).await.or_work()?;
        compare::print(&result.factors)?;
        note(format!("`ropewalk export {} --format hf` writes what an engine loads", last.job_id));
    } else {
        status::print(&last, args.output)?;
    }
    ended_well(&last)
}

/// Shows a job that this program works for until it ends, and returns how it stands then.
#[cfg(feature = "local")]
pub(super) async fn follow(client: &Client, job: &str, from: u64, json: JsonArgs) -> Result<JobStatus, Failure> {
    follow_with(client, job, from, json, &mut |_| ()).await
}

/// The same for whoever wants to hear of every event.
#[cfg(feature = "local")]
pub(super) async fn follow_with(
    client: &Client,
    job: &str,
    from: u64,
    json: JsonArgs,
    hear: &mut (dyn FnMut(&Event) + Send),
) -> Result<JobStatus, Failure> {
    let style = if json.json { ProgressStyleChoice::Json { of_others: false } } else { ProgressStyleChoice::People };
    follow_in(style, client, job, from, hear).await
}

async fn follow_in(
    style: ProgressStyleChoice,
    client: &Client,
    job: &str,
    from: u64,
    hear: &mut (dyn FnMut(&Event) + Send),
) -> Result<JobStatus, Failure> {
    let mut progress = JobProgress::new(style);
    let mut watch = client.watch(job, from);
    let mut last = None;
    while let Some(step) = watch.next().await.or_work()? {
        match step {
            Watched::Progress { events, status } => {
                events.iter().for_each(&mut *hear);
                progress.update(&events, &status)?;
                last = Some(*status);
            }
            Watched::Reconnecting { reason, retry_in } => {
                progress.hint(&format!("{reason}; trying again in {:.1} s", retry_in.as_secs_f64()));
            }
        }
    }
    progress.finish();
    last.ok_or_else(|| Failure::work_message("the coordinator told nothing of the job; try again"))
}

/// A job that was cancelled or failed is work that failed.
pub(super) fn ended_well(status: &JobStatus) -> Outcome {
    let reason = status.reason.as_deref().unwrap_or("no reason is known");
    match status.state {
        JobState::Failed => Err(Failure::work_message(format!("the job failed: {reason}"))),
        JobState::Cancelled => {
            Err(Failure::work_message("the job was cancelled; launching it again goes on from there"))
        }
        _ => Ok(()),
    }
}
