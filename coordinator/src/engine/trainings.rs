//! Commands about trainings: of clients, who launch them, and of workers, who carry them out.

use super::core::{Core, Launched};
use super::error::EngineError;
use super::jobs::Job;
use super::time::Now;
use super::training::ActiveTraining;
use super::tries::{MAX_FRUITLESS, pause_after};
use crate::store::Ended;
use ropewalk_shared::event::JobEvent;
use ropewalk_shared::job::JobId;
use ropewalk_shared::training::{
    TrainingEnd, TrainingFailure, TrainingFailureKind, TrainingJob, TrainingLease, TrainingReport, TrainingRequest,
};
use std::collections::BTreeMap;
use std::time::Duration;

/// A training over which so many workers fell silent without another step has failed; they may have done so for other reasons.
const MAX_SILENT: u32 = 20;
/// Before a folder is tried again that was in use.
const PAUSE: Duration = Duration::from_secs(5);

// === impl Core ===

impl Core {
    /// Starts a training, or finds the one that was started with the same specification. One that was cancelled or has
    /// failed goes on.
    ///
    /// # Errors
    /// [`EngineError::InvalidTraining`] with everything that is wrong with it.
    pub fn launch_training(&mut self, job: TrainingJob, now: Now) -> Result<Launched, EngineError> {
        let mut training = ActiveTraining::begin(job, now)?;
        let id = training.id.clone();
        if self.jobs.contains_key(&id) {
            self.relaunch(&id, now)?;
            return Ok(Launched { job: id, created: false });
        }
        self.desk.batch.training(&id, &training.job);
        let launched = JobEvent::TrainingLaunched { steps: training.job.settings.steps };
        training.event(&mut self.desk.batch, now, launched);
        self.desk.scheduler.offer();
        tracing::info!(job = %id, "launched");
        self.jobs.insert(id.clone(), Job::Training(Box::new(training)));
        Ok(Launched { job: id, created: true })
    }

    /// Brings a training that is over back to life.
    pub(super) fn restart_training(&mut self, mut training: ActiveTraining, now: Now) {
        (training.state.fruitless, training.state.silent) = (0, 0);
        training.event(&mut self.desk.batch, now, JobEvent::Restarted);
        self.desk.scheduler.offer();
        tracing::info!(job = %training.id, "restarted");
        self.jobs.insert(training.id.clone(), Job::Training(Box::new(training)));
    }

    /// The training that this worker would be given.
    pub fn offered_training(&self, request: &TrainingRequest, now: Now) -> Option<JobId> {
        let trainings = self.jobs.values().filter_map(|job| match job {
            Job::Training(training) => Some(training),
            Job::Active(_) | Job::Plan(_) | Job::Ended(_) => None,
        });
        let free = trainings.filter(|training| training.is_free(now) && !request.declined.contains(&training.id));
        free.min_by_key(|training| training.record.created_ms).map(|training| training.id.clone())
    }

    /// Leases a training, where there is one.
    ///
    /// # Errors
    /// None of its own; as other commands.
    pub fn lease_training(&mut self, request: &TrainingRequest, now: Now) -> Result<TrainingLease, EngineError> {
        let lease = self.desk.scheduler.options().lease;
        let mut answer = TrainingLease { unit: None, lease, report: lease / 3 };
        let offered = self.offered_training(request, now);
        if let Some(Job::Training(training)) = offered.and_then(|id| self.jobs.get_mut(&id)) {
            let number = self.desk.scheduler.new_lease();
            let until = now.since_start + lease;
            let unit = training.lease(&mut self.desk.batch, number, request.worker.clone(), until, now);
            tracing::info!(job = %unit.id, worker = request.worker, attempt = unit.attempt, "a training was leased");
            answer.unit = Some(unit);
        }
        Ok(answer)
    }

