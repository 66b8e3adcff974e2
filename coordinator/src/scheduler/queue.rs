//! The units of one job's current stage that have no result yet.

use super::SchedulerOptions;
use ropewalk_shared::fingerprint::Fingerprint;
use ropewalk_shared::work::{LeaseId, Measure, WorkerId};
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

/// When a unit is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// In the job's current stage.
    Now,
    /// In a later one, for certain: it is leased where no job has anything that is wanted now, unless nothing but it holds the
    /// current stage up.
    Ahead,
}

/// One candidate on one sample, by their places in the job's current stage or among what is wanted later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnitKey {
    /// When it is wanted.
    pub lane: Lane,
    /// Which candidate.
    pub slot: u32,
    /// Which sample.
    pub sample: u32,
}

/// A job's units, and its share of the workers.
#[derive(Debug)]
pub struct JobQueue {
    pub(super) model: Fingerprint,
    pub(super) paused: bool,
    /// Tokens leased so far, those of expired leases left out.
    pub(super) served: u64,
    sample_tokens: Vec<u32>,
    /// What is asked of each candidate; of those beyond its end, the loss.
    measures: Vec<Measure>,
    /// The next unit first. Entries of units that are settled meanwhile are skipped when they come up.
    ready: VecDeque<UnitKey>,
    /// The same of those that are wanted later.
    ahead: VecDeque<UnitKey>,
    /// Units of the other lane that wait with those that are wanted now.
    hurried: HashSet<UnitKey>,
    delayed: BTreeSet<(Duration, UnitKey)>,
    units: HashMap<UnitKey, UnitRecord>,
    leased: HashMap<LeaseId, UnitKey>,
}

/// What is known of a unit without a result.
#[derive(Debug)]
pub(super) struct UnitRecord {
    pub place: Place,
    pub last_failure: Option<String>,
    /// Leases on which the evaluation failed, and whose they were.
    pub failed: Vec<(LeaseId, WorkerId)>,
    attempts: u32,
    expiries: u32,
    delays: u32,
}

/// Where a unit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Ready,
    Delayed(Duration),
    Leased(LeaseId),
}

/// A unit that was taken to be leased.
pub(super) struct Taken {
    pub unit: UnitKey,
    /// What it counts for between jobs, in tokens.
    pub cost: u64,
    pub attempt: u32,
}

/// A unit that has its result.
pub(super) struct Settled {
    pub place: Place,
    pub tokens: u32,
    /// What it counts for between jobs, in tokens.
    pub cost: u64,
}

// === impl JobQueue ===

impl JobQueue {
    pub(super) fn new(
        model: Fingerprint,
        sample_tokens: Vec<u32>,
        measures: Vec<Measure>,
        units: impl IntoIterator<Item = UnitKey>,
    ) -> Self {
        let ready: VecDeque<UnitKey> = units.into_iter().collect();
        let units = ready.iter().map(|unit| (*unit, UnitRecord::new())).collect();
        Self {
            model,
            paused: false,
            served: 0,
            sample_tokens,
            measures,
            ready,
            ahead: VecDeque::new(),
            hurried: HashSet::new(),
            delayed: BTreeSet::new(),
            units,
            leased: HashMap::new(),
        }
    }

    /// Adds a unit behind all others of its lane, unless it is there.
    pub(super) fn add(&mut self, unit: UnitKey) {
        if let Entry::Vacant(place) = self.units.entry(unit) {
            place.insert(UnitRecord::new());
            self.waiting(unit).push_back(unit);
        }
    }

    /// Whether a unit has no result yet.
    pub(super) fn holds(&self, unit: UnitKey) -> bool {
        self.units.contains_key(&unit)
    }

    /// Takes over from a former queue of the job what is wanted later, leases included.
    pub(super) fn take_ahead(&mut self, former: &mut Self) {
        self.ahead = std::mem::take(&mut former.ahead);
        self.ahead.extend(former.ready.iter().filter(|unit| unit.lane == Lane::Ahead));
        let units = former.units.extract_if(|unit, _| unit.lane == Lane::Ahead);
        self.units.extend(units);
        self.leased.extend(former.leased.extract_if(|_, unit| unit.lane == Lane::Ahead));
        self.delayed.extend(former.delayed.extract_if(.., |(_, unit)| unit.lane == Lane::Ahead));
    }

    /// A unit that was wanted later is wanted now, under another key; its lease, if it is leased.
    pub(super) fn promote(&mut self, from: UnitKey, to: UnitKey) -> Option<LeaseId> {
        let record = self.units.remove(&from)?;
        let Place::Leased(lease) = record.place else {
            self.unplace(from, record.place);
            return None;
        };
        self.leased.insert(lease, to);
        // Where it waits already, it is skipped when it comes up.
        self.units.insert(to, record);
        Some(lease)
    }

