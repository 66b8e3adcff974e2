//! What follows when a worker cannot evaluate a unit.

use super::Scheduler;
use super::queue::{JobQueue, Place, UnitKey};
use super::workers::{Limit, Worker};
use ropewalk_shared::job::JobId;
use ropewalk_shared::outcome::{FailureKind, UnitFailure};
use ropewalk_shared::work::{LeaseId, Measure, WorkerId};
use std::time::Duration;

/// What follows from a failure that a worker reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AfterFailure {
    /// The unit waits again, or is with another worker already.
    Requeued,
    /// The same, and this worker is not given such units any more, or not for some time.
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
        if record.failed.iter().any(|(failed, _)| *failed == lease) {
            return AfterFailure::Duplicate;
        }
        // Whoever does not hold the unit says nothing about it: anybody can name a lease.
        if record.place != Place::Leased(lease) {
            return AfterFailure::NotWanted;
        }
        record.last_failure = Some(failure.reason.clone());
        let (tokens, measure) = (queue.tokens(unit), queue.measure(unit));
        self.workers.failure(now, worker);
        Self::end_lease(&mut self.leases, &mut self.workers, lease);
        self.offers += 1;
        match failure.kind {
            FailureKind::Evaluation => {
                let failures = queue.evaluation_failed(unit, lease, worker);
                if failures >= self.options.max_failures {
                    let reason = format!("failed on {failures} leases; the last said: {}", failure.reason);
                    return AfterFailure::CandidateFailed(reason);
                }
                // Others come first: see `Scheduler::is_for_others`.
                queue.put_back(unit, false);
                AfterFailure::Requeued
            }
            FailureKind::ModelMissing | FailureKind::FingerprintMismatch | FailureKind::TooLarge => {
                let model = queue.model;
                queue.put_back(unit, true);
                let (measure, limit) = match failure.kind {
                    FailureKind::TooLarge => (measure, Limit::for_now(u64::from(tokens).saturating_sub(1), now)),
                    // Without the model there is nothing that it can do.
                    _ => (Measure::Loss, Limit::lasting()),
                };
                match self.workers.limit(worker, model, measure, limit) {
                    true => AfterFailure::WorkerUnable,
                    false => AfterFailure::Requeued,
                }
            }
            FailureKind::NoGradient => {
                let model = queue.model;
                queue.put_back(unit, true);
                match self.workers.limit(worker, model, Measure::Gradient, Limit::lasting()) {
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

    /// Takes in that a worker's result cannot be right. The unit waits for another worker, and this one is not given such
    /// units any more: what it computes says nothing about the candidate. Whether that is news.
    pub fn refuse(&mut self, now: Duration, worker: &WorkerId, lease: LeaseId, job: &JobId) -> bool {
        let held = self.leases.get(lease).filter(|held| held.job == *job && held.worker == *worker);
        let (Some(unit), Some(queue)) = (held.map(|held| held.unit), self.jobs.get_mut(job)) else { return false };
        self.workers.failure(now, worker);
        Self::end_lease(&mut self.leases, &mut self.workers, lease);
        queue.put_back(unit, true);
        self.offers += 1;
        self.workers.refuse(worker, queue.model, queue.measure(unit))
    }

    /// Whether a worker leaves a unit to others, since its evaluation failed here: what fails on one worker alone is that
    /// worker's fault, and must not cost the candidate. It is not kept waiting for workers that ask for nothing.
    pub(super) fn is_for_others(&self, now: Duration, worker: &Worker, queue: &JobQueue, unit: UnitKey) -> bool {
        let failed = queue.failed_on(unit);
        let failed_on = |worker: &Worker| failed.iter().any(|(_, failed)| *failed == worker.id);
        let (tokens, measure) = (u64::from(queue.tokens(unit)), queue.measure(unit));
        failed_on(worker)
            && self.workers.connected(now, self.options.lease).any(|other| {
                !failed_on(other)
                    && other.is_at_work(now, self.options.lease)
                    && other.max_tokens(&queue.model, measure) >= tokens
            })
    }
}
