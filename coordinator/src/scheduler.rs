//! Who evaluates what, and until when.
//!
//! Pure: no I/O, and the time comes in as an argument. A unit is one candidate (a slot of the job's current stage) on
//! one sample. Units wait in their job's queue, are leased to a worker, and leave when a result or the candidate's
//! failure settles them. Units that are wanted later for certain wait in a lane of their own, from which workers are given
//! one at a time where nothing is wanted now. A lease that is not renewed expires, and its unit goes back to the front of the queue.
//! Between jobs, the one that was served the fewest tokens comes first.

mod failing;
mod fair_share;
mod leases;
mod queue;
mod waiting;
mod workers;

pub use failing::AfterFailure;
pub use leases::SchedulerOptions;
pub use queue::{Lane, UnitKey};
pub use waiting::Waiting;
pub use workers::{Worker, Workers};

use leases::{Lease, Leases};
use queue::{JobQueue, Place};
use ropewalk_shared::fingerprint::Fingerprint;
use ropewalk_shared::job::JobId;
use ropewalk_shared::work::{LeaseId, LeaseRequest, Measure, WorkerId, WorkerProfile};
use std::collections::BTreeMap;
use std::time::Duration;

/// The state of everything that is leased or waits to be.
#[derive(Debug)]
pub struct Scheduler {
    options: SchedulerOptions,
    jobs: BTreeMap<JobId, JobQueue>,
    workers: Workers,
    leases: Leases,
    /// Tokens that the job served last had been served before: where a job begins that comes later.
    virtual_time: u64,
    /// Changes whenever there may be work that there was not before.
    offers: u64,
    /// Units leased so far.
    granted: u64,
}

/// A unit leased to a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The lease.
    pub lease: LeaseId,
    /// The job.
    pub job: JobId,
    /// The unit.
    pub unit: UnitKey,
    /// How often it was leased, this time included.
    pub attempt: u32,
}

/// A lease that was not renewed in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expired {
    /// The job.
    pub job: JobId,
    /// The unit, which waits again.
    pub unit: UnitKey,
    /// Who held it.
    pub worker: WorkerId,
    /// How often the unit had been leased.
    pub attempt: u32,
    /// Why the candidate has to be given up: too many workers fell silent over this unit.
    pub given_up: Option<String>,
}

/// A worker id that is not known, as after a restart of the coordinator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("worker {0} is not known here, the coordinator may have been restarted: register again")]
pub struct UnknownWorker(pub WorkerId);

// === impl Scheduler ===

impl Scheduler {
    /// An empty one. `epoch` makes the ids of this run differ from those of all others.
    pub fn new(options: SchedulerOptions, epoch: u32) -> Self {
        Self {
            options,
            jobs: BTreeMap::new(),
            workers: Workers::new(epoch),
            leases: Leases::new(epoch),
            virtual_time: 0,
            offers: 0,
            granted: 0,
        }
    }

    /// How it was set up.
    pub fn options(&self) -> &SchedulerOptions {
        &self.options
    }

    /// The workers.
    pub fn workers(&self) -> &Workers {
        &self.workers
    }

    /// A number that changes whenever there may be work that there was not before.
    pub fn offers(&self) -> u64 {
        self.offers
    }

    /// Notes that there may be work that is not in any queue.
    pub fn offer(&mut self) {
        self.offers += 1;
    }

    /// The number of a lease of something that is in no queue.
    pub fn new_lease(&mut self) -> LeaseId {
        self.leases.next_id()
    }

    // --- jobs ---

    /// Replaces a job's queue by the units of a new stage, with what is asked of each candidate. Leases of its former
    /// units are revoked, but for those that are wanted later.
    pub fn open(
        &mut self,
        job: &JobId,
        model: Fingerprint,
        sample_tokens: Vec<u32>,
        measures: Vec<Measure>,
        units: impl IntoIterator<Item = UnitKey>,
    ) {
        let mut queue = JobQueue::new(model, sample_tokens, measures, units);
        let mut served = 0;
        if let Some(mut former) = self.jobs.remove(job) {
            queue.take_ahead(&mut former);
            (served, queue.paused) = (former.served, former.paused);
            for lease in former.leased() {
                Self::end_lease(&mut self.leases, &mut self.workers, lease);
            }
        }
        queue.served = served.max(self.virtual_time);
        self.jobs.insert(job.clone(), queue);
        self.offers += 1;
    }

    /// What was wanted later is wanted now: the unit `from`, which is none any more, goes on as `to`, whoever evaluates it.
    pub fn promote(&mut self, job: &JobId, from: UnitKey, to: UnitKey) {
        if let Some(lease) = self.jobs.get_mut(job).and_then(|queue| queue.promote(from, to)) {
            self.leases.rename(lease, to);
        }
    }

