//! Commands of workers.

use super::core::Core;
use super::error::EngineError;
use super::jobs::Job;
use super::time::Now;
use crate::scheduler::{AfterFailure, Lane, UnitKey};
use crate::store::StoreError;
use ropewalk_shared::event::JobEvent;
use ropewalk_shared::outcome::{FailureKind, Loss, LossSlope, UnitFailure};
use ropewalk_shared::rope::Rescale;
use ropewalk_shared::work::{
    LeaseId, LeaseRequest, Measure, Registration, Unit, UnitOutcome, UnitReport, Verdict, WorkerId, WorkerProfile,
};
use std::collections::BTreeSet;

/// Mean losses of one unit that differ by more than this, relatively, are a conflict. Devices and number types
/// differ by less; a wrong model or a broken device by more.
const TOLERANCE: f64 = 1e-3;
/// The same in nats, for losses near zero, of which rounding is a larger part.
const ROUNDED: f64 = 1e-4;
/// Rounding may leave the sum of many losses near zero this far below, in nats per token.
const ROUNDING: f64 = 1e-3;
/// Largest answer to a request for work, in bytes of rescale factors.
const MAX_LEASED_BYTES: usize = 1 << 20;
/// Second results flagged in one job; a worker that computes wrongly shows in far fewer.
const MAX_CONFLICTS: usize = 1000;

// === impl Core ===

impl Core {
    /// Takes in a worker.
    ///
    /// # Errors
    /// [`EngineError::TooManyWorkers`]
    pub fn register(&mut self, profile: WorkerProfile, now: Now) -> Result<Registration, EngineError> {
        let scheduler = &mut self.desk.scheduler;
        let worker = scheduler.register(now.since_start, profile).ok_or(EngineError::TooManyWorkers)?;
        self.desk.tally.registered += 1;
        let lease = scheduler.options().lease;
        // Two heartbeats may get lost before a lease does.
        Ok(Registration { worker, lease, heartbeat: lease / 3 })
    }

    /// Leases units.
    ///
    /// # Errors
    /// [`EngineError::UnknownWorker`]
    pub fn lease(&mut self, mut request: LeaseRequest, now: Now) -> Result<Vec<Unit>, EngineError> {
        let pairs = self.jobs.values().filter_map(|job| match job {
            Job::Active(job) => Some(job.description.geometry.pairs()),
            Job::Training(_) | Job::Plan(_) | Job::Ended(_) => None,
        });
        // A factor and an attention factor of each pair.
        let fits = MAX_LEASED_BYTES / (16 * pairs.max().unwrap_or(1).max(1));
        request.max_units = request.max_units.min(fits.max(1) as u32);
        let grants = self.desk.scheduler.lease(now.since_start, &request)?;
        let units = grants.into_iter().filter_map(|grant| {
            let Job::Active(job) = self.jobs.get(&grant.job)? else { return None };
            let sample = job.stage_sample(grant.unit.sample)?;
            Some(Unit {
                lease: grant.lease,
                model_name: job.spec.model.name.clone(),
                model_fingerprint: job.spec.model.fingerprint,
                sample,
                tokens: job.sample_shapes.get(&sample)?.tokens,
                rescale: job.rescale(grant.unit)?.clone(),
                measure: if grant.unit.lane == Lane::Now { job.stage.measure() } else { Measure::Loss },
                attempt: grant.attempt,
                job: grant.job,
            })
        });
        Ok(units.collect())
    }

    /// Renews leases; returns those that are no longer wanted.
    ///
    /// # Errors
    /// [`EngineError::UnknownWorker`]
    pub fn heartbeat(&mut self, worker: &WorkerId, leases: &[LeaseId], now: Now) -> Result<Vec<LeaseId>, EngineError> {
        Ok(self.desk.scheduler.heartbeat(now.since_start, worker, leases)?)
    }

    /// A worker ends: it is not counted among the connected any more.
    pub fn leaves(&mut self, worker: &WorkerId) {
        self.desk.scheduler.leaves(worker);
    }

