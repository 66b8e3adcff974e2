//! The desk: one task that owns what a worker holds and decides what to do next.
//!
//! Every call to the coordinator is a task of its own whose answer comes back here, so no call waits for another:
//! heartbeats go out while a lease request waits for work and while a report is on its way.

mod answers;
mod calls;

use super::evaluation::{Assignment, Evaluation, Notice, Outcome, Task};
use super::held::Held;
use super::link::Link;
use super::pace::Pace;
use super::sample_cache::SampleCache;
use super::training::DeskSide;
use super::{WorkerConfig, WorkerError, WorkerSummary};
use calls::Calls;
use ropewalk_shared::fingerprint::Fingerprint;
use ropewalk_shared::outcome::{FailureKind, UnitFailure};
use ropewalk_shared::sample::SampleId;
use std::collections::HashMap;
use std::pin::pin;
use std::time::{Duration, Instant};

/// Units with the evaluation thread, for each that runs at a time: the running one, and one so that the thread never waits
/// for the desk.
const ASSIGNED: usize = 2;
/// How often models that were not there are looked for again.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// Half the pause after a first failed evaluation; doubles with each that follows.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Pause between attempts of a worker on which every evaluation fails.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Times that a sample may fail to come while other calls go through, before its units are given up here.
pub(super) const MOST_FETCH_FAILURES: u32 = 3;
/// Evaluations in a row that a GPU may fail before its worker ends: errors of CUDA stay until the process does.
const MOST_DEVICE_FAILURES: u32 = 3;
/// Once no evaluation runs: the time for its report, and for handing back what is on its way here.
pub(super) const LAST_REPORT: Duration = Duration::from_secs(15);

/// Longest time that a configuration may ask to wait; a clock cannot count to every `Duration`.
pub(super) const EVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Everything a worker knows.
pub(super) struct Desk {
    config: WorkerConfig,
    link: Link,
    calls: Calls,
    evaluation: Evaluation,
    held: Held,
    samples: SampleCache,
    /// How often each sample could not be fetched while other calls went through.
    unfetched: HashMap<SampleId, u32>,
    pace: Pace,
    /// Shut while this worker trains.
    gate: DeskSide,
    loaded: Option<Fingerprint>,
    /// Whether the evaluation thread was asked to give up the loaded model.
    unloading: bool,
    missing: Vec<Fingerprint>,
    /// Models that were missing since no answered request for units has said so.
    unnamed: Vec<Fingerprint>,
    looked: Instant,
    started: Instant,
    /// Evaluations that failed one after the other.
    failures: u32,
    /// Since when the worker is to stop.
    stopping: Option<Instant>,
    /// Why it ends although nobody asked for it.
    broken: Option<WorkerError>,
    summary: WorkerSummary,
}

// === impl Desk ===

impl Desk {
    pub(super) fn new(mut config: WorkerConfig, link: Link, evaluation: Evaluation, gate: DeskSide) -> Self {
        config.grace = config.grace.min(EVER);
        config.connect_timeout = config.connect_timeout.map(|timeout| timeout.min(EVER));
        Self {
            samples: SampleCache::new(config.sample_cache_bytes),
            unfetched: HashMap::new(),
            link,
            calls: Calls::default(),
            evaluation,
            held: Held::default(),
            pace: Pace::default(),
            gate,
            loaded: None,
            unloading: false,
            missing: Vec::new(),
            unnamed: Vec::new(),
            looked: Instant::now(),
            started: Instant::now(),
            failures: 0,
            stopping: None,
            broken: None,
            summary: WorkerSummary::default(),
            config,
        }
    }

