//! The job that was launched for a stage, so that it ends when the stage is made anew with other settings: nobody would
//! wait for it any more, while it kept workers busy, and in a training wrote into the stage's folder.

use super::folder::{read, read_result, write};
use super::runner::Runner;
use crate::cli::failure::{Failure, OrFail as _, Outcome};
use crate::cli::output::note;
use crate::cli::stop::stop_signal;
use crate::client::{Client, ClientError};
use anyhow::Context as _;
use ropewalk_shared::access::Access;
use ropewalk_shared::job::JobId;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

/// Name of the file in a stage's folder.
const NAME: &str = "job.json";
/// Within this a worker hears that its training was cancelled, and has stopped at the end of a step.
const STOPS_WITHIN: Duration = Duration::from_secs(120);
/// Wait between two looks at the folder's lock.
const LOOK: Duration = Duration::from_millis(200);

/// The job of a stage.
#[derive(Serialize, Deserialize)]
struct Launched {
    coordinator: String,
    job: String,
}

impl Runner<'_> {
    /// Keeps the job that is going to be launched for a stage.
    pub(super) fn remember(&self, stage: &str, coordinator: &str, job: &JobId) -> Outcome {
        let launched = Launched { coordinator: coordinator.to_owned(), job: job.to_string() };
        write(&self.out.stage(stage).join(NAME), &(serde_json::to_string(&launched).or_work()? + "\n"))
    }

    /// Cancels what was launched for a stage that is not done, and waits for its worker to leave the folder.
    pub(super) async fn end_former(&self, stage: &str) -> Outcome {
        let folder = self.out.stage(stage);
        if read_result(&folder)?.is_some() {
            return Ok(());
        }
        let Some(Launched { coordinator, job }) = read(&folder.join(NAME))? else { return Ok(()) };
        // The address stands in the folder: only the coordinator that was named is shown the token.
        let access = match &self.args.coordinator {
            Some(own) if *own == coordinator => self.args.access.to(own)?,
            _ => Access::default(),
        };
        let cancelled = async { Client::connect_with(&coordinator, &access).await?.cancel(&job).await };
        match cancelled.await {
            Ok(_) => note(format!("{stage}: {job}, which worked with the former settings, is cancelled")),
            // It has ended by itself, or the coordinator was begun anew.
            Err(ClientError::Refused { .. }) => {}
            Err(error) => note(format!("{stage}: {job} of the former settings cannot be cancelled: {error}")),
        }
        let lock = folder.join("checkpoints").join("lock");
        let since = Instant::now();
        let mut stop = std::pin::pin!(stop_signal());
        while is_held(&lock)? {
            if since.elapsed() > STOPS_WITHIN {
                return Err(Failure::work_message(format!(
                    "a worker still trains in {} with the former settings; `ropewalk cancel {job} --coordinator \
                     {coordinator}` ends that, then run this again",
                    folder.display()
                )));
            }
            tokio::select! {
                () = &mut stop => return Err(Failure::work_message("interrupted; the same command goes on")),
                () = tokio::time::sleep(LOOK) => {}
            }
        }
        Ok(())
    }
}

/// Whether a process has locked this file, which need not be there.
fn is_held(path: &Path) -> Result<bool, Failure> {
    let Ok(file) = File::open(path) else { return Ok(false) };
    match file.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(std::fs::TryLockError::WouldBlock) => Ok(true),
        // Where there are no locks, nobody can hold one.
        Err(std::fs::TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::Unsupported => Ok(false),
        Err(std::fs::TryLockError::Error(error)) => {
            Err(anyhow::Error::new(error)).with_context(|| format!("cannot look at {}", path.display())).or_work()
        }
    }
}
