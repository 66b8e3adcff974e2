//! Watching a job, across restarts of the coordinator.

use super::error::{ClientError, answer, refused};
use super::{Client, pb};
use ropewalk_shared::event::Event;
use ropewalk_shared::status::JobStatus;
use std::time::Duration;
use tokio::time::Instant;
use tonic::Streaming;

const FIRST_RETRY: Duration = Duration::from_millis(200);
const LONGEST_RETRY: Duration = Duration::from_secs(10);
/// After this long without a connection the watch ends with an error.
const GIVE_UP_AFTER: Duration = Duration::from_secs(600);

/// What happens to a job, until it ends.
#[derive(Debug)]
pub struct Watch {
    client: Client,
    job: String,
    next_sequence: u64,
    stream: Option<Streaming<pb::WatchJobResponse>>,
    retry: Duration,
    lost_since: Option<Instant>,
    finished: bool,
}

/// One step of a watch.
#[derive(Clone, Debug, PartialEq)]
pub enum Watched {
    /// Events that follow each other, possibly none, and how the job stands after them.
    Progress {
        /// What happened.
        events: Vec<Event>,
        /// How the job stands now.
        status: Box<JobStatus>,
    },
    /// The connection is lost; the watch goes on by itself, and no event is missed or repeated.
    Reconnecting {
        /// What is known.
        reason: String,
        /// When the next attempt comes.
        retry_in: Duration,
    },
}

// === impl Watch ===

impl Watch {
    pub(super) fn new(client: Client, job: String, from_sequence: u64) -> Self {
        Self {
            client,
            job,
            next_sequence: from_sequence.max(1),
            stream: None,
            retry: Duration::ZERO,
            lost_since: None,
            finished: false,
        }
    }

    /// What happened next; `None` once the job has ended and everything was told.
    ///
    /// # Errors
    /// [`ClientError::Refused`] for a job that is not there, [`ClientError::Unavailable`] after ten minutes without a
    /// coordinator.
    pub async fn next(&mut self) -> Result<Option<Watched>, ClientError> {
        if self.finished {
            return Ok(None);
        }
        match self.step().await {
            Ok(Some(response)) => {
                (self.retry, self.lost_since) = (Duration::ZERO, None);
                self.progress(response).map(Some)
            }
            Ok(None) => {
                self.finished = true;
                Ok(None)
            }
            Err(error) => self.reconnecting(error).map(Some),
        }
    }

    /// The next message of the stream, which is opened first where there is none.
    async fn step(&mut self) -> Result<Option<pb::WatchJobResponse>, ClientError> {
        let refused = refused(&self.client.url);
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                tokio::time::sleep(self.retry).await;
                let request = pb::WatchJobRequest { job_id: self.job.clone(), from_sequence: self.next_sequence };
                let response = self.client.service.clone().watch_job(request).await.map_err(&refused)?;
                self.stream.insert(response.into_inner())
            }
        };
        stream.message().await.map_err(refused)
    }

    fn progress(&mut self, response: pb::WatchJobResponse) -> Result<Watched, ClientError> {
        let status: JobStatus =
            response.status.ok_or_else(|| answer("a job status is missing"))?.try_into().map_err(answer)?;
        let mut events = Vec::with_capacity(response.events.len());
        for event in response.events {
            let event = Event::try_from(event).map_err(answer)?;
            if event.sequence >= self.next_sequence {
                self.next_sequence = event.sequence + 1;
                events.push(event);
            }
        }
        // From here on the job is named in full: another job may get the same beginning.
        self.job = status.job_id.to_string();
        Ok(Watched::Progress { events, status: Box::new(status) })
    }

    fn reconnecting(&mut self, error: ClientError) -> Result<Watched, ClientError> {
        self.stream = None;
        let since = *self.lost_since.get_or_insert_with(Instant::now);
        if !error.is_retryable() || since.elapsed() > GIVE_UP_AFTER {
            self.finished = true;
            return Err(error);
        }
        self.retry = (self.retry * 2).clamp(FIRST_RETRY, LONGEST_RETRY);
        Ok(Watched::Reconnecting { reason: error.to_string(), retry_in: self.retry })
    }
}
