//! One attempt to carry a plan out, from the start of its process to the end.

use super::child::{Child, Told};
use super::order::OrderError;
use super::{PlanOptions, raised};
use crate::engine::{AttemptEnd, Engine, PlanReport};
use ropewalk_shared::job::JobId;
use ropewalk_shared::plan::PlanJob;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// How long a process may take to end once it was asked to.
const GRACE: Duration = Duration::from_secs(15);
/// How much later the coordinator may hear that it is to stop than a process of its own.
const STOPPED_TOO: Duration = Duration::from_millis(300);

/// Everything an attempt needs.
pub(super) struct Attempt {
    pub engine: Engine,
    pub options: Arc<PlanOptions>,
    pub coordinator: String,
    pub id: JobId,
    pub job: PlanJob,
    pub number: u32,
    /// Raised when it is to end.
    pub stop: watch::Receiver<bool>,
}

// === impl Attempt ===

impl Attempt {
    /// Makes the attempt, and says how it ended.
    pub async fn make(mut self) -> AttemptEnd {
        let mut child = match self.start().await {
            Ok(child) => child,
            Err(end) => return end,
        };
        let mut end = None;
        let stopped = loop {
            tokio::select! {
                said = child.said.recv() => match said {
                    Some(PlanReport::Ended(said)) => end = Some(said),
                    Some(said) => {
                        if !self.tell(said).await {
                            break true;
                        }
                    }
                    None => break false,
                },
                () = raised(&mut self.stop) => break true,
            }
        };
        if stopped {
            child.stop();
            end = self.last_words(&mut child).await.or(end);
        }
        let status = timeout(GRACE, child.ended()).await;
        // What ends a whole service, coordinator and processes, may reach this process first.
        let complete = end == Some(AttemptEnd::Complete);
        let stopped = stopped || !complete && timeout(STOPPED_TOO, raised(&mut self.stop)).await.is_ok();
        match (end, status) {
            (Some(AttemptEnd::Complete), Ok(Ok(status))) if status.success() => AttemptEnd::Complete,
            _ if stopped => AttemptEnd::Stopped,
            (Some(end @ (AttemptEnd::Invalid(_) | AttemptEnd::Failed(_))), _) => end,
            (_, status) => AttemptEnd::Failed(without_a_word(status, &child.log())),
        }
    }

    /// Starts the process, which may have to wait for a disk.
    async fn start(&self) -> Result<Child, AttemptEnd> {
        let (options, coordinator) = (self.options.clone(), self.coordinator.clone());
        let (id, job) = (self.id.clone(), self.job.clone());
        let started = tokio::task::spawn_blocking(move || {
            let folder = options.root.folder(&job).map_err(|error| match error {
                OrderError::Changed(_) | OrderError::TooLarge(_) => AttemptEnd::Invalid(error.to_string()),
                // A disk may come back.
                OrderError::NotHere(..) | OrderError::Io(..) => AttemptEnd::Failed(error.to_string()),
            })?;
            let told = Told {
                program: &options.program,
                folder: &folder,
                order: job.order,
                coordinator: &coordinator,
                environment: &options.own.environment,
                job: &id,
            };
            let failed = |error| format!("cannot run {}: {error}", options.program.display());
            Child::start(&told).map_err(|error| AttemptEnd::Failed(failed(error)))
        });
        started.await.unwrap_or_else(|error| Err(AttemptEnd::Failed(error.to_string())))
    }

    /// Tells the engine; false where it takes in nothing more.
    async fn tell(&self, said: PlanReport) -> bool {
        let (id, number) = (self.id.clone(), self.number);
        self.engine.durable(move |core, now| core.report_plan(&id, number, said, now)).await.is_ok()
    }

    /// What a process still says that was asked to end: among it may be the name of a job that it launched.
    async fn last_words(&self, child: &mut Child) -> Option<AttemptEnd> {
        let mut end = None;
        let deadline = sleep(GRACE);
        tokio::pin!(deadline);
        loop {
            tokio::select! {
                said = child.said.recv() => match said {
                    Some(PlanReport::Ended(said)) => end = Some(said),
                    Some(said) => {
                        if !self.tell(said).await {
                            return end;
                        }
                    }
                    None => return end,
                },
                () = &mut deadline => return end,
            }
        }
    }
}

fn without_a_word(
    status: Result<std::io::Result<std::process::ExitStatus>, tokio::time::error::Elapsed>,
    log: &str,
) -> String {
    let how = match status {
        Ok(Ok(status)) => format!("ended with {status}"),
        Ok(Err(error)) => format!("cannot be waited for ({error})"),
        Err(_) => format!("did not end within {} s", GRACE.as_secs()),
    };
    let log = if log.is_empty() { String::new() } else { format!("; the end of what it wrote:\n{log}") };
    format!("the process that carried it out {how} without a word{log}")
}
