//! The units a worker holds, from the lease to the acknowledged report.

use super::evaluation::Outcome;
use crate::cancel::CancelFlag;
use ropewalk_shared::outcome::{FailureKind, UnitFailure};
use ropewalk_shared::work::{LeaseId, Unit, UnitOutcome, UnitReport};
use std::sync::Arc;
use std::time::{Duration, Instant};

const STOPPING: &str = "the worker is stopping";
const NOT_BEGUN: &str = "the worker stops, or trains, before it came to it";

/// Units in the order of their leases.
#[derive(Debug, Default)]
pub(super) struct Held {
    units: Vec<HeldUnit>,
    numbered: u64,
}

/// One of them.
#[derive(Debug)]
struct HeldUnit {
    /// Names it in this worker, whatever becomes of its lease.
    number: u64,
    unit: Arc<Unit>,
    lease: LeaseId,
    /// Whether the coordinator still knows the lease. Without one the result is reported all the same: it may still
    /// be wanted.
    leased: bool,
    /// Nobody wants its result any more.
    revoked: bool,
    cancel: CancelFlag,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Queued,
    /// With the evaluation thread; the time is absent until the evaluation begins.
    Assigned(Option<Instant>),
    /// To be reported; `sent` while a report with it is on its way.
    Done {
        outcome: UnitOutcome,
        sent: bool,
    },
}

// === impl Held ===

impl Held {
    /// Adds a leased unit, unless it is held already.
    pub(super) fn add(&mut self, unit: Unit) {
        let lease = unit.lease;
        if self.units.iter().any(|held| held.lease == lease) {
            return;
        }
        let same = |held: &HeldUnit| {
            let known = &*held.unit;
            (&known.job, &known.sample, known.measure, &known.rescale)
                == (&unit.job, &unit.sample, unit.measure, &unit.rescale)
        };
        // What outlived its lease goes on under the new one.
        if let Some(held) = self.units.iter_mut().find(|held| !held.leased && !held.revoked && same(held)) {
            (held.lease, held.leased) = (lease, true);
            return;
        }
        self.numbered += 1;
        self.units.push(HeldUnit {
            number: self.numbered,
            unit: Arc::new(unit),
            lease,
            leased: true,
            revoked: false,
            cancel: CancelFlag::new(),
            stage: Stage::Queued,
        });
    }

    /// Whether nothing is held, not even an unreported result.
    pub(super) fn is_empty(&self) -> bool {
        self.units.is_empty()
    }

    /// Units that are still to be evaluated, the running one included.
    pub(super) fn open(&self) -> usize {
        self.units.iter().filter(|held| !matches!(held.stage, Stage::Done { .. })).count()
    }

    /// Units with the evaluation thread.
    pub(super) fn assigned(&self) -> usize {
        self.units.iter().filter(|held| matches!(held.stage, Stage::Assigned(_))).count()
    }

    /// For how long the current evaluation has been running.
    pub(super) fn running_for(&self, now: Instant) -> Duration {
        let started = self.units.iter().filter_map(|held| match held.stage {
            Stage::Assigned(started) => started,
            _ => None,
        });
        started.min().map_or(Duration::ZERO, |started| now.saturating_duration_since(started))
    }

    /// Units that wait for the evaluation thread, in order.
    pub(super) fn queued(&self) -> impl Iterator<Item = (u64, &Arc<Unit>)> {
        let queued = self.units.iter().filter(|held| matches!(held.stage, Stage::Queued));
        queued.map(|held| (held.number, &held.unit))
    }

    /// The unit goes to the evaluation thread; returns it with the flag that stops it.
    pub(super) fn assign(&mut self, number: u64) -> Option<(Arc<Unit>, CancelFlag)> {
        let held = self.find(number)?;
        held.stage = Stage::Assigned(None);
        Some((held.unit.clone(), held.cancel.clone()))
    }

    /// The evaluation began.
    pub(super) fn started(&mut self, number: u64, now: Instant) {
        if let Some(HeldUnit { stage: Stage::Assigned(started), .. }) = self.find(number) {
            *started = Some(now);
        }
    }

    /// The evaluation ended. A cancelled one that is still wanted goes back; of one that is not, what it has cost is
    /// reported.
    pub(super) fn finished(&mut self, number: u64, outcome: Outcome, took: Duration) {
        let outcome = match outcome {
            Outcome::Loss(loss) => UnitOutcome::Loss { loss, seconds: took.as_secs_f64() },
            Outcome::Gradient(loss, slope) => UnitOutcome::Gradient { loss, slope, seconds: took.as_secs_f64() },
            Outcome::Failure(failure) => UnitOutcome::Failure(failure),
            // The first may be the candidate's doing. An error of CUDA stays, so those that follow are not.
            Outcome::DeviceFailed { reason, in_a_row: 1 } => {
                UnitOutcome::Failure(UnitFailure { kind: FailureKind::Evaluation, reason })
            }
            Outcome::DeviceFailed { reason, .. } => handed_back(&reason),
            Outcome::Cancelled { share } if self.find(number).is_some_and(|held| held.revoked) && share > 0.0 => {
                UnitOutcome::Stopped { share: share.into(), seconds: took.as_secs_f64() }
            }
            Outcome::Cancelled { .. } => handed_back(NOT_BEGUN),
        };
        // One that was handed back before its evaluation began stays so, whatever came of it.
        if let Some(held) = self.find(number).filter(|held| !matches!(held.stage, Stage::Done { .. })) {
            // What a revoked one has cost is told, though nobody wants its result.
            held.revoked &= !matches!(outcome, UnitOutcome::Stopped { .. });
            held.stage = Stage::Done { outcome, sent: false };
        }
        self.units.retain(|held| !(held.revoked && matches!(held.stage, Stage::Done { .. })));
    }