    /// Takes in results and failures, of workers known or not: a result counts whoever brings it.
    ///
    /// # Errors
    /// [`EngineError::Store`]
    pub fn report(
        &mut self,
        worker: &WorkerId,
        reports: Vec<UnitReport>,
        now: Now,
    ) -> Result<Vec<Verdict>, EngineError> {
        let mut verdicts = Vec::with_capacity(reports.len());
        let mut touched = BTreeSet::new();
        for report in reports {
            let job = report.job.clone();
            let verdict = match report.outcome.clone() {
                UnitOutcome::Loss { loss, seconds } => self.take_result(worker, &report, (loss, None), seconds, now)?,
                UnitOutcome::Gradient { loss, slope, seconds } => {
                    self.take_result(worker, &report, (loss, Some(slope)), seconds, now)?
                }
                UnitOutcome::Stopped { share, .. } => {
                    self.desk.scheduler.stopped(now.since_start, worker, share);
                    Verdict::NotWanted
                }
                UnitOutcome::Failure(failure) => self.take_failure(worker, &report, &failure, now),
            };
            if verdict == Verdict::Accepted || verdict == Verdict::Refused {
                touched.insert(job);
            }
            self.desk.tally.report(&report, verdict, now.unix_ms);
            verdicts.push(verdict);
        }
        for job in touched {
            if let Some(Job::Active(job)) = self.jobs.get_mut(&job) {
                let advanced = self.desk.advance(job, now);
                self.or_broken(advanced)?;
            }
        }
        Ok(verdicts)
    }

    fn take_result(
        &mut self,
        worker: &WorkerId,
        report: &UnitReport,
        (loss, slope): (Loss, Option<LossSlope>),
        seconds: f64,
        now: Now,
    ) -> Result<Verdict, EngineError> {
        let id = report.rescale.id();
        if let Some(Job::Active(job)) = self.jobs.get_mut(&report.job) {
            if let Some(reason) = job.objection(report, loss, slope.as_ref()) {
                tracing::warn!(job = %job.id, %worker, reason, "a report was refused");
                if self.desk.scheduler.refuse(now.since_start, worker, report.lease, &report.job) {
                    let (worker, reason) = (worker.to_string(), format!("a result of it was refused: {reason}"));
                    let what = JobEvent::WorkerUnable { worker, failure: FailureKind::Evaluation, reason };
                    job.event(&mut self.desk.batch, now, what);
                }
                return Ok(Verdict::Refused);
            }
            if let Some(unit) = job.stage.unit(id, report.sample)
                && self.desk.scheduler.complete(now.since_start, worker, &report.job, unit, seconds)
            {
                self.desk.settle(job, unit, (loss, slope), report.sample);
                return Ok(Verdict::Accepted);
            }
            if let Some(unit) = job.ahead.unit(id, report.sample)
                && self.desk.scheduler.complete(now.since_start, worker, &report.job, unit, seconds)
            {
                let settled = self.desk.settle_ahead(job, id, report.sample, loss);
                self.or_broken(settled)?;
                return Ok(Verdict::Accepted);
            }
        }
        if !self.jobs.contains_key(&report.job) {
            return Ok(Verdict::NotWanted);
        }
        let known = match self.desk.known_result(&report.job, id, report.sample) {
            // Nothing was changed, and nobody but this job is the worse for it: it fails when it is opened.
            Err(error @ StoreError::Corrupt { .. }) => {
                tracing::error!(job = %report.job, %worker, "a result cannot be compared with the one that stands: {error}");
                return Ok(Verdict::NotWanted);
            }
            known => self.or_broken(known)?,
        };
        let Some(stands) = known else { return Ok(Verdict::NotWanted) };
        if agree(stands, loss) {
            return Ok(Verdict::Duplicate);
        }
        tracing::warn!(job = %report.job, %worker, stands = stands.mean(), reported = loss.mean(), "results conflict");
        if let Some(Job::Active(job)) = self.jobs.get_mut(&report.job)
            && job.conflicts.len() < MAX_CONFLICTS
            && job.conflicts.insert((id, report.sample))
        {
            let finite = |loss: Loss| Some(loss.mean()).filter(|mean| mean.is_finite());
            let what = JobEvent::ResultConflict {
                sample: report.sample,
                worker: Some(worker.to_string()),
                stands: finite(stands),
                reported: finite(loss),
            };
            job.event(&mut self.desk.batch, now, what);
        }
        Ok(Verdict::Conflict)
    }

