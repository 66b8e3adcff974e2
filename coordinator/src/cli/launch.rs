//! `ropewalk launch`: starts a search on a coordinator.

use super::budget;
use super::failure::{Failure, OrFail as _, Outcome};
use super::init;
use super::options::{CoordinatorArgs, JsonArgs};
use super::output::{self, note};
use super::prepare::{JobArgs, ModelFolder};
use super::progress::bar;
use clap::Args;
use ropewalk_shared::fingerprint::Fingerprint;

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
    let fingerprint = match args.fingerprint {
        Some(fingerprint) => fingerprint,
        None => fingerprint_of(&folder)?,
    };
    let fetched = init::fetch(args.job.init(), &client).await?;
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
    note(format!("`ropewalk watch {id}` follows it"));
    Ok(())
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