    /// Lets units that are wanted later be leased like those that are wanted now: nothing else holds the job's stage up.
    pub fn hurry(&mut self, job: &JobId, units: &[UnitKey]) {
        if self.jobs.get_mut(job).is_some_and(|queue| queue.hurry(units)) {
            self.offers += 1;
        }
    }

    /// Whether a unit of a job has no result yet.
    pub fn holds(&self, job: &JobId, unit: UnitKey) -> bool {
        self.jobs.get(job).is_some_and(|queue| queue.holds(unit))
    }

    /// Adds a unit to a job's queue, behind all others of its lane.
    pub fn add(&mut self, job: &JobId, unit: UnitKey) {
        if let Some(queue) = self.jobs.get_mut(job) {
            queue.add(unit);
            self.offers += 1;
        }
    }

    /// Removes a job: nothing of it is leased any more, and its leases are revoked.
    pub fn close(&mut self, job: &JobId) -> Option<JobQueue> {
        let queue = self.jobs.remove(job)?;
        for lease in queue.leased() {
            Self::end_lease(&mut self.leases, &mut self.workers, lease);
        }
        Some(queue)
    }

    /// Holds a job's units back, or offers them again. What is leased stays leased.
    pub fn set_paused(&mut self, job: &JobId, paused: bool) {
        if let Some(queue) = self.jobs.get_mut(job) {
            queue.paused = paused;
            // Whoever waited did not fall behind by it.
            queue.served = queue.served.max(self.virtual_time);
            self.offers += 1;
        }
    }

    /// Units of a job that are leased.
    pub fn leased(&self, job: &JobId) -> u32 {
        self.jobs.get(job).map_or(0, |queue| queue.leased().count() as u32)
    }

    /// Units of a job that wait to be leased.
    pub fn units_waiting(&self, job: &JobId) -> usize {
        self.jobs.get(job).map_or(0, JobQueue::waiting_count)
    }

    /// Units leased since the start; a request that is answered again counts once.
    pub fn granted(&self) -> u64 {
        self.granted
    }

    // --- workers ---

    /// Takes in a worker; `None` when there are too many.
    pub fn register(&mut self, now: Duration, profile: WorkerProfile) -> Option<WorkerId> {
        self.workers.register(now, profile, &self.options)
    }

    /// Notes the trainings that are leased, each with the name of its worker: whoever trains evaluates nothing.
    pub fn note_trainings(&mut self, now: Duration, trainings: &BTreeMap<JobId, String>) {
        self.workers.note_trainings(now, self.options.lease, trainings);
    }

    /// Leases units to a worker. The same request is answered with the same leases.
    ///
    /// # Errors
    /// [`UnknownWorker`]
    pub fn lease(&mut self, now: Duration, request: &LeaseRequest) -> Result<Vec<Grant>, UnknownWorker> {
        self.wake(now);
        let worker = self.workers.touch(now, &request.worker)?;
        worker.note_models(request);
        worker.asks(now);
        if let Some(answered) = worker.answered(request.request_id) {
            let deadline = now + self.options.lease;
            let again = answered.iter().filter(|grant| self.leases.renew(grant.lease, &request.worker, deadline, now));
            return Ok(again.cloned().collect());
        }
        let mut grants = Vec::new();
        let mut loaded = request.loaded.clone();
        while grants.len() < request.max_units as usize {
            let Some(grant) = self.grant_next(now, &request.worker, &mut loaded) else { break };
            grants.push(grant);
        }
        if let Ok(worker) = self.workers.touch(now, &request.worker) {
            worker.remember(request.request_id, &grants);
        }
        Ok(grants)
    }

    fn grant_next(&mut self, now: Duration, id: &WorkerId, loaded: &mut Vec<Fingerprint>) -> Option<Grant> {
        let worker = self.workers.get(id)?;
        if worker.leased >= workers::MAX_LEASED {
            return None;
        }
        let takes = |queue: &JobQueue, unit| {
            u64::from(queue.tokens(unit)) <= worker.max_tokens(&queue.model, queue.measure(unit))
                && !self.is_for_others(now, worker, queue, unit)
        };
        let choose = |lane| Some((lane, fair_share::choose(&self.jobs, loaded, lane, takes)?));
        // Of what is wanted later one at a time: it should not hold up what is wanted next.
        let ahead = || if worker.leased == 0 { choose(Lane::Ahead) } else { None };
        let (lane, (job, position)) = choose(Lane::Now).or_else(ahead)?;
        let queue = self.jobs.get_mut(&job)?;
        let lease = self.leases.next_id();
        let taken = queue.take(lane, position, lease)?;
        self.virtual_time = self.virtual_time.max(queue.served);
        queue.served += taken.cost;
        if !loaded.contains(&queue.model) {
            // What follows in this request does well to stay with the same model.
            loaded.push(queue.model);
        }
        self.leases.insert(
            lease,
            Lease {
                job: job.clone(),
                unit: taken.unit,
                worker: id.clone(),
                deadline: now + self.options.lease,
                limit: now + self.options.lease_limit,
            },
        );
        self.workers.leased(id, 1);
        self.granted += 1;
        Some(Grant { lease, job, unit: taken.unit, attempt: taken.attempt })
    }

