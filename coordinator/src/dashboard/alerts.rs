//! What went wrong lately, in any job.
//!
//! Every event is read once: what is new since the last time is looked through, and the newest that somebody should know of are
//! kept.

use crate::engine::JobOverview;
use crate::store::Store;
use ropewalk_shared::event::{Event, JobEvent};
use ropewalk_shared::job::JobId;
use std::collections::HashMap;

/// Alerts that are kept.
const KEPT: usize = 20;
/// Events of one job that are looked through at a time, its last ones.
const LAST: u64 = 500;
/// Jobs that are looked through, the newest ones.
const JOBS: usize = 100;

/// An event that somebody should know of.
#[derive(Clone, Debug)]
pub(super) struct Alert {
    pub job: JobId,
    pub event: Event,
}

/// The latest ones, and up to where each job was looked through.
#[derive(Debug, Default)]
pub(super) struct Alerts {
    seen: HashMap<JobId, u64>,
    latest: Vec<Alert>,
}

// === impl Alerts ===

impl Alerts {
    /// Looks through what is new; the newest first. A job whose events cannot be read says so itself.
    pub fn update(&mut self, store: &Store, jobs: &[JobOverview]) -> Vec<Alert> {
        let jobs = &jobs[..jobs.len().min(JOBS)];
        self.seen.retain(|id, _| jobs.iter().any(|job| job.status.job_id == *id));
        for JobOverview { status, last_event, .. } in jobs {
            // Looks may come here out of order; nothing is looked through twice.
            let seen = self.seen.entry(status.job_id.clone()).or_insert(0);
            let from = (*seen).max(last_event.saturating_sub(LAST)) + 1;
            *seen = (*seen).max(*last_event);
            let events = store.events(&status.job_id, from, *last_event, LAST as usize).unwrap_or_default();
            let alerts = events.into_iter().filter(|event| is_alert(&event.what));
            self.latest.extend(alerts.map(|event| Alert { job: status.job_id.clone(), event }));
        }
        self.latest.sort_by_key(|alert| std::cmp::Reverse((alert.event.time_ms, alert.event.sequence)));
        self.latest.truncate(KEPT);
        self.latest.clone()
    }
}

/// Whether somebody should know of it.
pub(super) fn is_alert(what: &JobEvent) -> bool {
    matches!(
        what,
        JobEvent::CandidateFailed { .. }
            | JobEvent::ResultConflict { .. }
            | JobEvent::LeaseExpired { .. }
            | JobEvent::WorkerUnable { .. }
            | JobEvent::TrainingReturned { .. }
            | JobEvent::PlanReturned { .. }
            | JobEvent::Failed { .. }
    )
}