    /// Works until `shutdown` is ready, or the device is beyond hope, and everything held is finished or handed back.
    pub(super) async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<WorkerSummary, WorkerError> {
        let mut shutdown = pin!(shutdown);
        loop {
            self.check_connect_timeout()?;
            if self.is_finished() {
                break;
            }
            self.advance();
            let wake = tokio::time::Instant::from_std(self.wake_at());
            tokio::select! {
                biased;
                () = &mut shutdown, if self.stopping.is_none() => self.stop(),
                returned = self.calls.next() => self.answered(returned)?,
                () = self.gate.changed() => self.gate_changed(),
                notice = self.evaluation.next() => self.noticed(notice.ok_or(WorkerError::EvaluationEnded)?)?,
                () = tokio::time::sleep_until(wake) => {}
            }
        }
        self.held.cancel_all();
        self.farewell().await;
        self.evaluation.finish().await;
        self.broken.map_or(Ok(self.summary), Err)
    }

    /// Starts every call and every evaluation that is due.
    fn advance(&mut self) {
        let now = Instant::now();
        self.feed();
        self.clear_the_way();
        self.stop_overdue(now);
        if self.stopping.is_none() && !self.missing.is_empty() && now >= self.looked + LOOK_AGAIN {
            self.looked = now;
            self.evaluation.send(Task::LookAgain);
        }
        if self.link.retry_at().is_some() {
            return;
        }
        if self.link.registration().is_none() {
            self.register();
            return;
        }
        self.report();
        self.beat(now);
        self.fetch();
        self.lease(now);
    }

    /// Gives the evaluation thread units whose samples are here.
    fn feed(&mut self) {
        while self.stopping.is_none() && self.held.assigned() < ASSIGNED * self.pace.together() {
            let Some((number, unit)) = self.held.queued().next() else { return };
            // In order: a later unit must not overtake one whose sample is on its way, or that one might wait for ever.
            let Some(sample) = self.samples.get(&unit.sample) else { return };
            let Some((unit, cancel)) = self.held.assign(number) else { return };
            self.evaluation.send(Task::Evaluate(Assignment { number, unit, sample, cancel }));
        }
    }

    fn noticed(&mut self, notice: Notice) -> Result<(), WorkerError> {
        match notice {
            Notice::Started { number, together } => {
                self.pace.run_together(together);
                self.held.started(number, Instant::now());
            }
            Notice::Models { loaded, missing } => {
                for model in missing.iter().filter(|model| !self.missing.contains(model)) {
                    if !self.unnamed.contains(model) {
                        self.unnamed.push(*model);
                    }
                }
                (self.loaded, self.missing) = (loaded, missing);
                self.unloading &= self.loaded.is_some();
                self.looked = Instant::now();
            }
            Notice::Finished { number, outcome, took } => {
                self.summary.busy += took;
                match &outcome {
                    Outcome::Loss(_) | Outcome::Gradient(..) => {
                        self.summary.results += 1;
                        self.failures = 0;
                        self.pace.record(took);
                    }
                    Outcome::Failure(UnitFailure { kind, reason })
                        if !self.config.wait_for_models
                            && matches!(kind, FailureKind::ModelMissing | FailureKind::FingerprintMismatch) =>
                    {
                        return Err(WorkerError::Model(reason.clone()));
                    }
                    Outcome::Failure(failure) => {
                        self.summary.failures += 1;
                        tracing::warn!(kind = ?failure.kind, "cannot evaluate a unit: {}", failure.reason);
                        if failure.kind.counts_against_candidate() {
                            self.slow_down();
                        }
                    }
                    Outcome::DeviceFailed { reason, in_a_row } => {
                        self.summary.failures += 1;
                        tracing::warn!(in_a_row, "cannot evaluate a unit: {reason}");
                        self.device_failed(reason, *in_a_row);
                    }
                    Outcome::Cancelled { .. } => {}
                }
                self.held.finished(number, outcome, took);
            }
        }
        Ok(())
    }

    /// A GPU that fails again and again will not recover in this process: what is held goes back, and the worker ends.
    fn device_failed(&mut self, reason: &str, in_a_row: u32) {
        if in_a_row < MOST_DEVICE_FAILURES {
            return self.slow_down();
        }
        if self.broken.is_none() {
            self.broken = Some(WorkerError::DeviceFailed { failures: in_a_row, reason: reason.to_owned() });
        }
        if self.stopping.is_none() {
            self.stop();
        }
    }

