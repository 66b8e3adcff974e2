//! Everything that is watched from outside, at one moment.

use super::core::Core;
use super::jobs::Job;
use super::tally::Tally;
use super::time::Now;
use ropewalk_shared::status::{JobStatus, WorkerStatus};

/// How everything stands.
#[derive(Clone, Debug)]
pub struct Overview {
    /// When.
    pub now: Now,
    /// All jobs, newest first.
    pub jobs: Vec<JobOverview>,
    /// All workers, in the order in which they registered.
    pub workers: Vec<WorkerStatus>,
    /// What was done since the start.
    pub tally: Tally,
}

/// How a job stands.
#[derive(Clone, Debug)]
pub struct JobOverview {
    /// Its status.
    pub status: JobStatus,
    /// The number of its last event.
    pub last_event: u64,
    /// Units that wait to be leased, those that are done ahead included.
    pub units_waiting: usize,
}

// === impl Core ===

impl Core {
    /// How everything stands.
    pub fn overview(&self, now: Now) -> Overview {
        let overview = |job: &Job| {
            let (status, last_event) = self.status_of(job, now);
            let units_waiting = self.desk.scheduler.units_waiting(&status.job_id);
            JobOverview { status, last_event, units_waiting }
        };
        let mut jobs: Vec<JobOverview> = self.jobs.values().map(overview).collect();
        jobs.sort_by(|a, b| newest_first(&a.status, &b.status));
        let tally = Tally { leased: self.desk.scheduler.granted(), ..self.desk.tally.clone() };
        Overview { now, jobs, workers: self.workers(now), tally }
    }
}

/// The order in which jobs are listed.
pub(super) fn newest_first(a: &JobStatus, b: &JobStatus) -> std::cmp::Ordering {
    b.created_ms.cmp(&a.created_ms).then_with(|| a.job_id.cmp(&b.job_id))
}
