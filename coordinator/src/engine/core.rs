//! The engine without threads: every command as a function of the state and the time.
//!
//! What a command changes collects in a batch, which the caller takes with [`Core::take_batch`] and stores before
//! it answers anybody.

use super::desk::Desk;
use super::error::EngineError;
use super::factors::factors_so_far;
use super::job::ActiveJob;
use super::jobs::{EndedJob, Job};
use super::plan::ActivePlan;
use super::record::unreadable;
use super::time::Now;
use super::training::ActiveTraining;
use crate::scheduler::{Scheduler, SchedulerOptions};
use crate::store::{Batch, Ended, JobRecord, Store, StoreError};
use ropewalk_shared::event::JobEvent;
use ropewalk_shared::job::JobId;
use ropewalk_shared::status::{JobState, JobStatus};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Time without a command after which the engine was held up, as by a disk that takes long to flush or a machine that
/// stood still: five times what passes between two ticks.
const HELD_UP: Duration = Duration::from_secs(1);

/// All jobs, and what they need.
#[derive(Debug)]
pub struct Core {
    pub(super) jobs: BTreeMap<JobId, Job>,
    pub(super) desk: Desk,
    /// When it was last known to be at work; absent before that.
    attended: Option<Duration>,
    /// The store failed in the middle of a step: memory is ahead of it, and nothing more may be written.
    broken: Option<StoreError>,
}

/// What became of a launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launched {
    /// The job.
    pub job: JobId,
    /// False when the same specification was launched before.
    pub created: bool,
}

/// What is handed over of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResultText {
    /// Whether the report is complete.
    pub complete: bool,
    /// The factor file.
    pub factors_json: String,
    /// The model's config.json.
    pub config_json: String,
    /// Summaries of the closed generations, as a JSON array.
    pub history_json: String,
}

// === impl Core ===

impl Core {
    /// Sets everything going again from what is stored.
    ///
    /// A job that cannot be read is listed as failed, with the reason, and left as it is: the others go on.
    ///
    /// # Errors
    /// [`StoreError`] when the store as a whole cannot be read.
    pub fn open(store: Arc<Store>, options: SchedulerOptions, now: Now) -> Result<Self, StoreError> {
        let scheduler = Scheduler::new(options, store.epoch());
        let desk = Desk::new(store.clone(), scheduler);
        let mut core = Self { jobs: BTreeMap::new(), desk, attended: None, broken: None };
        for (id, record) in store.jobs()? {
            let record = match record {
                Ok(record) => record,
                Err(error) => {
                    tracing::error!(job = %id, %error, "the job cannot be read");
                    core.jobs.insert(id.clone(), Job::damaged(&id, error));
                    continue;
                }
            };
            let job = match record.final_status.clone() {
                Some(status) if record.ended.is_some() => {
                    Job::Ended(Box::new(EndedJob { record, status, damage: None }))
                }
                _ => core.reopen(&id, record, now)?,
            };
            core.jobs.insert(id, job);
        }
        Ok(core)
    }

    fn reopen(&mut self, id: &JobId, record: JobRecord, now: Now) -> Result<Job, StoreError> {
        if record.is_training() {
            let lease = self.desk.scheduler.options().lease;
            let training = ActiveTraining::restore(&self.desk.store, id.clone(), record.clone(), (lease, now));
            return self.readable(id, record, training.map(|training| Job::Training(Box::new(training))));
        }
        if record.is_plan() {
            let plan = ActivePlan::restore(&self.desk.store, id, record.clone(), now);
            return self.readable(id, record, plan.map(|plan| Job::Plan(Box::new(plan))));
        }
        let reopened = ActiveJob::restore(&self.desk.store, id.clone(), record.clone(), now);
        let reopened = reopened.and_then(|job| self.set_going(job, |_, _| Ok(()), now));
        self.readable(id, record, reopened)
    }

    /// Opens the stage of a job as it is stored, after what has to be done before. Where something of it is damaged, nothing is
    /// written and nothing leased.
    pub(super) fn set_going(
        &mut self,
        mut job: ActiveJob,
        before: impl FnOnce(&mut Desk, &mut ActiveJob) -> Result<(), StoreError>,
        now: Now,
    ) -> Result<Job, StoreError> {
        let desk = &mut self.desk;
        let round = desk.round();
        let opened = before(desk, &mut job).and_then(|()| desk.open_stage(&mut job));
        let opened = opened.and_then(|()| desk.advance(&mut job, now));
        if let Err(StoreError::Corrupt { .. }) = &opened {
            desk.return_to(round);
            desk.scheduler.close(&job.id);
        }
        opened.map(|()| Job::of(job))
    }