    fn take_failure(&mut self, worker: &WorkerId, report: &UnitReport, failure: &UnitFailure, now: Now) -> Verdict {
        let Some(Job::Active(job)) = self.jobs.get_mut(&report.job) else { return Verdict::NotWanted };
        let id = report.rescale.id();
        let units = job.stage.unit(id, report.sample).into_iter().chain(job.ahead.unit(id, report.sample));
        let open = units.into_iter().find(|unit| self.desk.scheduler.holds(&report.job, *unit));
        let Some(unit) = open else { return Verdict::NotWanted };
        let after = self.desk.scheduler.fail(now.since_start, worker, report.lease, &report.job, unit, failure);
        match after {
            AfterFailure::Requeued => Verdict::Accepted,
            AfterFailure::WorkerUnable => {
                tracing::warn!(job = %job.id, %worker, reason = failure.reason, "a worker is unable");
                let (worker, kind, reason) = (worker.to_string(), failure.kind, failure.reason.clone());
                job.event(&mut self.desk.batch, now, JobEvent::WorkerUnable { worker, failure: kind, reason });
                Verdict::Accepted
            }
            AfterFailure::CandidateFailed(reason) => {
                tracing::warn!(job = %job.id, reason, "a candidate failed");
                self.desk.give_up(job, unit, reason, now);
                Verdict::Accepted
            }
            AfterFailure::Duplicate => Verdict::Duplicate,
            AfterFailure::NotWanted => Verdict::NotWanted,
        }
    }
}

impl super::job::ActiveJob {
    /// The candidate of a unit.
    fn rescale(&self, unit: UnitKey) -> Option<&Rescale> {
        match unit.lane {
            Lane::Now => self.stage.slot(unit.slot).map(|slot| &slot.rescale),
            Lane::Ahead => self.ahead.rescale(unit.slot),
        }
    }

    /// Whether a report is for an open unit whose slope is wanted.
    fn asks_slope(&self, report: &UnitReport) -> bool {
        self.stage.measure() == Measure::Gradient && self.stage.unit(report.rescale.id(), report.sample).is_some()
    }

    /// Why a result cannot be right.
    fn objection(&self, report: &UnitReport, loss: Loss, slope: Option<&LossSlope>) -> Option<String> {
        let (pairs, got) = (self.description.geometry.pairs(), report.rescale.factors.len());
        if got != pairs {
            return Some(format!("{got} rescale factors reported, the model needs {pairs}"));
        }
        match slope.map(|slope| slope.log_factors.len()) {
            Some(got) if got != pairs => return Some(format!("{got} slopes reported, the model needs {pairs}")),
            Some(_) if slope.is_some_and(|slope| ![0, pairs].contains(&slope.log_pair_attention.len())) => {
                return Some(format!("slopes by attention factors of pairs reported, but not of the model's {pairs}"));
            }
            None if self.asks_slope(report) => return Some("a loss reported where a gradient was asked for".into()),
            _ => {}
        }
        let expected = self.sample_shapes.get(&report.sample)?.counted();
        if loss.tokens != expected {
            return Some(format!("{} counted tokens reported, the sample has {expected}", loss.tokens));
        }
        // NaN and infinity are what a bad candidate gives; a likelihood above 1 is none.
        (loss.nll_sum < -ROUNDING * expected as f64).then(|| format!("a loss of {} nats reported", loss.nll_sum))
    }
}

fn agree(first: Loss, second: Loss) -> bool {
    let (a, b) = (first.mean(), second.mean());
    a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= (TOLERANCE * a.abs().max(b.abs())).max(ROUNDED)
}
