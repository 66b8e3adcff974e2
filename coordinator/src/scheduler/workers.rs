//! The workers: what they can do, what they did, when they were last heard from.

use super::{Grant, SchedulerOptions, UnknownWorker};
use ropewalk_shared::fingerprint::Fingerprint;
use ropewalk_shared::job::JobId;
use ropewalk_shared::work::{LeaseRequest, Measure, WorkerId, WorkerProfile};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

/// Most workers known at a time.
const MAX_WORKERS: usize = 10_000;
/// Most units in the hands of one worker.
pub(super) const MAX_LEASED: u32 = 4096;
/// A silent worker is forgotten after this long.
const FORGET_AFTER: Duration = Duration::from_secs(3600);
/// A worker for which a unit was too large is asked for such units again after this long.
const ASK_AGAIN: Duration = Duration::from_secs(600);
/// Weight of the newest result in a worker's speed.
const SPEED_WEIGHT: f64 = 0.2;

/// One worker.
#[derive(Debug)]
pub struct Worker {
    /// Its identity.
    pub id: WorkerId,
    /// What it says of itself.
    pub profile: WorkerProfile,
    /// When it was last heard from.
    pub last_seen: Duration,
    /// Units it holds.
    pub leased: u32,
    /// Results it brought.
    pub results: u64,
    /// Failures it reported.
    pub failures: u64,
    /// Tokens per second over its recent results; 0 before the first.
    pub tokens_per_second: f64,
    /// Passes spent on units that were revoked, in parts of a pass.
    pub stopped_passes: f64,
    /// The training that it is busy with, as far as can be told; it evaluates nothing meanwhile.
    pub training: Option<JobId>,
    /// Models it says it does not have.
    missing: HashSet<Fingerprint>,
    /// What it turned out to hold of a model.
    limits: HashMap<(Fingerprint, Measure), Limit>,
    /// Where it brought a result that could not be right.
    refused: HashSet<(Fingerprint, Measure)>,
    last_request: Option<(u64, Vec<Grant>)>,
    /// When it asked for units last.
    asked: Duration,
    /// It said that it ends.
    left: bool,
}

/// What a worker turned out to hold of a model.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    /// In tokens; 0 when it cannot evaluate it at all.
    pub tokens: u64,
    /// When it is asked for more again.
    pub until: Duration,
}

/// All of them.
#[derive(Debug)]
pub struct Workers {
    epoch: u32,
    registered: u64,
    by_id: HashMap<WorkerId, Worker>,
}

// === impl Worker ===

impl Worker {
    /// Whether it was heard from within the time that leases last, and did not say that it ends.
    pub fn is_connected(&self, now: Duration, lease: Duration) -> bool {
        !self.left && now.saturating_sub(self.last_seen) <= lease
    }

    /// The longest sequence of a model of which this worker can find this out; 0 when it does not have the model or
    /// does not compute such things.
    pub fn max_tokens(&self, model: &Fingerprint, measure: Measure) -> u64 {
        if self.missing.contains(model) || self.is_refused(model, measure) {
            return 0;
        }
        let limit = |measure| self.limits.get(&(*model, measure)).map_or(u64::MAX, |limit| limit.tokens);
        // A gradient takes at least what the loss takes.
        let losses = limit(Measure::Loss).min(self.profile.max_tokens);
        match measure {
            Measure::Loss => losses,
            Measure::Gradient => limit(Measure::Gradient).min(self.profile.max_gradient_tokens).min(losses),
        }
    }

    /// Whether it is not given such units any more because a result could not be right.
    pub fn is_refused(&self, model: &Fingerprint, measure: Measure) -> bool {
        [Measure::Loss, measure].iter().any(|&measure| self.refused.contains(&(*model, measure)))
    }

    /// Whether it evaluates, or asks for what it could evaluate.
    pub(super) fn is_at_work(&self, now: Duration, lease: Duration) -> bool {
        self.training.is_none() && (self.leased > 0 || now.saturating_sub(self.asked) <= lease)
    }

    /// Notes that it asks for units.
    pub(super) fn asks(&mut self, now: Duration) {
        self.asked = self.asked.max(now);
    }

    /// Takes in which models it has. What was found out of one that it did not have holds no longer once it has it.
    pub(super) fn note_models(&mut self, request: &LeaseRequest) {
        let missing: HashSet<Fingerprint> = request.missing.iter().copied().collect();
        let appeared = |model: &Fingerprint| self.missing.contains(model) && !missing.contains(model);
        self.limits.retain(|(model, _), _| !appeared(model));
        self.missing = missing;
    }

    /// What was leased for a request that came before; nothing for one that is older still.
    pub(super) fn answered(&self, request: u64) -> Option<&[Grant]> {
        match &self.last_request {
            Some((last, grants)) if *last == request => Some(grants),
            Some((last, _)) if *last > request => Some(&[]),
            _ => None,
        }
    }

    /// Remembers what was leased. A request that got nothing may be asked again and get something.
    pub(super) fn remember(&mut self, request: u64, grants: &[Grant]) {
        if !grants.is_empty() {
            self.last_request = Some((request, grants.to_vec()));
        }
    }
}

// === impl Limit ===

impl Limit {
    /// A unit was too large: memory that others take now may be free again later.
    pub fn for_now(tokens: u64, now: Duration) -> Self {
        Self { tokens, until: now + ASK_AGAIN }
    }

    /// It can do nothing at all with the model, and says so itself once it can.
    pub fn lasting() -> Self {
        Self { tokens: 0, until: Duration::MAX }
    }
}

// === impl Workers ===

impl Workers {
    pub(super) fn new(epoch: u32) -> Self {
        Self { epoch, registered: 0, by_id: HashMap::new() }
    }