    /// Takes in what a worker did, and says whether it is to go on.
    ///
    /// # Errors
    /// None of its own; as other commands.
    pub fn report_training(&mut self, report: &TrainingReport, now: Now) -> Result<bool, EngineError> {
        let until = now.since_start + self.desk.scheduler.options().lease;
        let training = match self.jobs.get_mut(&report.job) {
            Some(Job::Training(training)) if training.record.ended.is_some() => {
                training.is_dirty |= training.state.let_go(report.lease.0);
                return Ok(false);
            }
            Some(Job::Training(training)) => training,
            Some(Job::Ended(ended)) => {
                if ended.record.training.as_mut().is_some_and(|state| state.let_go(report.lease.0)) {
                    self.desk.batch.job(&report.job, &ended.record);
                }
                return Ok(false);
            }
            Some(Job::Active(_) | Job::Plan(_)) | None => return Ok(false),
        };
        if !training.renew(report.lease, until) {
            return Ok(false);
        }
        let batch = &mut self.desk.batch;
        training.note_steps(batch, &report.steps, now);
        training.note_checkpoint(batch, report.checkpoint, now);
        match &report.end {
            Some(TrainingEnd::Trained(fingerprint)) => {
                training.event(batch, now, JobEvent::Trained { fingerprint: *fingerprint });
                training.end(batch, Ended::Done, now);
                tracing::info!(job = %training.id, "trained");
                Ok(false)
            }
            Some(TrainingEnd::Failed(failure)) => {
                self.training_failed(report, failure, now);
                Ok(false)
            }
            None if training.record.paused => {
                training.release(Duration::ZERO, now);
                Ok(false)
            }
            None => Ok(true),
        }
    }

    fn training_failed(&mut self, report: &TrainingReport, failure: &TrainingFailure, now: Now) {
        let Some(Job::Training(training)) = self.jobs.get_mut(&report.job) else { return };
        let (kind, worker) = (failure.kind, report.worker.clone());
        tracing::warn!(job = %training.id, worker, ?kind, "a training came back: {}", failure.reason);
        let returned = JobEvent::TrainingReturned { worker, failure: Some(kind), reason: failure.reason.clone() };
        training.event(&mut self.desk.batch, now, returned);
        training.state.fruitless += u32::from(kind == TrainingFailureKind::Training);
        let pause = match kind {
            TrainingFailureKind::Training => pause_after(training.state.fruitless),
            TrainingFailureKind::Busy => Some(PAUSE),
            TrainingFailureKind::HandedBack | TrainingFailureKind::NotHere | TrainingFailureKind::TooLarge => {
                Some(Duration::ZERO)
            }
            TrainingFailureKind::Diverged | TrainingFailureKind::Invalid => None,
        };
        let Some(pause) = pause else {
            let tried = format!("{MAX_FRUITLESS} attempts failed without another step, the last: {}", failure.reason);
            let reason = if kind.is_final() { failure.reason.clone() } else { tried };
            return training.end(&mut self.desk.batch, Ended::Failed(reason), now);
        };
        training.release(now.since_start + pause, now);
        if kind != TrainingFailureKind::HandedBack {
            training.trouble = Some(format!("{} said: {}", report.worker, failure.reason));
        }
        self.desk.scheduler.offer();
    }

    /// The trainings that are leased, each with the name of its worker.
    pub(super) fn leased_trainings(&self) -> BTreeMap<JobId, String> {
        let leased = self.jobs.values().filter_map(|job| match job {
            Job::Training(training) => training.worker().map(|worker| (training.id.clone(), worker.to_owned())),
            Job::Active(_) | Job::Plan(_) | Job::Ended(_) => None,
        });
        leased.collect()
    }

    /// Takes trainings back from workers that were not heard from, and offers those again whose pause is over.
    pub(super) fn pass_time_of_trainings(&mut self, now: Now) {
        let lease = self.desk.scheduler.options().lease;
        let mut offer = false;
        for job in self.jobs.values_mut() {
            let Job::Training(training) = job else { continue };
            if training.deadline.is_some_and(|deadline| deadline <= now.since_start) {
                let worker = training.state.holder.as_ref().map_or_else(String::new, |holder| holder.worker.clone());
                let reason = format!("it was not heard from for {} s", lease.as_secs_f64());
                tracing::warn!(job = %training.id, worker, "a training's lease expired");
                let returned = JobEvent::TrainingReturned { worker: worker.clone(), failure: None, reason };
                training.event(&mut self.desk.batch, now, returned);
                training.deadline = None;
                training.waiting_since = now.since_start;
                training.trouble = Some(format!("{worker} was not heard from any more"));
                training.state.silent += 1;
                if training.state.silent >= MAX_SILENT {
                    let reason = format!("{MAX_SILENT} workers fell silent over it without another step");
                    training.end(&mut self.desk.batch, Ended::Failed(reason), now);
                }
                offer = true;
            }
            // A pause that ends between two looks is one.
            offer |= training.not_before > Duration::ZERO && training.is_free(now);
            if training.is_free(now) {
                training.not_before = Duration::ZERO;
            }
        }
        if offer {
            self.desk.scheduler.offer();
        }
    }
}
