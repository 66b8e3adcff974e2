//! Launching again what is over: it goes on from where it stood.

use super::core::Core;
use super::desk::Desk;
use super::error::EngineError;
use super::job::ActiveJob;
use super::jobs::Job;
use super::plan::ActivePlan;
use super::time::Now;
use super::training::ActiveTraining;
use crate::search::strategy::begin;
use crate::store::{Ended, JobRecord, StoreError};
use ropewalk_shared::event::JobEvent;
use ropewalk_shared::job::JobId;
use ropewalk_shared::status::JobState;
use std::time::Duration;

// === impl Core ===

impl Core {
    /// Brings a job back to life that was cancelled or has failed; others stay as they are.
    pub(super) fn relaunch(&mut self, id: &JobId, now: Now) -> Result<(), EngineError> {
        if self.jobs.get(id).is_some_and(Job::ends_now) {
            self.store_round()?;
        }
        let Some(Job::Ended(ended)) = self.jobs.get(id) else { return Ok(()) };
        // Whether a plan is done is for its folder to say.
        if ended.status.state == JobState::Done && !ended.record.is_plan() {
            return Ok(());
        }
        if let Some(damage) = &ended.damage {
            return Err(damage.clone().into());
        }
        let record =
            JobRecord { ended: None, finished_ms: None, final_status: None, paused: false, ..ended.record.clone() };
        let (ended, ended_ms) = (ended.record.ended.clone(), ended.record.finished_ms.unwrap_or(0));
        if record.is_plan() {
            let plan = ActivePlan::restore(&self.desk.store, id, record, now)?;
            self.restart_plan(plan, now);
            return Ok(());
        }
        if record.is_training() {
            // Whoever trained when it was cancelled and has not reported since may still be at it, while its lease lasts.
            let since = Duration::from_millis(now.unix_ms.saturating_sub(ended_ms));
            let left = self.desk.scheduler.options().lease.saturating_sub(since);
            let mut training = ActiveTraining::restore(&self.desk.store, id.clone(), record, (left, now))?;
            if left.is_zero() {
                training.release(Duration::ZERO, now);
            }
            self.restart_training(training, now);
            return Ok(());
        }
        let job = ActiveJob::restore(&self.desk.store, id.clone(), record, now)?;
        let restart = |desk: &mut Desk, job: &mut ActiveJob| {
            job.event(&mut desk.batch, now, JobEvent::Restarted);
            if matches!(ended, Some(Ended::Failed(_))) { desk.forgive(job, now) } else { Ok(()) }
        };
        let job = match self.set_going(job, restart, now) {
            // Its own damage, which stays with it.
            Err(error @ StoreError::Corrupt { .. }) => return Err(error.into()),
            going => self.or_broken(going)?,
        };
        tracing::info!(job = %id, "restarted");
        self.jobs.insert(id.clone(), job);
        Ok(())
    }

    /// Stores what came before in this round, so that what ended in it is over like everything else that is.
    fn store_round(&mut self) -> Result<(), EngineError> {
        let batch = self.take_batch();
        let store = &self.desk.store;
        // Flushed here too: what follows may have nothing to write, and answers wait for those who have.
        let stored = store.apply(batch).and_then(|()| store.flush());
        self.or_broken(stored)
    }
}

// === impl Desk ===

impl Desk {
    /// Lets candidates of a search that failed be tried again which failed in it: whoever evaluated them may have been at fault. Where
    /// none had a score, every generation after the first was made of nothing, and the search begins anew, with all results that it
    /// has.
    fn forgive(&mut self, job: &mut ActiveJob, now: Now) -> Result<(), StoreError> {
        if !self.forget_failures(&job.id)? || job.winner().is_some() || job.strategy.history().is_empty() {
            return Ok(());
        }
        job.strategy = begin(&job.spec, &job.description).map_err(|error| StoreError::Corrupt {
            path: self.store.path().to_owned(),
            what: "a job specification",
            reason: error.to_string(),
        })?;
        // What was spent of a time budget bought nothing.
        job.record.active_ms = 0;
        job.store_generation(&mut self.batch);
        self.announce_generation(job, now);
        Ok(())
    }
}
