//! Leases and their deadlines.

use super::queue::UnitKey;
use ropewalk_shared::job::JobId;
use ropewalk_shared::work::{LeaseId, WorkerId};
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

/// How leases are given and what is tolerated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchedulerOptions {
    /// A lease lasts this long after it was given or renewed.
    pub lease: Duration,
    /// Nor is it renewed for longer than this in all: a worker can hang and still send heartbeats.
    pub lease_limit: Duration,
    /// A unit whose evaluation failed on this many leases fails its candidate.
    pub max_failures: usize,
    /// A unit over which this many workers fell silent fails its candidate: it may be what kills them. Far above what
    /// workers that are killed for other reasons cause.
    pub max_expiries: u32,
    /// First and longest wait before a unit is tried again whose sample could not be fetched.
    pub retry: (Duration, Duration),
    /// Whether what is certain to be wanted later is queued early, for workers for which nothing is wanted now.
    pub fill_gaps: bool,
}

impl Default for SchedulerOptions {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(60),
            lease_limit: Duration::from_secs(24 * 3600),
            max_failures: 3,
            max_expiries: 20,
            retry: (Duration::from_secs(1), Duration::from_secs(60)),
            fill_gaps: true,
        }
    }
}

/// A unit in the hands of a worker.
#[derive(Clone, Debug)]
pub(super) struct Lease {
    pub job: JobId,
    pub unit: UnitKey,
    pub worker: WorkerId,
    pub deadline: Duration,
    /// It is not renewed beyond this.
    pub limit: Duration,
}

/// All leases, by id and by deadline.
#[derive(Debug)]
pub(super) struct Leases {
    epoch: u32,
    given: u64,
    by_id: HashMap<LeaseId, Lease>,
    by_deadline: BTreeSet<(Duration, LeaseId)>,
}

// === impl Leases ===

impl Leases {
    pub fn new(epoch: u32) -> Self {
        Self { epoch, given: 0, by_id: HashMap::new(), by_deadline: BTreeSet::new() }
    }

    pub fn next_id(&mut self) -> LeaseId {
        self.given += 1;
        LeaseId::numbered(self.epoch, self.given)
    }

    /// Whether this run of the coordinator can have given a lease.
    pub fn is_ours(&self, lease: LeaseId) -> bool {
        lease.epoch() == LeaseId::numbered(self.epoch, 0).epoch()
    }

    pub fn get(&self, id: LeaseId) -> Option<&Lease> {
        self.by_id.get(&id)
    }

    pub fn insert(&mut self, id: LeaseId, lease: Lease) {
        self.by_deadline.insert((lease.deadline, id));
        self.by_id.insert(id, lease);
    }

    pub fn remove(&mut self, id: LeaseId) -> Option<Lease> {
        let lease = self.by_id.remove(&id)?;
        self.by_deadline.remove(&(lease.deadline, id));
        Some(lease)
    }

    /// Notes that the unit of a lease has another key now.
    pub fn rename(&mut self, id: LeaseId, unit: UnitKey) {
        if let Some(lease) = self.by_id.get_mut(&id) {
            lease.unit = unit;
        }
    }

    /// Renews a lease that this worker holds; false when it does not.
    pub fn renew(&mut self, id: LeaseId, worker: &WorkerId, deadline: Duration, now: Duration) -> bool {
        let Some(lease) = self.by_id.get_mut(&id).filter(|lease| lease.worker == *worker) else { return false };
        // A lease whose deadline has passed is as good as expired, although nobody has looked yet.
        if lease.deadline <= now {
            return false;
        }
        self.by_deadline.remove(&(lease.deadline, id));
        lease.deadline = deadline.min(lease.limit).max(lease.deadline);
        self.by_deadline.insert((lease.deadline, id));
        true
    }

    /// Lets every lease last this much longer.
    pub fn postpone(&mut self, by: Duration) {
        for lease in self.by_id.values_mut() {
            lease.deadline += by;
            lease.limit += by;
        }
        self.by_deadline = self.by_id.iter().map(|(id, lease)| (lease.deadline, *id)).collect();
    }

    /// Removes leases whose deadline has come, in the order of their deadlines.
    pub fn take_expired(&mut self, now: Duration) -> Vec<(LeaseId, Lease)> {
        let mut expired = Vec::new();
        while let Some(&(deadline, id)) = self.by_deadline.first() {
            if deadline > now {
                break;
            }
            self.by_deadline.pop_first();
            if let Some(lease) = self.by_id.remove(&id) {
                expired.push((id, lease));
            }
        }
        expired
    }
}