    /// The job, or what is listed in the place of one that cannot be read.
    fn readable(
        &mut self,
        id: &JobId,
        record: JobRecord,
        reopened: Result<Job, StoreError>,
    ) -> Result<Job, StoreError> {
        match reopened {
            Ok(job) => Ok(job),
            Err(error @ StoreError::Corrupt { .. }) => {
                tracing::error!(job = %id, %error, "the job cannot be read");
                let status = unreadable(id, &record, error.to_string());
                Ok(Job::Ended(Box::new(EndedJob { record, status, damage: None })))
            }
            Err(error) => Err(error),
        }
    }

    /// The writes of this round, which belong together; the next round begins.
    pub fn take_batch(&mut self) -> Batch {
        for job in self.jobs.values_mut() {
            if let Job::Active(job) = job
                && std::mem::take(&mut job.is_dirty)
            {
                self.desk.batch.job(&job.id, &job.record);
            }
            if let Job::Training(training) = job
                && std::mem::take(&mut training.is_dirty)
            {
                self.desk.batch.job(&training.id, &training.to_record());
            }
            if let Job::Plan(plan) = job
                && std::mem::take(&mut plan.is_dirty)
            {
                self.desk.batch.job(&plan.id, &plan.to_record());
            }
        }
        // A job that is over is written once more, and then only its end is kept.
        for job in self.jobs.values_mut() {
            match job {
                _ if !job.ends_now() => {}
                Job::Active(active) => *job = Job::ended(&active.id, active.record.clone()),
                Job::Training(training) => *job = Job::ended(&training.id, training.to_record()),
                Job::Plan(plan) => *job = Job::ended(&plan.id, plan.to_record()),
                Job::Ended(_) => {}
            }
        }
        self.desk.take_batch()
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.desk.store
    }

    /// The failure of the store in the middle of a step, after which this engine is of no further use.
    pub fn broken(&self) -> Option<&StoreError> {
        self.broken.as_ref()
    }

    /// Changes whenever there may be work that there was not before.
    pub fn offers(&self) -> u64 {
        self.desk.scheduler.offers()
    }

    /// Notes that a step was not carried through.
    pub(super) fn or_broken<T>(&mut self, result: Result<T, StoreError>) -> Result<T, EngineError> {
        result.map_err(|error| {
            self.broken.get_or_insert_with(|| error.clone());
            error.into()
        })
    }

    /// Notes that the engine is at work, before each command. Time in which it was not does not count against those who
    /// hold leases: they could not be heard.
    pub fn attend(&mut self, now: Now) {
        let last = self.attended.replace(now.since_start).unwrap_or(now.since_start);
        let gap = now.since_start.saturating_sub(last);
        if gap < HELD_UP {
            return;
        }
        tracing::warn!(seconds = gap.as_secs_f64(), "the coordinator was held up; leases last that much longer");
        self.desk.scheduler.postpone(gap);
        for job in self.jobs.values_mut() {
            if let Job::Training(training) = job {
                training.deadline = training.deadline.map(|deadline| deadline + gap);
            }
        }
    }

    /// Time passes: leases expire, delayed units come back, waiting is noticed.
    ///
    /// # Errors
    /// [`EngineError::Store`]
    pub fn tick(&mut self, now: Now) -> Result<(), EngineError> {
        let ticked = self.pass_time(now);
        self.or_broken(ticked)
    }

    fn pass_time(&mut self, now: Now) -> Result<(), StoreError> {
        let mut touched = BTreeSet::new();
        for expired in self.desk.scheduler.expire(now.since_start) {
            self.desk.tally.expired += 1;
            let Some(Job::Active(job)) = self.jobs.get_mut(&expired.job) else { continue };
            let sample = job.stage_sample(expired.unit.sample);
            if let Some(sample) = sample {
                let (worker, attempt) = (expired.worker.to_string(), expired.attempt);
                tracing::warn!(job = %job.id, worker, attempt, "a lease expired");
                job.event(&mut self.desk.batch, now, JobEvent::LeaseExpired { worker, sample, attempt });
            }
            if let Some(reason) = expired.given_up {
                self.desk.give_up(job, expired.unit, reason, now);
                touched.insert(expired.job);
            }
        }
        // Not before all of them: the next stage has units of the same slots.
        for id in touched {
            if let Some(Job::Active(job)) = self.jobs.get_mut(&id) {
                self.desk.advance(job, now)?;
            }
        }
        self.pass_time_of_trainings(now);
        self.pass_time_of_plans(now);
        self.desk.scheduler.note_trainings(now.since_start, &self.leased_trainings());
        for job in self.jobs.values_mut() {
            let Job::Active(job) = job else { continue };
            let seconds = job.record.active_ms / 5000;
            job.count_time(now);
            // Often enough that a budget survives any number of restarts, and not more often.
            job.is_dirty |= job.record.active_ms / 5000 != seconds && job.spec.search.time_budget_seconds.is_some();
            let waiting = self.desk.scheduler.waiting(now.since_start, &job.id);
            let since = job.waiting.as_ref().map_or(now.since_start, |(_, since)| *since);
            job.waiting = waiting.map(|waiting| (waiting.to_string(), since));
        }
        Ok(())
    }

