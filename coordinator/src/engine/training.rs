//! One training that is not over: what is to be trained, how far it is, and who trains.
//!
//! A training is one unit for one worker. Steps are noted as they are told; should the coordinator lack some, the worker
//! that goes on from a checkpoint tells all that came before it.

use super::error::EngineError;
use super::record::{end_event, state_without_search, status_without_search};
use super::time::{Now, utc};
use crate::store::{Batch, Ended, Holder, JobRecord, Store, StoreError, TrainingRecord};
use ropewalk_shared::event::JobEvent;
use ropewalk_shared::job::JobId;
use ropewalk_shared::status::{JobState, JobStatus};
use ropewalk_shared::training::{StepRecord, TrainingJob, TrainingProgress, TrainingUnit};
use ropewalk_shared::work::LeaseId;
use std::time::Duration;

/// Losses of one step that differ by more than this, relatively, are of another training than the job's.
const TOLERANCE: f64 = 1e-3;

/// A training under way.
pub(super) struct ActiveTraining {
    pub id: JobId,
    pub job: TrainingJob,
    pub original_length: u32,
    pub record: JobRecord,
    pub state: TrainingRecord,
    /// Until when the holder's lease lasts; absent while nobody holds one.
    pub deadline: Option<Duration>,
    /// Nobody is asked before.
    pub not_before: Duration,
    /// What the last worker said that could not train.
    pub trouble: Option<String>,
    /// Since when it has been waiting.
    pub waiting_since: Duration,
    pub is_dirty: bool,
}

// === impl ActiveTraining ===

impl ActiveTraining {
    /// One that begins.
    pub fn begin(job: TrainingJob, now: Now) -> Result<Self, EngineError> {
        let original_length = job.check()?.original_length;
        let mut record = JobRecord::new(now.unix_ms);
        record.training = Some(TrainingRecord::default());
        let id = job.id();
        Ok(Self {
            id,
            job,
            original_length,
            record,
            state: TrainingRecord::default(),
            deadline: None,
            not_before: Duration::ZERO,
            trouble: None,
            waiting_since: now.since_start,
            is_dirty: true,
        })
    }

    /// One as it is stored. Whoever trained it when the coordinator stopped has the time of a lease to come back.
    pub fn restore(
        store: &Store,
        id: JobId,
        record: JobRecord,
        (lease, now): (Duration, Now),
    ) -> Result<Self, StoreError> {
        let corrupt =
            |reason: String| StoreError::Corrupt { path: store.path().to_owned(), what: "a training", reason };
        let job = store.training(&id)?;
        let original_length = job.check().map_err(|error| corrupt(error.to_string()))?.original_length;
        let state = record.training.clone().unwrap_or_default();
        let deadline = state.holder.as_ref().map(|_| now.since_start + lease);
        Ok(Self {
            id,
            job,
            original_length,
            record,
            state,
            deadline,
            not_before: Duration::ZERO,
            trouble: None,
            waiting_since: now.since_start,
            is_dirty: false,
        })
    }

    /// Notes an event; it becomes visible when the batch is flushed.
    pub fn event(&mut self, batch: &mut Batch, now: Now, what: JobEvent) {
        batch.event(&self.id, &self.record.next_event(now.unix_ms, what));
        self.is_dirty = true;
    }

    /// Whether it may be leased.
    pub fn is_free(&self, now: Now) -> bool {
        self.record.ended.is_none()
            && !self.record.paused
            && self.deadline.is_none()
            && now.since_start >= self.not_before
    }

    /// The name of the worker that holds its lease.
    pub fn worker(&self) -> Option<&str> {
        self.deadline.and(self.state.holder.as_ref()).map(|holder| holder.worker.as_str())
    }

    /// Gives it to a worker.
    pub fn lease(
        &mut self,
        batch: &mut Batch,
        lease: LeaseId,
        worker: String,
        until: Duration,
        now: Now,
    ) -> TrainingUnit {
        self.state.attempts += 1;
        let attempt = self.state.attempts;
        self.state.holder = Some(Holder { lease: lease.0, worker: worker.clone() });
        (self.deadline, self.trouble) = (Some(until), None);
        self.event(batch, now, JobEvent::TrainingLeased { worker, attempt });
        TrainingUnit { lease, id: self.id.clone(), job: self.job.clone(), attempt }
    }

