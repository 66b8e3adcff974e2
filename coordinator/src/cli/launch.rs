//! `ropewalk launch`: starts a search on a coordinator.

use super::failure::{Failure, OrFail as _, Outcome};
use super::init;
use super::options::{CoordinatorArgs, JsonArgs};
use super::output::{self, note};
use super::prepare::{JobArgs, ModelFolder};
use super::progress::bar;
use super::{budget, status};
use crate::client::Client;
use clap::Args;
use ropewalk_shared::fingerprint::Fingerprint;
use ropewalk_shared::job::JobId;
use std::time::{Duration, Instant};

/// So long after the launch it is looked whether the job waits: the coordinator notices in less. And how often.
const LOOKED: Duration = Duration::from_millis(800);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Start a search on a coordinator, and print the job's id.
///
/// The same command twice names the same job. Workers find the model by the name of its folder.
#[derive(Args, Debug)]
pub struct LaunchArgs {
    #[command(flatten)]
    job: JobArgs,

    // The heading of the options above would go on.
    #[command(flatten, next_help_heading = None::<&str>)]
    coordinator: CoordinatorArgs,

    /// Fingerprint of the model, where its weights are not on this machine; a worker's log shows it
    #[arg(long, value_name = "HEX")]
    fingerprint: Option<Fingerprint>,

    #[command(flatten)]
    output: JsonArgs,
}

pub(super) async fn run(args: LaunchArgs) -> Outcome {
    let folder = ModelFolder::open(&args.job.model)?;
    // The coordinator first: reading documents can take a while, and would be for nothing.
    let client = args.coordinator.connect().await?;
    let fetched = init::fetch(args.job.init(), &client).await?;
    let fingerprint = || args.fingerprint.map_or_else(|| fingerprint_of(&folder), Ok);
    let job = args.job.prepare(&folder, fingerprint, &fetched)?;
    budget::on_coordinator(&client, &job.spec).await?;

    let upload = bar(0, "sending samples {bar:28} {percent}%");
    let sent = client.put_samples(&job.samples, |sent, total| {
        upload.set_length(total);
        upload.set_position(sent);
    });
    sent.await.or_work()?;
    upload.finish_and_clear();

    let (id, created) = client.launch(&job.spec).await.or_work()?;
    if !created {
        note("the same search was launched before; this is that job");
    }
    if args.output.json {
        return output::json(&serde_json::json!({ "job_id": id, "created": created }));
    }
    output::line(id.as_str())?;
    note(format!("`ropewalk watch {id}{}` follows it", args.coordinator.again()));
    tell_wait(&client, &id).await;
    Ok(())
}

/// Tells what a job waits for that was just launched; nothing as soon as a worker has begun.
async fn tell_wait(client: &Client, id: &JobId) {
    let start = Instant::now();
    while start.elapsed() < LOOKED {
        // It is launched, whatever becomes of this question.
        let Ok(job) = client.job(id.as_str()).await else { return };
        if let Some(reason) = status::waits_for(&job) {
            return note(reason);
        }
        if job.leased > 0 || job.passes > 0 || job.state.is_final() {
            return;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[cfg(feature = "local")]
fn fingerprint_of(folder: &ModelFolder) -> Result<Fingerprint, Failure> {
    super::search::checked_fingerprint(folder)
}

#[cfg(not(feature = "local"))]
fn fingerprint_of(_: &ModelFolder) -> Result<Fingerprint, Failure> {
    Err(Failure::input_message(
        "this build reads no weights: give the model's --fingerprint, which a worker's log shows",
    ))
}
