//! Jobs as the engine keeps them: under way with everything they need, or over with little more than a status.

use super::job::ActiveJob;
use super::plan::ActivePlan;
use super::record::unreadable;
use super::training::ActiveTraining;
use crate::store::{JobRecord, StoreError};
use ropewalk_shared::job::JobId;
use ropewalk_shared::status::{JobState, JobStatus};

/// A job, under way or over.
pub(super) enum Job {
    Active(Box<ActiveJob>),
    /// A training, which is no search.
    Training(Box<ActiveTraining>),
    /// A plan, which is neither.
    Plan(Box<ActivePlan>),
    Ended(Box<EndedJob>),
}

/// A job that is over: it is listed, and brought back only when somebody launches it again or wants its result.
pub(super) struct EndedJob {
    pub record: JobRecord,
    pub status: JobStatus,
    /// Why its record could not be read; the one above stands in for it then, and must not be written.
    pub damage: Option<StoreError>,
}

// === impl Job ===

impl Job {
    pub fn of(job: ActiveJob) -> Self {
        Self::Active(Box::new(job))
    }

    pub fn ended(id: &JobId, record: JobRecord) -> Self {
        let status = record.final_status.clone();
        let status = status.unwrap_or_else(|| unreadable(id, &record, "it ended without a status".into()));
        Self::Ended(Box::new(EndedJob { record, status, damage: None }))
    }

    /// What is listed in the place of a job whose record cannot be read.
    pub fn damaged(id: &JobId, damage: StoreError) -> Self {
        let record = JobRecord::new(0);
        let status = unreadable(id, &record, damage.to_string());
        Self::Ended(Box::new(EndedJob { record, status, damage: Some(damage) }))
    }

    /// Whether it has ended in this round: its end is not stored yet.
    pub fn ends_now(&self) -> bool {
        match self {
            Self::Active(job) => job.record.ended.is_some(),
            Self::Training(training) => training.record.ended.is_some(),
            Self::Plan(plan) => plan.record.ended.is_some(),
            Self::Ended(_) => false,
        }
    }

    pub fn state(&self) -> JobState {
        match self {
            Self::Active(job) => job.state(),
            Self::Training(training) => training.state(),
            Self::Plan(plan) => plan.state(),
            Self::Ended(job) => job.status.state,
        }
    }
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.state().name())
    }
}
