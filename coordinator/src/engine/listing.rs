//! What is told of jobs and workers, and which job a beginning of an id names.

use super::core::{Core, unknown};
use super::error::EngineError;
use super::jobs::Job;
use super::overview::newest_first;
use super::time::Now;
use ropewalk_shared::job::JobId;
use ropewalk_shared::status::{JobStatus, WorkerStatus};

// === impl Core ===

impl Core {
    /// How a job stands, and the number of its last event.
    ///
    /// # Errors
    /// [`EngineError`] when no job or several begin with `prefix`.
    pub fn status(&self, prefix: &str, now: Now) -> Result<(JobStatus, u64), EngineError> {
        let id = self.find(prefix)?;
        self.jobs.get(&id).map(|job| self.status_of(job, now)).ok_or_else(|| unknown(prefix))
    }

    pub(super) fn status_of(&self, job: &Job, now: Now) -> (JobStatus, u64) {
        match job {
            Job::Active(job) => (job.status(self.desk.scheduler.leased(&job.id), now), job.record.last_sequence),
            Job::Training(training) => (training.status(now), training.record.last_sequence),
            Job::Plan(plan) => (plan.status(now), plan.record.last_sequence),
            Job::Ended(job) => (job.status.clone(), job.record.last_sequence),
        }
    }

    /// All jobs, newest first.
    pub fn statuses(&self, now: Now) -> Vec<JobStatus> {
        let mut jobs: Vec<JobStatus> = self.jobs.values().map(|job| self.status_of(job, now).0).collect();
        jobs.sort_by(newest_first);
        jobs
    }

    /// The workers, in the order in which they registered.
    pub fn workers(&self, now: Now) -> Vec<WorkerStatus> {
        let scheduler = &self.desk.scheduler;
        let mut workers: Vec<_> = scheduler.workers().iter().collect();
        workers.sort_by(|a, b| {
            let key = |worker: &crate::scheduler::Worker| (worker.id.as_str().len(), worker.id.clone());
            key(a).cmp(&key(b))
        });
        let status = |worker: &crate::scheduler::Worker| WorkerStatus {
            worker_id: worker.id.to_string(),
            name: worker.profile.name.clone(),
            device: worker.profile.device.clone(),
            dtype: worker.profile.dtype.clone(),
            max_tokens: worker.profile.max_tokens,
            version: worker.profile.version.clone(),
            connected: worker.is_connected(now.since_start, scheduler.options().lease),
            last_seen_ms: now.unix_ms_at(worker.last_seen),
            leased: worker.leased,
            results: worker.results,
            failures: worker.failures,
            tokens_per_second: worker.tokens_per_second,
            stopped_passes: worker.stopped_passes,
            training: worker.training.clone(),
        };
        workers.into_iter().map(status).collect()
    }

    /// The job that a prefix names. The full id names its job even where it begins another's.
    pub(super) fn find(&self, prefix: &str) -> Result<JobId, EngineError> {
        let beginning: Vec<&JobId> = match prefix.parse::<JobId>() {
            Ok(id) if self.jobs.contains_key(&id) => return Ok(id),
            Ok(first) => {
                self.jobs.range(first..).map(|(id, _)| id).take_while(|id| id.as_str().starts_with(prefix)).collect()
            }
            Err(_) => Vec::new(),
        };
        match beginning.as_slice() {
            [] => Err(unknown(prefix)),
            [id] => Ok((*id).clone()),
            [first, second, ..] => Err(EngineError::AmbiguousJob {
                prefix: prefix.to_owned(),
                count: beginning.len(),
                first: (*first).clone(),
                second: (*second).clone(),
            }),
        }
    }
}