    /// Ends a unit that cannot be evaluated.
    pub(super) fn fail(&mut self, number: u64, failure: UnitFailure) {
        self.finished(number, Outcome::Failure(failure), Duration::ZERO);
    }

    /// Hands back the last `count` units that were not begun.
    pub(super) fn hand_back(&mut self, count: usize, reason: &str) {
        let queued = self.units.iter_mut().rev().filter(|held| matches!(held.stage, Stage::Queued));
        for held in queued.take(count) {
            held.stage = Stage::Done { outcome: handed_back(reason), sent: false };
        }
    }

    /// Stops the evaluations that were not begun, which go back once the thread comes to them.
    pub(super) fn cancel_waiting(&self) {
        let waiting = self.units.iter().filter(|held| matches!(held.stage, Stage::Assigned(None)));
        waiting.for_each(|held| held.cancel.cancel());
    }

    /// Hands back everything but the evaluation that is running, without waiting for the thread: it may be loading a model for
    /// them. Returns how many these are.
    pub(super) fn hand_back_waiting(&mut self) -> usize {
        let waiting = self.units.iter_mut().filter(|held| matches!(held.stage, Stage::Queued | Stage::Assigned(None)));
        let handed_back = waiting.map(|held| {
            held.cancel.cancel();
            held.stage = Stage::Done { outcome: handed_back(STOPPING), sent: false };
        });
        handed_back.count()
    }

    /// Stops every evaluation.
    pub(super) fn cancel_all(&self) {
        self.units.iter().for_each(|held| held.cancel.cancel());
    }

    /// The coordinator does not want this lease's result any more.
    pub(super) fn revoke(&mut self, lease: LeaseId) {
        let Some(index) = self.units.iter().position(|held| held.leased && held.lease == lease) else { return };
        let held = &mut self.units[index];
        match held.stage {
            Stage::Queued => _ = self.units.remove(index),
            Stage::Assigned(_) => {
                held.cancel.cancel();
                (held.revoked, held.leased) = (true, false);
            }
            // The work is done: whether it is of use is the coordinator's to say.
            Stage::Done { .. } => held.leased = false,
        }
    }

    /// The coordinator knows none of the leases any more: what was not begun will be leased anew.
    pub(super) fn forget_leases(&mut self) {
        self.units.retain(|held| !matches!(held.stage, Stage::Queued));
        self.units.iter_mut().for_each(|held| held.leased = false);
    }

    /// Leases to be renewed.
    pub(super) fn leases(&self) -> impl Iterator<Item = LeaseId> {
        self.units.iter().filter(|held| held.leased).map(|held| held.lease)
    }

    /// Takes up to `most` outcomes that are not on their way yet, with the numbers of their units.
    pub(super) fn reports(&mut self, most: usize) -> (Vec<u64>, Vec<UnitReport>) {
        let mut reports = (Vec::new(), Vec::new());
        for held in &mut self.units {
            if let Stage::Done { outcome, sent: sent @ false } = &mut held.stage
                && reports.0.len() < most
            {
                *sent = true;
                reports.0.push(held.number);
                reports.1.push(UnitReport {
                    lease: held.lease,
                    job: held.unit.job.clone(),
                    sample: held.unit.sample,
                    rescale: held.unit.rescale.clone(),
                    outcome: outcome.clone(),
                });
            }
        }
        reports
    }

    /// Whether [`Self::reports`] would give any.
    pub(super) fn has_reports(&self) -> bool {
        self.units.iter().any(|held| matches!(held.stage, Stage::Done { sent: false, .. }))
    }

    /// These outcomes arrived.
    pub(super) fn acknowledged(&mut self, numbers: &[u64]) {
        self.units.retain(|held| !numbers.contains(&held.number));
    }

    /// These outcomes may not have arrived.
    pub(super) fn not_acknowledged(&mut self, numbers: &[u64]) {
        for held in &mut self.units {
            if let Stage::Done { sent, .. } = &mut held.stage
                && numbers.contains(&held.number)
            {
                *sent = false;
            }
        }
    }

    fn find(&mut self, number: u64) -> Option<&mut HeldUnit> {
        self.units.iter_mut().find(|held| held.number == number)
    }
}

impl Drop for Held {
    /// A worker that is dropped leaves no evaluation running.
    fn drop(&mut self) {
        self.cancel_all();
    }
}

fn handed_back(reason: &str) -> UnitOutcome {
    UnitOutcome::Failure(UnitFailure { kind: FailureKind::HandedBack, reason: reason.to_owned() })
}

#[cfg(test)]
mod tests;