    /// Lets units that are wanted later wait with those that are wanted now; whether one of them waits there that did not.
    pub(super) fn hurry(&mut self, units: &[UnitKey]) -> bool {
        let news: HashSet<UnitKey> = units.iter().copied().filter(|unit| self.hurried.insert(*unit)).collect();
        if news.is_empty() {
            return false;
        }
        let (hurried, others): (VecDeque<UnitKey>, VecDeque<UnitKey>) =
            self.ahead.drain(..).partition(|unit| news.contains(unit));
        self.ahead = others;
        self.ready.extend(&hurried);
        !hurried.is_empty()
    }

    /// Where a unit waits.
    fn waiting(&mut self, unit: UnitKey) -> &mut VecDeque<UnitKey> {
        match unit.lane {
            Lane::Ahead if !self.hurried.contains(&unit) => &mut self.ahead,
            Lane::Now | Lane::Ahead => &mut self.ready,
        }
    }

    pub(super) fn tokens(&self, unit: UnitKey) -> u32 {
        self.sample_tokens.get(unit.sample as usize).copied().unwrap_or(0)
    }

    pub(super) fn measure(&self, unit: UnitKey) -> Measure {
        match unit.lane {
            Lane::Now => self.measures.get(unit.slot as usize).copied().unwrap_or_default(),
            Lane::Ahead => Measure::Loss,
        }
    }

    /// What a unit counts for between jobs, in tokens.
    fn cost(&self, unit: UnitKey) -> u64 {
        self.measure(unit).cost() * u64::from(self.tokens(unit))
    }

