//! Commands about plans: of clients, who launch them, and of the driver, which has them carried out.

use super::core::{Core, Launched};
use super::error::EngineError;
use super::jobs::Job;
use super::plan::ActivePlan;
use super::time::Now;
use super::tries::{MAX_FRUITLESS, pause_after};
use crate::store::Ended;
use ropewalk_shared::event::JobEvent;
use ropewalk_shared::job::JobId;
use ropewalk_shared::plan::{PlanJob, StageAtWork};
use ropewalk_shared::status::JobState;
use std::time::Duration;

/// A plan that is to be carried out now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanToRun {
    /// The job's id.
    pub id: JobId,
    /// The plan.
    pub job: PlanJob,
    /// The attempt that is being made; absent while nobody carries it out.
    pub carried: Option<u32>,
}

/// What is told of an attempt to carry a plan out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlanReport {
    /// It cannot go on yet.
    Waiting(String),
    /// A stage has begun, or goes on.
    Begun(StageAtWork),
    /// A stage will wait for this search or training, which may not be launched yet.
    Job {
        /// The stage.
        stage: String,
        /// The job.
        job: JobId,
    },
    /// A stage is done, now or before.
    Done {
        /// The stage.
        stage: String,
        /// What it made, in one line.
        summary: String,
    },
    /// The attempt is over.
    Ended(AttemptEnd),
}

/// How an attempt to carry a plan out ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttemptEnd {
    /// Every stage is done.
    Complete,
    /// What the plan is run with is wrong: another attempt would find the same.
    Invalid(String),
    /// Something else went wrong.
    Failed(String),
    /// It was stopped.
    Stopped,
}

// === impl Core ===

impl Core {
    /// Starts a plan, or finds the one that was started with the same specification. One that is over goes through its stages
    /// again, since its folder decides which of them are done: it may have been changed or emptied.
    ///
    /// # Errors
    /// [`EngineError::InvalidPlan`] with everything that is wrong with it, or [`EngineError::PlanFolderInUse`].
    pub fn launch_plan(&mut self, job: PlanJob, now: Now) -> Result<Launched, EngineError> {
        let mut plan = ActivePlan::begin(job, now)?;
        let id = plan.id.clone();
        let folder = plan.job.folder.clone();
        if let Some(other) = self.plans().find(|other| other.id != id && other.job.folder == folder) {
            return Err(EngineError::PlanFolderInUse { folder, job: other.id.clone() });
        }
        if self.jobs.contains_key(&id) {
            self.relaunch(&id, now)?;
            return Ok(Launched { job: id, created: false });
        }
        self.desk.batch.plan(&id, &plan.job);
        let launched = JobEvent::PlanLaunched { stages: plan.job.stages };
        plan.event(&mut self.desk.batch, now, launched);
        self.desk.scheduler.offer();
        tracing::info!(job = %id, "launched");
        self.jobs.insert(id.clone(), Job::Plan(Box::new(plan)));
        Ok(Launched { job: id, created: true })
    }

    /// Brings a plan that is over back to life.
    pub(super) fn restart_plan(&mut self, mut plan: ActivePlan, now: Now) {
        (plan.state.fruitless, plan.state.stage, plan.state.job) = (0, None, None);
        plan.state.done.clear();
        plan.release(Duration::ZERO, now);
        plan.event(&mut self.desk.batch, now, JobEvent::Restarted);
        self.desk.scheduler.offer();
        tracing::info!(job = %plan.id, "restarted");
        self.jobs.insert(plan.id.clone(), Job::Plan(Box::new(plan)));
    }

    fn plans(&self) -> impl Iterator<Item = &ActivePlan> {
        self.jobs.values().filter_map(|job| match job {
            Job::Plan(plan) if plan.record.ended.is_none() => Some(plan.as_ref()),
            Job::Plan(_) | Job::Active(_) | Job::Training(_) | Job::Ended(_) => None,
        })
    }

    /// The plans that are to be carried out now, the oldest first.
    pub fn plans_to_run(&self, now: Now) -> Vec<PlanToRun> {
        let mut plans: Vec<&ActivePlan> = self.plans().filter(|plan| plan.is_wanted(now)).collect();
        plans.sort_by_key(|plan| plan.record.created_ms);
        let to_run =
            |plan: &ActivePlan| PlanToRun { id: plan.id.clone(), job: plan.job.clone(), carried: plan.carried };
        plans.into_iter().map(to_run).collect()
    }

    /// Begins an attempt to carry a plan out, and returns its number; `None` where it is not wanted, or carried out already.
    ///
    /// # Errors
    /// None of its own; as other commands.
    pub fn carry_plan(&mut self, id: &JobId, now: Now) -> Result<Option<u32>, EngineError> {
        Ok(match self.jobs.get_mut(id) {
            Some(Job::Plan(plan)) if plan.is_wanted(now) && plan.carried.is_none() => Some(plan.carry()),
            _ => None,
        })
    }