    /// All that are known.
    pub fn iter(&self) -> impl Iterator<Item = &Worker> {
        self.by_id.values()
    }

    /// Those that are there.
    pub fn connected(&self, now: Duration, lease: Duration) -> impl Iterator<Item = &Worker> {
        self.iter().filter(move |worker| worker.is_connected(now, lease))
    }

    /// One of them.
    pub fn get(&self, id: &WorkerId) -> Option<&Worker> {
        self.by_id.get(id)
    }

    pub(super) fn register(
        &mut self,
        now: Duration,
        profile: WorkerProfile,
        options: &SchedulerOptions,
    ) -> Option<WorkerId> {
        if self.by_id.len() >= MAX_WORKERS {
            self.by_id.retain(|_, worker| worker.leased > 0 || worker.is_connected(now, options.lease));
        }
        if self.by_id.len() >= MAX_WORKERS {
            return None;
        }
        self.registered += 1;
        let id = WorkerId::numbered(self.epoch, self.registered);
        let worker = Worker {
            id: id.clone(),
            profile,
            last_seen: now,
            leased: 0,
            results: 0,
            failures: 0,
            tokens_per_second: 0.0,
            stopped_passes: 0.0,
            training: None,
            missing: HashSet::new(),
            limits: HashMap::new(),
            refused: HashSet::new(),
            last_request: None,
            asked: now,
            left: false,
        };
        self.by_id.insert(id.clone(), worker);
        Some(id)
    }

    /// Notes that a worker was heard from.
    pub(super) fn touch(&mut self, now: Duration, id: &WorkerId) -> Result<&mut Worker, UnknownWorker> {
        let worker = self.by_id.get_mut(id).ok_or_else(|| UnknownWorker(id.clone()))?;
        worker.last_seen = worker.last_seen.max(now);
        worker.left = false;
        Ok(worker)
    }

    /// Notes that a worker ends.
    pub(super) fn leaves(&mut self, id: &WorkerId) {
        if let Some(worker) = self.by_id.get_mut(id) {
            worker.left = true;
        }
    }

    pub(super) fn leased(&mut self, id: &WorkerId, units: u32) {
        if let Some(worker) = self.by_id.get_mut(id) {
            worker.leased += units;
        }
    }

    pub(super) fn unleased(&mut self, id: &WorkerId) {
        if let Some(worker) = self.by_id.get_mut(id) {
            worker.leased = worker.leased.saturating_sub(1);
        }
    }

    pub(super) fn result(&mut self, now: Duration, id: &WorkerId, tokens: u32, seconds: f64) {
        let Ok(worker) = self.touch(now, id) else { return };
        worker.results += 1;
        let speed = f64::from(tokens) / seconds;
        // A worker can say anything of its time.
        if speed > 0.0 && speed.is_finite() {
            let former = worker.tokens_per_second;
            worker.tokens_per_second = if former == 0.0 { speed } else { former + SPEED_WEIGHT * (speed - former) };
        }
    }

    /// Takes in a unit that was stopped after a part of its way.
    pub(super) fn stopped(&mut self, now: Duration, id: &WorkerId, share: f64) {
        if let Ok(worker) = self.touch(now, id) {
            worker.stopped_passes += share;
        }
    }

    pub(super) fn failure(&mut self, now: Duration, id: &WorkerId) {
        if let Ok(worker) = self.touch(now, id) {
            worker.failures += 1;
        }
    }

    /// Notes what a worker holds of a model for this at most; whether that is news.
    pub(super) fn limit(&mut self, id: &WorkerId, model: Fingerprint, measure: Measure, limit: Limit) -> bool {
        let Some(worker) = self.by_id.get_mut(id) else { return false };
        let known = worker.limits.entry((model, measure)).or_insert(Limit { tokens: u64::MAX, ..limit });
        let is_news = limit.tokens < known.tokens;
        // Where it is none, it shows that the known one still holds.
        *known = if is_news { limit } else { Limit { until: known.until.max(limit.until), ..*known } };
        is_news
    }

    /// Lifts limits whose time is over; whether there were any.
    pub(super) fn lift(&mut self, now: Duration) -> bool {
        let mut lifted = false;
        for worker in self.by_id.values_mut() {
            let before = worker.limits.len();
            worker.limits.retain(|_, limit| now < limit.until);
            lifted |= worker.limits.len() < before;
        }
        lifted
    }

    /// Notes who trains what. Trainings know their workers by name alone: of several of one name, one that holds no unit counts.
    pub(super) fn note_trainings(&mut self, now: Duration, lease: Duration, trainings: &BTreeMap<JobId, String>) {
        self.by_id.values_mut().for_each(|worker| worker.training = None);
        for (job, name) in trainings {
            let named = self.by_id.values_mut().filter(|worker| {
                worker.is_connected(now, lease)
                    && worker.leased == 0
                    && worker.training.is_none()
                    && worker.profile.name == *name
            });
            if let Some(worker) = named.min_by(|a, b| a.id.cmp(&b.id)) {
                worker.training = Some(job.clone());
            }
        }
    }

    /// Notes that a worker brought a result that cannot be right, and is given no such units any more; whether that is news.
    pub(super) fn refuse(&mut self, id: &WorkerId, model: Fingerprint, measure: Measure) -> bool {
        self.by_id.get_mut(id).is_some_and(|worker| worker.refused.insert((model, measure)))
    }

    pub(super) fn forget(&mut self, now: Duration) {
        self.by_id.retain(|_, worker| worker.leased > 0 || now.saturating_sub(worker.last_seen) <= FORGET_AFTER);
    }
}