    /// Renews the lease of whoever holds it, or held it last and was not followed by another.
    pub fn renew(&mut self, lease: LeaseId, until: Duration) -> bool {
        let holds = self.state.holder.as_ref().is_some_and(|holder| holder.lease == lease.0);
        if holds {
            self.deadline = Some(until);
        }
        holds
    }

    /// Nobody trains any more, for now.
    pub fn release(&mut self, not_before: Duration, now: Now) {
        (self.deadline, self.not_before, self.waiting_since) = (None, not_before, now.since_start);
        self.state.holder = None;
        self.is_dirty = true;
    }

    /// Takes in steps that follow those which are known; others are passed over.
    pub fn note_steps(&mut self, batch: &mut Batch, steps: &[StepRecord], now: Now) {
        for step in steps {
            let next = self.state.steps_done + 1;
            if step.step == next && next <= self.job.settings.steps {
                (self.state.steps_done, self.state.loss) = (next, Some(step.loss));
                (self.state.fruitless, self.state.silent) = (0, 0);
                self.event(batch, now, JobEvent::TrainingStep(*step));
            } else if step.step == self.state.steps_done
                && self.state.loss.is_some_and(|loss| (step.loss - loss).abs() > TOLERANCE * loss.abs())
            {
                tracing::warn!(job = %self.id, step = step.step, loss = step.loss, known = ?self.state.loss,
                    "a step was done again with another loss; the first stands in the history");
            }
        }
    }

    /// Notes a checkpoint.
    pub fn note_checkpoint(&mut self, batch: &mut Batch, step: u32, now: Now) {
        if step > self.state.checkpoint && step <= self.job.settings.steps {
            self.state.checkpoint = step;
            self.event(batch, now, JobEvent::TrainingCheckpoint { step });
        }
    }

    /// Ends it. Who trains hears of a cancellation with its next report, and holds the folder until then.
    pub fn end(&mut self, batch: &mut Batch, ended: Ended, now: Now) {
        self.event(batch, now, end_event(&ended));
        let holder = self.state.holder.take().filter(|_| ended == Ended::Cancelled && self.deadline.is_some());
        self.release(Duration::ZERO, now);
        self.state.holder = holder;
        self.record.ended = Some(ended);
        self.record.finished_ms = Some(now.unix_ms);
        self.record.final_status = Some(self.status(now));
    }

    pub fn state(&self) -> JobState {
        state_without_search(&self.record)
    }

    pub fn status(&self, now: Now) -> JobStatus {
        let worker = self.worker();
        JobStatus {
            name: self.job.name.clone(),
            model_name: self.job.model.name.clone(),
            reason: self.reason(now),
            stage_done: self.state.steps_done.into(),
            stage_units: self.job.settings.steps.into(),
            leased: u32::from(worker.is_some()),
            original_length: self.original_length,
            target_length: self.job.settings.length,
            training: Some(TrainingProgress {
                steps_done: self.state.steps_done,
                steps: self.job.settings.steps,
                loss: self.state.loss,
                checkpoint: self.state.checkpoint,
                worker: worker.map(str::to_owned),
            }),
            ..status_without_search(&self.id, &self.record, self.state())
        }
    }

    fn reason(&self, now: Now) -> Option<String> {
        match &self.record.ended {
            Some(Ended::Failed(reason)) => return Some(reason.clone()),
            Some(_) => return None,
            None if self.record.paused || self.deadline.is_some() => return None,
            None => {}
        }
        let since = utc(now.unix_ms_at(self.waiting_since));
        if let Some(trouble) = self.trouble.as_ref().filter(|_| now.since_start < self.not_before) {
            return Some(format!("since {since} it waits to be tried again: {trouble}"));
        }
        let trouble = self.trouble.as_ref().map_or(String::new(), |trouble| format!("; {trouble}"));
        Some(format!(
            "since {since} no worker trains it: it takes one with --train-root and the model {}{trouble}",
            self.job.model.name
        ))
    }

    /// Written with the job's record.
    pub fn to_record(&self) -> JobRecord {
        JobRecord { training: Some(self.state.clone()), ..self.record.clone() }
    }
}