    /// Takes in what is told of an attempt. What is told of an earlier one than the last counts no more.
    ///
    /// # Errors
    /// [`EngineError::Store`]
    pub fn report_plan(&mut self, id: &JobId, attempt: u32, report: PlanReport, now: Now) -> Result<(), EngineError> {
        let over = matches!(report, PlanReport::Ended(_));
        let launched = if let PlanReport::Job { job, .. } = &report { Some(job.clone()) } else { None };
        let failed_for_good = self.stage_job_failed(id);
        let batch = &mut self.desk.batch;
        if let Some(Job::Plan(plan)) = self.jobs.get_mut(id)
            && plan.carried == Some(attempt)
        {
            match report {
                PlanReport::Waiting(reason) => plan.trouble = Some(reason),
                PlanReport::Begun(stage) => plan.stage_begun(batch, stage, now),
                PlanReport::Job { stage, job } => plan.stage_waits_for(batch, stage, job, now),
                PlanReport::Done { stage, summary } => plan.stage_done(batch, stage, summary, now),
                PlanReport::Ended(AttemptEnd::Complete) => {
                    plan.end(batch, Ended::Done, now);
                    tracing::info!(job = %id, "the plan is done");
                }
                PlanReport::Ended(AttemptEnd::Invalid(reason)) => plan.end(batch, Ended::Failed(reason), now),
                PlanReport::Ended(AttemptEnd::Failed(reason)) if failed_for_good => {
                    plan.end(batch, Ended::Failed(reason), now);
                }
                PlanReport::Ended(AttemptEnd::Failed(reason)) => self.attempt_failed(id, reason, now),
                PlanReport::Ended(AttemptEnd::Stopped) => plan.release(Duration::ZERO, now),
            }
            self.desk.scheduler.offer();
        }
        // Whoever carried it out may have launched its job after the plan was stopped, and say so after it was cancelled.
        let late = launched.is_some_and(|job| self.note_late_job(id, attempt, job));
        if over || late { self.stop_stage_job(id, now) } else { Ok(()) }
    }

    /// Notes the job of a plan that was over when it was told of it; false where it was not.
    fn note_late_job(&mut self, id: &JobId, attempt: u32, job: JobId) -> bool {
        let batch = &mut self.desk.batch;
        match self.jobs.get_mut(id) {
            Some(Job::Plan(plan)) if plan.record.ended.is_some() && plan.state.attempts == attempt => {
                plan.state.job = Some(job);
                plan.is_dirty = true;
                true
            }
            Some(Job::Ended(ended)) if ended.damage.is_none() => match &mut ended.record.plan {
                Some(state) if state.attempts == attempt => {
                    state.job = Some(job);
                    batch.job(id, &ended.record);
                    true
                }
                _ => false,
            },
            _ => false,
        }
    }

    /// Whether the search or training that the plan waits for has ended without a result: it was tried as often as makes sense,
    /// or somebody wanted its end.
    fn stage_job_failed(&self, id: &JobId) -> bool {
        let Some(Job::Plan(plan)) = self.jobs.get(id) else { return false };
        let job = plan.state.job.as_ref().and_then(|job| self.jobs.get(job));
        job.is_some_and(|job| matches!(job.state(), JobState::Failed | JobState::Cancelled))
    }

    fn attempt_failed(&mut self, id: &JobId, reason: String, now: Now) {
        let Some(Job::Plan(plan)) = self.jobs.get_mut(id) else { return };
        tracing::warn!(job = %id, "an attempt to carry a plan out failed: {reason}");
        plan.state.fruitless += 1;
        let Some(pause) = pause_after(plan.state.fruitless) else {
            let reason = format!("{MAX_FRUITLESS} attempts failed without another stage done, the last: {reason}");
            return plan.end(&mut self.desk.batch, Ended::Failed(reason), now);
        };
        plan.event(&mut self.desk.batch, now, JobEvent::PlanReturned { reason: reason.clone() });
        plan.release(now.since_start + pause, now);
        plan.trouble = Some(reason);
    }

    /// Pauses or resumes the job that a plan waits for, as the plan itself.
    pub(super) fn pause_stage_job(&mut self, id: &JobId, paused: bool, now: Now) -> Result<(), EngineError> {
        match self.stage_job(id) {
            Some(job) => self.set_paused(job.as_str(), paused, now).map(|_| ()),
            None => Ok(()),
        }
    }

    /// Pauses or ends the job of a plan that is paused or was cancelled.
    pub(super) fn stop_stage_job(&mut self, id: &JobId, now: Now) -> Result<(), EngineError> {
        let state = self.jobs.get(id).map(Job::state);
        match (state, self.stage_job(id)) {
            (Some(JobState::Paused), Some(job)) => self.set_paused(job.as_str(), true, now).map(|_| ()),
            (Some(JobState::Cancelled), Some(job)) => self.cancel(job.as_str(), now).map(|_| ()),
            _ => Ok(()),
        }
    }

    /// The job that a plan waits for, where it is there and not over.
    fn stage_job(&self, id: &JobId) -> Option<JobId> {
        let job = match self.jobs.get(id)? {
            Job::Plan(plan) => plan.state.job.as_ref()?,
            Job::Ended(ended) => ended.record.plan.as_ref()?.job.as_ref()?,
            Job::Active(_) | Job::Training(_) => return None,
        };
        let goes_on = matches!(self.jobs.get(job), Some(Job::Active(_) | Job::Training(_)));
        (goes_on && self.jobs.get(job).is_some_and(|job| !job.state().is_final())).then(|| job.clone())
    }

    /// Looks whether the pause of a plan is over.
    pub(super) fn pass_time_of_plans(&mut self, now: Now) {
        let mut offer = false;
        for job in self.jobs.values_mut() {
            let Job::Plan(plan) = job else { continue };
            if plan.not_before > Duration::ZERO && plan.is_wanted(now) {
                plan.not_before = Duration::ZERO;
                offer = true;
            }
        }
        if offer {
            self.desk.scheduler.offer();
        }
    }
}