    /// Takes fewer units after failures: a broken device must not fail every candidate before others get to it.
    fn slow_down(&mut self) {
        self.failures += 1;
        let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16)).min(LONGEST_PAUSE);
        self.calls.lease_at = Some(Instant::now() + pause);
        if self.failures > 1 {
            self.held.hand_back(usize::MAX, "evaluations fail on this worker");
        }
    }

    /// A training waits, or is over.
    fn gate_changed(&mut self) {
        if self.gate.is_shut() {
            self.recall_lease();
            self.hand_back_for_training();
        }
    }

    /// Hands back what was not begun.
    pub(super) fn hand_back_for_training(&mut self) {
        self.summary.handed_back += self.held.queued().count() as u64;
        self.held.hand_back(usize::MAX, "the worker is about to train");
        // Those with the thread are waited for: it may be loading a model, and that takes the memory of the training.
        self.held.cancel_waiting();
    }

    /// Makes room for a training that waits, and says when there is.
    fn clear_the_way(&mut self) {
        let idle = self.gate.is_shut() && self.held.open() == 0;
        if idle && self.loaded.is_some() && !self.unloading {
            self.unloading = true;
            self.evaluation.send(Task::Unload);
        }
        self.gate.set_clear(idle && self.loaded.is_none());
    }

    /// Whether no more units are wanted.
    pub(super) fn is_leasing_nothing(&self) -> bool {
        self.stopping.is_some() || self.gate.is_shut()
    }

    /// From now on nothing is leased.
    fn stop(&mut self) {
        tracing::info!(held = self.held.open(), "stopping");
        self.stopping = Some(Instant::now());
        self.summary.handed_back += self.held.hand_back_waiting() as u64;
        self.recall_lease();
    }

    fn stop_overdue(&mut self, now: Instant) {
        if self.stopping.is_some_and(|since| now >= since + self.config.grace) {
            self.held.cancel_all();
        }
    }

    /// Whether there is nothing left to do before stopping, or no sense in waiting for it.
    fn is_finished(&self) -> bool {
        let Some(since) = self.stopping else { return false };
        let settled = self.held.is_empty() && !self.calls.is_leasing();
        // Whoever cannot be told will find out when the leases expire.
        let unheard = self.link.is_down() || self.link.registration().is_none();
        let running = if self.held.open() > 0 { self.config.grace } else { Duration::ZERO };
        settled || unheard || Instant::now() >= since + running + LAST_REPORT
    }

    fn check_connect_timeout(&self) -> Result<(), WorkerError> {
        match self.config.connect_timeout {
            Some(timeout) if self.link.session() == 0 && self.started.elapsed() >= timeout => {
                Err(WorkerError::NotThere {
                    url: self.link.url().to_owned(),
                    waited: timeout,
                    reason: self.link.last_trouble().to_owned(),
                })
            }
            _ => Ok(()),
        }
    }

    /// When there is something to do although nothing happens.
    fn wake_at(&self) -> Instant {
        let now = Instant::now();
        let running = self.held.running_for(now);
        let times = [
            self.link.retry_at(),
            self.link.registration().map(|_| self.calls.beat_at()),
            self.calls.lease_at(),
            self.pace.changes_in(self.held.open(), running).map(|pause| now + pause),
            (!self.missing.is_empty()).then(|| self.looked + LOOK_AGAIN),
            self.stopping.map(|since| since + self.config.grace),
            self.config.connect_timeout.filter(|_| self.link.session() == 0).map(|timeout| self.started + timeout),
        ];
        // What is overdue waits for an answer, not for the clock.
        let next = times.into_iter().flatten().filter(|at| *at > now).min();
        next.unwrap_or(now + Duration::from_secs(1))
    }
}
