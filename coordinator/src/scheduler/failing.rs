//! What follows when a worker cannot evaluate a unit.

use super::Scheduler;
use super::queue::{Place, UnitKey};
use ropewalk_shared::job::JobId;
use ropewalk_shared::outcome::{FailureKind, UnitFailure};
use ropewalk_shared::work::{LeaseId, Measure, WorkerId};
use std::time::Duration;

/// What follows from a failure that a worker reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AfterFailure {
    /// The unit waits again, or is with another worker already.
    Requeued,
    /// The same, and this worker is not given such units any more.
    WorkerUnable,
    /// The candidate has failed for this reason: withdraw it.
    CandidateFailed(String),
    /// This lease's failure was reported before.
    Duplicate,
    /// The unit is settled or was never wanted.
    NotWanted,
}

// === impl Scheduler ===

impl Scheduler {
    /// Takes in a failure that a worker reported.
    pub fn fail(
        &mut self,
        now: Duration,
        worker: &WorkerId,
        lease: LeaseId,
        job: &JobId,
        unit: UnitKey,
        failure: &UnitFailure,
    ) -> AfterFailure {
        let Some(queue) = self.jobs.get_mut(job) else { return AfterFailure::NotWanted };
        let Some(record) = queue.get_mut(unit) else { return AfterFailure::NotWanted };
        if record.failed_leases.contains(&lease) {
            return AfterFailure::Duplicate;
        }
        let is_leased = record.place == Place::Leased(lease);
        if !is_leased && !failure.kind.counts_against_candidate() {
            return AfterFailure::NotWanted;
        }
        record.last_failure = Some(failure.reason.clone());
        let (tokens, measure) = (queue.tokens(unit), queue.measure(unit));
        self.workers.failure(now, worker);
        if is_leased {
            Self::end_lease(&mut self.leases, &mut self.workers, lease);
        }
        self.offers += 1;
        match failure.kind {
            FailureKind::Evaluation => {
                let failures = queue.evaluation_failed(unit, lease);
                if failures >= self.options.max_failures {
                    let reason = format!("failed on {failures} leases; the last said: {}", failure.reason);
                    return AfterFailure::CandidateFailed(reason);
                }
                if is_leased {
                    queue.put_back(unit, false);
                }
                AfterFailure::Requeued
            }
            FailureKind::ModelMissing | FailureKind::FingerprintMismatch | FailureKind::TooLarge => {
                let model = queue.model;
                queue.put_back(unit, true);
                let (measure, limit) = match failure.kind {
                    FailureKind::TooLarge => (measure, u64::from(tokens).saturating_sub(1)),
                    // Without the model there is nothing that it can do.
                    _ => (Measure::Loss, 0),
                };
                match self.workers.limit(worker, model, measure, limit) {
                    true => AfterFailure::WorkerUnable,
                    false => AfterFailure::Requeued,
                }
            }
            FailureKind::NoGradient => {
                let model = queue.model;
                queue.put_back(unit, true);
                match self.workers.limit(worker, model, Measure::Gradient, 0) {
                    true => AfterFailure::WorkerUnable,
                    false => AfterFailure::Requeued,
                }
            }
            FailureKind::HandedBack => {
                queue.put_back(unit, true);
                AfterFailure::Requeued
            }
            FailureKind::SampleUnavailable => {
                queue.delay(unit, now, &self.options);
                AfterFailure::Requeued
            }
        }
    }
}