    // --- commands of clients ---

    /// Holds a job's units back, or offers them again.
    ///
    /// # Errors
    /// [`EngineError`] when there is no such job, or it is over.
    pub fn set_paused(&mut self, prefix: &str, paused: bool, now: Now) -> Result<JobStatus, EngineError> {
        let id = self.find(prefix)?;
        let action = if paused { "paused" } else { "resumed" };
        let what = if paused { JobEvent::Paused } else { JobEvent::Resumed };
        match unfinished(&mut self.jobs, &id, action)? {
            Job::Active(job) if job.record.paused != paused => {
                job.count_time(now);
                job.record.paused = paused;
                job.event(&mut self.desk.batch, now, what);
                self.desk.scheduler.set_paused(&id, paused);
            }
            // Whoever trains is told with its next report.
            Job::Training(training) if training.record.paused != paused => {
                training.record.paused = paused;
                training.event(&mut self.desk.batch, now, what);
                self.desk.scheduler.offer();
            }
            Job::Plan(plan) if plan.record.paused != paused => {
                plan.record.paused = paused;
                plan.event(&mut self.desk.batch, now, what);
                self.desk.scheduler.offer();
                self.pause_stage_job(&id, paused, now)?;
            }
            Job::Active(_) | Job::Training(_) | Job::Plan(_) | Job::Ended(_) => {}
        }
        self.status(id.as_str(), now).map(|(status, _)| status)
    }

    /// Ends a job.
    ///
    /// # Errors
    /// [`EngineError`] when there is no such job, or it is done or has failed.
    pub fn cancel(&mut self, prefix: &str, now: Now) -> Result<JobStatus, EngineError> {
        let id = self.find(prefix)?;
        let is_cancelled = matches!(self.jobs.get(&id), Some(job) if job.state() == JobState::Cancelled);
        if !is_cancelled {
            match unfinished(&mut self.jobs, &id, "cancelled")? {
                Job::Active(job) => self.desk.end(job, Ended::Cancelled, now),
                Job::Training(training) => training.end(&mut self.desk.batch, Ended::Cancelled, now),
                Job::Plan(plan) => {
                    plan.end(&mut self.desk.batch, Ended::Cancelled, now);
                    self.desk.scheduler.offer();
                    self.stop_stage_job(&id, now)?;
                }
                Job::Ended(_) => {}
            }
            tracing::info!(job = %id, "cancelled");
        }
        self.status(id.as_str(), now).map(|(status, _)| status)
    }

    /// The factors of a job.
    ///
    /// # Errors
    /// [`EngineError::NoResult`] while no candidate has a score.
    pub fn result(&self, prefix: &str, now: Now) -> Result<ResultText, EngineError> {
        let id = self.find(prefix)?;
        let stored = self.desk.store.factors(&id)?;
        let mut restored;
        let job = match self.jobs.get(&id) {
            Some(Job::Active(job)) => job.as_ref(),
            Some(Job::Training(_)) => return Err(EngineError::NoFactors(id)),
            Some(Job::Ended(ended)) if ended.record.is_training() => return Err(EngineError::NoFactors(id)),
            Some(Job::Plan(_)) => return Err(EngineError::FactorsInFolder(id)),
            Some(Job::Ended(ended)) if ended.record.is_plan() => return Err(EngineError::FactorsInFolder(id)),
            Some(Job::Ended(ended)) => {
                restored = ActiveJob::restore(&self.desk.store, id.clone(), ended.record.clone(), now)?;
                if stored.is_none() {
                    // What the open generation had when the job ended counts, as in its status.
                    restored.stage = self.desk.known_stage(&restored)?;
                }
                &restored
            }
            None => return Err(unknown(prefix)),
        };
        let complete = stored.is_some();
        let factors_json = match stored {
            Some(text) => text,
            None => {
                let file = factors_so_far(job).ok_or_else(|| EngineError::NoResult(id.clone()))?;
                file.to_json().map_err(|_| EngineError::NoResult(id.clone()))?
            }
        };
        let history_json = serde_json::to_string(job.strategy.history()).unwrap_or_else(|_| "[]".into());
        Ok(ResultText { complete, factors_json, config_json: job.spec.model.config_json.clone(), history_json })
    }
}

/// A job that something can still be done with.
fn unfinished<'a>(
    jobs: &'a mut BTreeMap<JobId, Job>,
    id: &JobId,
    action: &'static str,
) -> Result<&'a mut Job, EngineError> {
    let job = jobs.get_mut(id).ok_or_else(|| unknown(id.as_str()))?;
    let state = job.state();
    if state.is_final() {
        return Err(EngineError::WrongState { job: id.clone(), state, action });
    }
    Ok(job)
}

pub(super) fn unknown(prefix: &str) -> EngineError {
    EngineError::UnknownJob(prefix.chars().take(80).collect())
}
