//! One plan that is not over: how far it is, and whether somebody carries it out.
//!
//! The plan's folder decides what is done; what is kept here is what people are shown, and what survives a restart so that the
//! plan goes on by itself.

use super::error::EngineError;
use super::record::{end_event, state_without_search, status_without_search};
use super::time::{Now, utc};
use crate::store::{Batch, Ended, JobRecord, PlanRecord, Store, StoreError};
use ropewalk_shared::event::JobEvent;
use ropewalk_shared::job::JobId;
use ropewalk_shared::plan::{PlanJob, PlanProgress, StageAtWork};
use ropewalk_shared::status::{JobState, JobStatus};
use std::time::Duration;

/// A plan under way.
pub(super) struct ActivePlan {
    pub id: JobId,
    pub job: PlanJob,
    pub record: JobRecord,
    pub state: PlanRecord,
    /// The attempt that is being made; absent while nobody carries it out.
    pub carried: Option<u32>,
    /// Nobody carries it out before.
    pub not_before: Duration,
    /// What keeps it from going on, or kept the last attempt.
    pub trouble: Option<String>,
    /// Since when it has been waiting.
    pub waiting_since: Duration,
    pub is_dirty: bool,
}

// === impl ActivePlan ===

impl ActivePlan {
    /// One that begins.
    pub fn begin(job: PlanJob, now: Now) -> Result<Self, EngineError> {
        job.check()?;
        Ok(Self::of(job, JobRecord::new(now.unix_ms), now))
    }

    /// One as it is stored; whoever carried it out is gone with the coordinator that is no more.
    pub fn restore(store: &Store, id: &JobId, record: JobRecord, now: Now) -> Result<Self, StoreError> {
        Ok(Self { is_dirty: false, ..Self::of(store.plan(id)?, record, now) })
    }

    fn of(job: PlanJob, record: JobRecord, now: Now) -> Self {
        Self {
            id: job.id(),
            job,
            state: record.plan.clone().unwrap_or_default(),
            record,
            carried: None,
            not_before: Duration::ZERO,
            trouble: None,
            waiting_since: now.since_start,
            is_dirty: true,
        }
    }

    /// Notes an event; it becomes visible when the batch is flushed.
    pub fn event(&mut self, batch: &mut Batch, now: Now, what: JobEvent) {
        batch.event(&self.id, &self.record.next_event(now.unix_ms, what));
        self.is_dirty = true;
    }

    /// Whether it is to be carried out now.
    pub fn is_wanted(&self, now: Now) -> bool {
        self.record.ended.is_none() && !self.record.paused && now.since_start >= self.not_before
    }

    /// An attempt begins.
    pub fn carry(&mut self) -> u32 {
        self.state.attempts = self.state.attempts.wrapping_add(1);
        self.carried = Some(self.state.attempts);
        self.is_dirty = true;
        self.state.attempts
    }

    /// Nobody carries it out any more, for now.
    pub fn release(&mut self, not_before: Duration, now: Now) {
        (self.carried, self.not_before, self.waiting_since) = (None, not_before, now.since_start);
        self.is_dirty = true;
    }

    /// A stage is at work. One that goes on after a restart is not told again.
    pub fn stage_begun(&mut self, batch: &mut Batch, stage: StageAtWork, now: Now) {
        self.trouble = None;
        if self.state.stage.as_ref() != Some(&stage) {
            (self.state.stage, self.state.job) = (Some(stage.clone()), None);
            self.event(batch, now, JobEvent::StageBegun { stage: stage.name, stage_kind: stage.kind });
        }
    }

    /// The stage at work waits for another job.
    pub fn stage_waits_for(&mut self, batch: &mut Batch, stage: String, job: JobId, now: Now) {
        self.trouble = None;
        if self.state.job.as_ref() != Some(&job) {
            self.state.job = Some(job.clone());
            self.event(batch, now, JobEvent::StageJob { stage, job });
        }
    }

    /// A stage is done. One that was known to be is not told again.
    pub fn stage_done(&mut self, batch: &mut Batch, stage: String, summary: String, now: Now) {
        self.trouble = None;
        // One that was done before is told again while a later one is at work.
        if self.state.stage.as_ref().is_some_and(|at_work| at_work.name == stage) {
            (self.state.stage, self.state.job) = (None, None);
            self.is_dirty = true;
        }
        if !self.state.done.contains(&stage) && (self.state.done.len() as u64) < u64::from(self.job.stages) {
            self.state.done.push(stage.clone());
            self.state.fruitless = 0;
            self.event(batch, now, JobEvent::StageDone { stage, summary });
        }
    }

    /// Ends it.
    pub fn end(&mut self, batch: &mut Batch, ended: Ended, now: Now) {
        self.event(batch, now, end_event(&ended));
        self.release(Duration::ZERO, now);
        self.record.ended = Some(ended);
        self.record.finished_ms = Some(now.unix_ms);
        self.record.final_status = Some(self.status(now));
    }

    pub fn state(&self) -> JobState {
        state_without_search(&self.record)
    }

    pub fn status(&self, now: Now) -> JobStatus {
        let progress = PlanProgress {
            stages_done: self.state.done.len() as u32,
            stages: self.job.stages,
            stage: self.state.stage.clone(),
            job: self.state.job.clone(),
        };
        JobStatus {
            name: self.job.name.clone(),
            model_name: self.job.model.clone(),
            reason: self.reason(now),
            stage_done: progress.stages_done.into(),
            stage_units: progress.stages.into(),
            original_length: self.job.original_length,
            target_length: self.job.target_length,
            plan: Some(progress),
            ..status_without_search(&self.id, &self.record, self.state())
        }
    }

    fn reason(&self, now: Now) -> Option<String> {
        match &self.record.ended {
            Some(Ended::Failed(reason)) => return Some(reason.clone()),
            Some(_) => return None,
            None if self.record.paused => return None,
            None => {}
        }
        if self.carried.is_some() {
            return self.trouble.clone();
        }
        let since = utc(now.unix_ms_at(self.waiting_since));
        if let Some(trouble) = &self.trouble {
            return Some(format!("since {since} it waits to be tried again: {trouble}"));
        }
        Some(format!(
            "since {since} nobody carries it out: a coordinator does that when it was started with --plan-root, for a few \
             plans at a time"
        ))
    }

    /// Written with the job's record.
    pub fn to_record(&self) -> JobRecord {
        JobRecord { plan: Some(self.state.clone()), ..self.record.clone() }
    }
}
