//! `ropewalk watch`: follows a job until it ends.

use super::failure::{Failure, OrFail as _, Outcome};
use super::options::{CoordinatorArgs, JsonArgs};
use super::output::{self, note};
use super::progress::{JobProgress, ProgressStyleChoice};
use super::{compare, status};
use crate::client::{Client, ClientError, Watch, Watched};
use clap::Args;
use ropewalk_shared::event::Event;
use ropewalk_shared::status::{JobState, JobStatus};
use std::time::Duration;
use tokio::time::Instant;

/// How long a job waits before that is told, and the shortest time until another reason is: most waits are over sooner.
const PATIENCE: Duration = Duration::from_secs(1);

/// Follow a job until it ends, then print its comparison. Of a plan, stages are told as they begin and end. What the job waits
/// for is told on standard error.
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
    let last = follow_in(style, &client, job, from, &mut |_| (), Some(Waits::default())).await?;
    if args.output.json {
        output::json(&last)?;
    } else if last.state == JobState::Done && last.training.is_none() && last.plan.is_none() {
        let result = client.result(last.job_id.as_str()).await.or_work()?;
        compare::print(&result.factors)?;
        let there = args.coordinator.again();
        // No engine leaves starting tokens unscaled.
        let drop = if result.factors.rescale().has_start_tokens() { " --drop-start-tokens" } else { "" };
        note(format!("`ropewalk export {} --format hf{drop}{there}` writes what an engine loads", last.job_id));
    } else {
        status::print(&last, args.output)?;
    }
    ended_well(&last)
}

/// Shows a job that this process itself works on until it ends, and returns how it stands then.
#[cfg(feature = "local")]
pub(super) async fn follow(client: &Client, job: &str, json: JsonArgs) -> Result<JobStatus, Failure> {
    follow_in(style_of_own(json), client, job, 1, &mut |_| (), None).await
}

/// Shows a job that this program wants done by workers elsewhere, who may keep it waiting, and tells of every event.
#[cfg(feature = "local")]
pub(super) async fn follow_elsewhere(
    client: &Client,
    job: &str,
    json: JsonArgs,
    hear: &mut (dyn FnMut(&Event) + Send),
) -> Result<JobStatus, Failure> {
    follow_in(style_of_own(json), client, job, 1, hear, Some(Waits::default())).await
}

#[cfg(feature = "local")]
fn style_of_own(json: JsonArgs) -> ProgressStyleChoice {
    if json.json { ProgressStyleChoice::Json { of_others: false } } else { ProgressStyleChoice::People }
}

async fn follow_in(
    style: ProgressStyleChoice,
    client: &Client,
    job: &str,
    from: u64,
    hear: &mut (dyn FnMut(&Event) + Send),
    mut waits: Option<Waits>,
) -> Result<JobStatus, Failure> {
    let mut progress = JobProgress::new(style);
    let mut watch = client.watch(job, from);
    let mut last = None;
    while let Some(step) = next_step(&mut watch, waits.as_mut(), &progress).await.or_work()? {
        match step {
            Watched::Progress { events, status } => {
                events.iter().for_each(&mut *hear);
                progress.update(&events, &status)?;
                if let Some(waits) = &mut waits {
                    waits.hear(status::waits_for(&status), Instant::now());
                }
                last = Some(*status);
            }
            Watched::Reconnecting { reason, retry_in } => {
                if let Some(waits) = &mut waits {
                    waits.hear(None, Instant::now());
                }
                progress.hint(&format!("{reason}; trying again in {:.1} s", retry_in.as_secs_f64()));
            }
        }
    }
    progress.finish();
    last.ok_or_else(|| Failure::work_message("the coordinator told nothing of the job; try again"))
}

/// What happens next. What the job waits for is told if nothing does for a while.
async fn next_step(
    watch: &mut Watch,
    waits: Option<&mut Waits>,
    progress: &JobProgress,
) -> Result<Option<Watched>, ClientError> {
    let next = watch.next();
    // It goes on where it was, and does not begin again: it may be between two attempts to connect.
    tokio::pin!(next);
    if let Some(waits) = waits
        && let Some((reason, due)) = waits.untold()
    {
        tokio::select! {
            step = &mut next => return step,
            () = tokio::time::sleep_until(due) => progress.hint(reason),
        }
        waits.tell(Instant::now());
    }
    next.await
}

/// What a job waits for, and what was told of that.
#[derive(Debug, Default)]
struct Waits {
    reason: Option<String>,
    told: Option<String>,
    /// Since when it waits, or when something was told last.
    since: Option<Instant>,
}

// === impl Waits ===

impl Waits {
    /// The job waits for this, or for nothing.
    fn hear(&mut self, reason: Option<&str>, now: Instant) {
        match reason {
            Some(reason) => {
                self.since.get_or_insert(now);
                self.reason = Some(reason.to_owned());
            }
            None => *self = Self::default(),
        }
    }

    /// What is to be told, and when.
    fn untold(&self) -> Option<(&str, Instant)> {
        let reason = self.reason.as_deref()?;
        let is_new = self.told.as_deref().map(timeless) != Some(timeless(reason));
        self.since.filter(|_| is_new).map(|since| (reason, since + PATIENCE))
    }

    /// It is told.
    fn tell(&mut self, now: Instant) {
        (self.told, self.since) = (self.reason.clone(), Some(now));
    }
}

/// A reason without the time since when it holds, which is told to the second and may differ by one from look to look.
fn timeless(reason: &str) -> (&str, &str) {
    let time = reason.split_once("since ").and_then(|(before, rest)| Some((before, rest.split_once(" UTC")?.1)));
    time.unwrap_or((reason, ""))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_job_waits_for_is_told_once_until_it_is_something_else() {
        let (mut waits, start) = (Waits::default(), Instant::now());
        let (nobody, same) =
            ("none is connected (since 2023-11-14 22:13:20 UTC)", "none is connected (since 2023-11-14 22:13:21 UTC)");
        waits.hear(Some(nobody), start);
        assert_eq!(waits.untold(), Some((nobody, start + PATIENCE)));
        let later = start + PATIENCE;
        waits.tell(later);
        waits.hear(Some(same), later);
        assert_eq!(waits.untold(), None);
        let other = "of 1 connected, 1 without the job's model (since 2023-11-14 22:13:20 UTC)";
        waits.hear(Some(other), later);
        assert_eq!(waits.untold(), Some((other, later + PATIENCE)), "not more often than that");
        waits.tell(later + PATIENCE);
        // It goes on, and waits again.
        waits.hear(None, later + PATIENCE);
        assert_eq!(waits.untold(), None);
        waits.hear(Some(other), later + 3 * PATIENCE);
        assert_eq!(waits.untold(), Some((other, later + 4 * PATIENCE)));
    }

    #[test]
    fn reasons_are_compared_without_their_time() {
        assert_eq!(timeless("since 2023-11-14 22:13:20 UTC no worker trains it"), ("", " no worker trains it"));
        assert_eq!(timeless("waiting (since 2023-11-14 22:13:20 UTC)"), ("waiting (", ")"));
        assert_eq!(timeless("in use since yesterday"), ("in use since yesterday", ""));
    }
}
