//! Watching a job: first what is stored, then what becomes durable, until the job ends.
//!
//! Every watcher reads the store at its own pace; one that is slow holds up nobody and misses nothing.

use super::error::{refused, store_failed};
use super::raised;
use super::samples::blocking;
use crate::engine::Engine;
use ropewalk_shared::event::Event;
use ropewalk_shared::job::JobId;
use ropewalk_shared::status::JobStatus;
use ropewalk_shared::wire::pb;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tonic::Status;

/// Events in one message.
const EVENTS_PER_MESSAGE: usize = 256;
/// Messages that may wait for a slow receiver.
pub(super) const MESSAGES_AHEAD: usize = 4;
/// Shortest time between two looks at a job.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest time between two looks: leases and waiting show in no event.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// One watcher.
pub(super) struct Watcher {
    pub engine: Engine,
    pub job: JobId,
    /// The first event that was not sent yet.
    pub next: u64,
    pub sender: mpsc::Sender<Result<pb::WatchJobResponse, Status>>,
    pub closing: watch::Receiver<bool>,
}

/// The receiver has gone.
struct Gone;

// === impl Watcher ===

impl Watcher {
    pub async fn run(mut self) {
        let mut shown = None;
        let mut commits = self.engine.commits();
        loop {
            commits.mark_unchanged();
            match self.show(&mut shown).await {
                Ok(Ok(status)) if status.state.is_final() => return,
                Ok(Ok(_)) => {}
                Ok(Err(Gone)) => return,
                Err(error) => {
                    let _ = self.sender.send(Err(error)).await;
                    return;
                }
            }
            let stopping = tokio::select! {
                () = self.sender.closed() => return,
                () = raised(&mut self.closing) => true,
                () = wait_for_news(&mut commits) => false,
            };
            if stopping {
                let _ = self.sender.send(Err(Status::unavailable("the coordinator is stopping"))).await;
                return;
            }
        }
    }

    /// Sends what is new: events with the status after them, or the status alone when only that has changed.
    async fn show(&mut self, shown: &mut Option<JobStatus>) -> Result<Result<JobStatus, Gone>, Status> {
        let id = self.job.clone();
        let status = self.engine.durable(move |core, now| core.status(id.as_str(), now)).await;
        let (status, last) = status.map_err(refused)?;
        while self.next <= last {
            let events = self.events(last).await?;
            let Some(last_sent) = events.last().map(|event| event.sequence) else { break };
            self.next = last_sent + 1;
            if self.send(&events, &status).await.is_err() {
                return Ok(Err(Gone));
            }
            *shown = Some(status.clone());
        }
        if shown.as_ref() != Some(&status) {
            if self.send(&[], &status).await.is_err() {
                return Ok(Err(Gone));
            }
            *shown = Some(status.clone());
        }
        Ok(Ok(status))
    }

    async fn events(&self, last: u64) -> Result<Vec<Event>, Status> {
        let (store, job, next) = (self.engine.store().clone(), self.job.clone(), self.next);
        blocking(move || store.events(&job, next, last, EVENTS_PER_MESSAGE).map_err(store_failed)).await
    }

    async fn send(&self, events: &[Event], status: &JobStatus) -> Result<(), Gone> {
        let message =
            pb::WatchJobResponse { events: events.iter().map(Into::into).collect(), status: Some(status.into()) };
        self.sender.send(Ok(message)).await.map_err(|_| Gone)
    }
}

async fn wait_for_news(commits: &mut watch::Receiver<u64>) {
    tokio::time::sleep(PAUSE).await;
    // Nothing is lost when the time is up, or when the engine has ended: the next look tells.
    let _ = tokio::time::timeout(LOOK_AGAIN, commits.changed()).await;
}