    pub(super) fn leased(&self) -> impl Iterator<Item = LeaseId> + '_ {
        self.leased.keys().copied()
    }

    /// Units that are not leased.
    pub(super) fn waiting_count(&self) -> usize {
        self.units.len().saturating_sub(self.leased.len())
    }

    pub(super) fn is_leased(&self, unit: UnitKey, lease: LeaseId) -> bool {
        self.leased.get(&lease) == Some(&unit)
    }

    pub(super) fn get_mut(&mut self, unit: UnitKey) -> Option<&mut UnitRecord> {
        self.units.get_mut(&unit)
    }

    /// The largest sample, in tokens.
    pub(super) fn largest(&self) -> u32 {
        self.sample_tokens.iter().copied().max().unwrap_or(0)
    }

    /// The smallest unit that waits, in tokens, of the cheapest measure that waits.
    pub(super) fn smallest_ready(&self) -> Option<(u32, Measure)> {
        let least = self.live(Lane::Now).map(|(_, unit)| (self.measure(unit), self.tokens(unit))).min();
        least.map(|(measure, tokens)| (tokens, measure))
    }

    /// What the next delayed unit was delayed for, when nothing but delayed units is left.
    pub(super) fn only_delayed(&self) -> Option<(usize, &str)> {
        let (_, unit) = self.delayed.first()?;
        let idle = self.leased.is_empty() && self.live(Lane::Now).next().is_none();
        let reason = self.units.get(unit)?.last_failure.as_deref().unwrap_or("no reason given");
        idle.then_some((self.delayed.len(), reason))
    }

    /// Where the first waiting unit of a lane stands that a worker takes.
    pub(super) fn position(&self, lane: Lane, takes: impl Fn(UnitKey) -> bool) -> Option<usize> {
        self.live(lane).find(|(_, unit)| takes(*unit)).map(|(position, _)| position)
    }

    /// Workers on which the evaluation of a unit failed.
    pub(super) fn failed_on(&self, unit: UnitKey) -> &[(LeaseId, WorkerId)] {
        self.units.get(&unit).map_or(&[], |record| &record.failed)
    }

    /// Takes the unit at a position of a lane to lease it.
    pub(super) fn take(&mut self, lane: Lane, position: usize, lease: LeaseId) -> Option<Taken> {
        let waiting = match lane {
            Lane::Now => &mut self.ready,
            Lane::Ahead => &mut self.ahead,
        };
        let unit = waiting.remove(position)?;
        // Nothing but settled units can stand before the first one: they go for good.
        while waiting.front().is_some_and(|unit| !is_ready(&self.units, unit)) {
            waiting.pop_front();
        }
        let record = self.units.get_mut(&unit)?;
        record.place = Place::Leased(lease);
        record.attempts += 1;
        let attempt = record.attempts;
        self.leased.insert(lease, unit);
        Some(Taken { unit, cost: self.cost(unit), attempt })
    }

    /// Removes a unit that has its result.
    pub(super) fn settle(&mut self, unit: UnitKey) -> Option<Settled> {
        let record = self.units.remove(&unit)?;
        self.unplace(unit, record.place);
        Some(Settled { place: record.place, tokens: self.tokens(unit), cost: self.cost(unit) })
    }

    /// Removes all units of a candidate; returns their leases.
    pub(super) fn withdraw(&mut self, lane: Lane, slot: u32) -> Vec<LeaseId> {
        let mut leases = Vec::new();
        for sample in 0..self.sample_tokens.len() as u32 {
            if let Some(Settled { place: Place::Leased(lease), .. }) = self.settle(UnitKey { lane, slot, sample }) {
                leases.push(lease);
            }
        }
        leases
    }

    /// Lets a unit wait again, before all others or after them.
    pub(super) fn put_back(&mut self, unit: UnitKey, in_front: bool) {
        if !self.move_to(unit, Place::Ready) {
            return;
        }
        let waiting = self.waiting(unit);
        if in_front {
            waiting.push_front(unit);
        } else {
            waiting.push_back(unit);
        }
    }

    /// Notes that the evaluation failed on this lease of a worker; returns on how many it has.
    pub(super) fn evaluation_failed(&mut self, unit: UnitKey, lease: LeaseId, worker: &WorkerId) -> usize {
        self.units.get_mut(&unit).map_or(0, |record| {
            record.failed.push((lease, worker.clone()));
            record.failed.len()
        })
    }

    /// Lets a unit wait again whose worker fell silent; returns how often it was leased, and how often this happened.
    pub(super) fn lease_expired(&mut self, unit: UnitKey) -> (u32, u32) {
        self.put_back(unit, true);
        self.units.get_mut(&unit).map_or((0, 0), |record| {
            record.expiries += 1;
            (record.attempts, record.expiries)
        })
    }

    /// Lets a unit wait for some time, which doubles every time.
    pub(super) fn delay(&mut self, unit: UnitKey, now: Duration, options: &SchedulerOptions) {
        let (first, longest) = options.retry;
        let Some(record) = self.units.get_mut(&unit) else { return };
        let wait = first.saturating_mul(1 << record.delays.min(16)).min(longest);
        record.delays += 1;
        let until = now + wait;
        if self.move_to(unit, Place::Delayed(until)) {
            self.delayed.insert((until, unit));
        }
    }

    /// Lets delayed units wait like others once their time is over; whether there were any.
    pub(super) fn wake(&mut self, now: Duration) -> bool {
        let mut woken = false;
        while let Some(&(until, unit)) = self.delayed.first().filter(|(until, _)| *until <= now) {
            self.delayed.remove(&(until, unit));
            self.put_back(unit, true);
            woken = true;
        }
        woken
    }

    /// Waiting units of a lane with their positions.
    fn live(&self, lane: Lane) -> impl Iterator<Item = (usize, UnitKey)> + '_ {
        let waiting = if lane == Lane::Now { &self.ready } else { &self.ahead };
        waiting
            .iter()
            .enumerate()
            .filter(|(_, unit)| is_ready(&self.units, unit))
            .map(|(position, unit)| (position, *unit))
    }

    /// Changes the place of a unit; its tokens are given back when it had been leased.
    fn move_to(&mut self, unit: UnitKey, place: Place) -> bool {
        let Some(record) = self.units.get_mut(&unit) else { return false };
        let former = std::mem::replace(&mut record.place, place);
        if let Place::Leased(_) = former {
            self.served = self.served.saturating_sub(self.cost(unit));
        }
        self.unplace(unit, former);
        true
    }

    fn unplace(&mut self, unit: UnitKey, place: Place) {
        match place {
            // It is skipped when it comes up.
            Place::Ready => {}
            Place::Delayed(until) => {
                self.delayed.remove(&(until, unit));
            }
            Place::Leased(lease) => {
                self.leased.remove(&lease);
            }
        }
    }
}

// === impl UnitKey ===

impl UnitKey {
    /// A unit of the job's current stage.
    pub fn now(slot: u32, sample: u32) -> Self {
        Self { lane: Lane::Now, slot, sample }
    }

    /// A unit that is wanted later.
    pub fn ahead(slot: u32, sample: u32) -> Self {
        Self { lane: Lane::Ahead, slot, sample }
    }
}

fn is_ready(units: &HashMap<UnitKey, UnitRecord>, unit: &UnitKey) -> bool {
    units.get(unit).is_some_and(|record| record.place == Place::Ready)
}

// === impl UnitRecord ===

impl UnitRecord {
    fn new() -> Self {
        Self { place: Place::Ready, last_failure: None, failed: Vec::new(), attempts: 0, expiries: 0, delays: 0 }
    }
}