    /// Renews leases of a worker; returns those that are no longer wanted.
    ///
    /// Leases of an earlier run of the coordinator are not revoked: it does not know them, but their results are
    /// as welcome as any.
    ///
    /// # Errors
    /// [`UnknownWorker`]
    pub fn heartbeat(
        &mut self,
        now: Duration,
        worker: &WorkerId,
        leases: &[LeaseId],
    ) -> Result<Vec<LeaseId>, UnknownWorker> {
        self.workers.touch(now, worker)?;
        let deadline = now + self.options.lease;
        let mut revoked = leases.to_vec();
        revoked.retain(|lease| !self.leases.renew(*lease, worker, deadline, now) && self.leases.is_ours(*lease));
        Ok(revoked)
    }

    /// Notes that a worker ends. Leases that it did not give back end as those of any silent worker.
    pub fn leaves(&mut self, worker: &WorkerId) {
        self.workers.leaves(worker);
    }

    /// Lets every lease last this much longer, as after a time in which none could be renewed.
    pub fn postpone(&mut self, by: Duration) {
        self.leases.postpone(by);
    }

    // --- outcomes ---

    /// Settles a unit with a result, whoever brought it. False when it was settled or never wanted.
    pub fn complete(&mut self, now: Duration, worker: &WorkerId, job: &JobId, unit: UnitKey, seconds: f64) -> bool {
        let Some(queue) = self.jobs.get_mut(job) else { return false };
        let Some(settled) = queue.settle(unit) else { return false };
        if let Place::Leased(lease) = settled.place {
            Self::end_lease(&mut self.leases, &mut self.workers, lease);
        } else {
            // Its lease had expired and its tokens were given back.
            queue.served += settled.cost;
        }
        self.workers.result(now, worker, settled.tokens, seconds);
        true
    }

    /// Takes in that a worker stopped a unit whose lease was revoked, after this part of it. What it cost depends on when the
    /// worker heard of it, so it counts for the worker and never for the job.
    pub fn stopped(&mut self, now: Duration, worker: &WorkerId, share: f64) {
        self.workers.stopped(now, worker, share);
    }

    /// Drops all units of a candidate and revokes their leases.
    pub fn withdraw(&mut self, job: &JobId, lane: Lane, slot: u32) {
        let Some(queue) = self.jobs.get_mut(job) else { return };
        for lease in queue.withdraw(lane, slot) {
            Self::end_lease(&mut self.leases, &mut self.workers, lease);
        }
    }

    /// Ends leases that were not renewed in time, and lifts what workers were found to hold at most for some time.
    pub fn expire(&mut self, now: Duration) -> Vec<Expired> {
        self.wake(now);
        if self.workers.lift(now) {
            self.offers += 1;
        }
        let mut expired = Vec::new();
        // Latest first: each goes to the front, so that the longest waiting one ends up there.
        for (id, lease) in self.leases.take_expired(now).into_iter().rev() {
            self.workers.unleased(&lease.worker);
            let Some(queue) = self.jobs.get_mut(&lease.job) else { continue };
            if !queue.is_leased(lease.unit, id) {
                continue;
            }
            let (attempt, expiries) = queue.lease_expired(lease.unit);
            let given_up = (expiries >= self.options.max_expiries)
                .then(|| format!("{expiries} workers fell silent while evaluating it"));
            expired.push(Expired { job: lease.job, unit: lease.unit, worker: lease.worker, attempt, given_up });
            self.offers += 1;
        }
        expired.reverse();
        self.workers.forget(now);
        expired
    }

    /// What a job waits for, if it does.
    pub fn waiting(&self, now: Duration, job: &JobId) -> Option<Waiting> {
        let queue = self.jobs.get(job)?;
        waiting::reason(queue, self.workers.connected(now, self.options.lease))
    }

    /// Offers units again whose time to wait is over.
    fn wake(&mut self, now: Duration) {
        for queue in self.jobs.values_mut() {
            if queue.wake(now) {
                self.offers += 1;
            }
        }
    }

    fn end_lease(leases: &mut Leases, workers: &mut Workers, lease: LeaseId) {
        if let Some(lease) = leases.remove(lease) {
            workers.unleased(&lease.worker);
        }
    }
}

#[cfg(test)]
mod tests;
