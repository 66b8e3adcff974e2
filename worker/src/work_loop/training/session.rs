//! One leased training, from the lease to the acknowledged end.
//!
//! ```text
//! leased --> confirmed --> begun --------------------------> ended --> end acknowledged
//!       first report     nothing is evaluated any more
//! ```
//!
//! An answer to a report renews the lease from the moment at which the report was *sent*: the coordinator cannot have
//! counted from earlier. The permit ends a quarter of a lease before that is over, for the training to stop and to take a
//! checkpoint; should that take longer, the lock in the folder still keeps the next worker out.

mod reports;

use super::bench::{Assignment, Bench, Ending, Told};
use super::failure::failure;
use super::gate::TrainSide;
use super::permit::Permit;
use super::unsaid::Unsaid;
use crate::work_loop::desk::EVER;
use crate::work_loop::link::Link;
use reports::Answer;
use ropewalk_shared::training::{TrainingEnd, TrainingFailureKind, TrainingUnit};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Shortest time between reports that say nothing new.
const SHORTEST_REPORT: Duration = Duration::from_millis(10);

/// What lasts longer than one training.
pub(super) struct Surroundings<'a> {
    pub(super) worker: &'a str,
    pub(super) link: &'a mut Link,
    pub(super) bench: &'a Bench,
    pub(super) gate: &'a mut TrainSide,
    /// True once the worker is to stop.
    pub(super) stop: &'a mut watch::Receiver<bool>,
    /// How long the end of a training may take to be told of once it has stopped.
    pub(super) grace: Duration,
}

/// The times that the coordinator set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    lease: Duration,
    report: Duration,
}

/// What became of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// The coordinator knows that the model stands.
    Trained,
    /// The coordinator knows that it failed.
    Failed(TrainingFailureKind),
    /// The coordinator does not want it any more.
    NotWanted,
    /// The lease could not be renewed in time.
    Lost,
    /// The coordinator takes no report.
    Refused,
    /// The worker stopped, and could not say so.
    Unheard,
}

/// Everything about the training that is leased now.
struct Session<'a> {
    around: Surroundings<'a>,
    unit: TrainingUnit,
    terms: Terms,
    permit: Arc<Permit>,
    unsaid: Unsaid,
    /// At most one.
    calls: JoinSet<Answer>,
    /// The next report, if nothing is urgent.
    say_at: Instant,
    /// Whether a report was answered.
    confirmed: bool,
    begun: bool,
    /// What the thread tells, while it trains.
    told: Option<UnboundedReceiver<Told>>,
    /// What became of it, once the thread is done too.
    fate: Option<Fate>,
    stopping: Option<Instant>,
}

/// Carries out a training.
pub(super) async fn carry_out(around: Surroundings<'_>, unit: TrainingUnit, terms: Terms) -> Fate {
    let now = Instant::now();
    let mut session = Session {
        around,
        unit,
        terms,
        permit: Arc::new(Permit::until(now + terms.permitted())),
        unsaid: Unsaid::default(),
        calls: JoinSet::new(),
        say_at: now,
        confirmed: false,
        begun: false,
        told: None,
        fate: None,
        stopping: None,
    };
    session.run().await
}

// === impl Terms ===

impl Terms {
    /// Times that a clock can count to, and that leave room for several reports in a lease.
    pub(super) fn new(lease: Duration, report: Duration) -> Self {
        let lease = lease.min(EVER);
        Self { lease, report: report.min(lease / 4).max(SHORTEST_REPORT) }
    }

    /// How long it may be trained on without an answer.
    fn permitted(self) -> Duration {
        self.lease - self.lease / 4
    }
}

// === impl Session ===

impl Session<'_> {
    async fn run(&mut self) -> Fate {
        loop {
            self.look_at_permit();
            self.begin();
            self.say();
            if let Some(fate) = self.over() {
                return fate;
            }
            let wake = tokio::time::Instant::from_std(self.wake_at());
            tokio::select! {
                biased;
                () = stopped(self.around.stop), if self.stopping.is_none() => self.stop(),
                Some(Ok(answer)) = self.calls.join_next(), if !self.calls.is_empty() => self.answered(answer),
                told = next(&mut self.told) => self.heard(told),
                () = self.around.gate.changed(), if !self.begun => {}
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    /// Has the thread begin once that is due.
    fn begin(&mut self) {
        let free = self.stopping.is_none() && self.fate.is_none();
        if self.begun || !self.confirmed || !free || !self.around.gate.is_clear() {
            return;
        }
        self.begun = true;
        let (told, hear) = unbounded_channel();
        self.told = Some(hear);
        self.around.bench.send(Assignment { job: self.unit.job.clone(), permit: self.permit.clone(), told });
    }

    fn look_at_permit(&mut self) {
        if self.fate.is_none() && self.stopping.is_none() && !self.permit.holds(Instant::now()) {
            tracing::warn!(
                job = %self.unit.id,
                "the lease of a training could not be renewed: it stops, for another worker may get it"
            );
            self.give_up(Fate::Lost);
        }
    }

    /// Nothing is said of it any more, and it ends.
    fn give_up(&mut self, fate: Fate) {
        self.permit.withdraw();
        self.calls.abort_all();
        self.fate = Some(fate);
    }

    fn stop(&mut self) {
        self.stopping = Some(Instant::now());
        self.permit.withdraw();
        if self.told.is_some() {
            let what =
                "the training stops with a checkpoint of its last whole step; a second interruption ends it at once";
            tracing::info!(job = %self.unit.id, "{what}");
        }
        if !self.begun {
            self.hand_back();
        }
    }

    fn hand_back(&mut self) {
        self.unsaid.end(TrainingEnd::Failed(failure(TrainingFailureKind::HandedBack, "the worker is stopping")));
    }

    /// What became of it, where nothing is left to be done.
    fn over(&mut self) -> Option<Fate> {
        // A thread that still trains gives up its step and takes a checkpoint of those before, which may take as long as it takes.
        let is_said = self.told.is_none();
        let late = is_said && self.stopping.is_some_and(|since| Instant::now() >= since + self.around.grace);
        // Whoever cannot be told will find out when the lease expires.
        let unheard = self.stopping.is_some() && is_said && self.around.link.is_down();
        if late || unheard {
            return Some(self.fate.take().unwrap_or(Fate::Unheard));
        }
        is_said.then(|| self.fate.take())?
    }

    fn heard(&mut self, told: Option<Told>) {
        match told {
            Some(Told::Begun(before)) => {
                tracing::info!(job = %self.unit.id, after_step = before.len(), "training");
                self.unsaid.checkpoint(before.len() as u32);
                self.unsaid.add(&before);
            }
            Some(Told::Step(record)) => self.unsaid.add(&[record]),
            Some(Told::Checkpoint(step)) => {
                tracing::debug!(job = %self.unit.id, step, "checkpoint taken");
                self.unsaid.checkpoint(step);
            }
            Some(Told::Ended(ending)) => self.ended(ending),
            None => {
                let reason = "the training thread ended unexpectedly; the log says why";
                self.ended(Ending::Failed(failure(TrainingFailureKind::Training, reason)));
            }
        }
    }

    fn ended(&mut self, ending: Ending) {
        self.told = None;
        // From now on it is only to be told of.
        self.stopping = self.stopping.map(|_| Instant::now());
        match ending {
            Ending::Trained { fingerprint, curve } => {
                tracing::info!(job = %self.unit.id, steps = curve.len(), model = fingerprint.short(), "trained");
                self.unsaid.add(&curve);
                self.unsaid.checkpoint(curve.len() as u32);
                self.unsaid.end(TrainingEnd::Trained(fingerprint));
            }
            Ending::Interrupted { step } => {
                tracing::info!(job = %self.unit.id, step, "training stopped, its checkpoint taken");
                self.unsaid.checkpoint(step);
                // Unless it goes on nowhere, or the permit ended before anybody here noticed.
                if self.stopping.is_some() {
                    self.hand_back();
                }
            }
            Ending::Failed(failed) => {
                tracing::warn!(job = %self.unit.id, kind = ?failed.kind, "cannot train: {}", failed.reason);
                self.unsaid.end(TrainingEnd::Failed(failed));
            }
        }
    }

    fn wake_at(&self) -> Instant {
        let now = Instant::now();
        let times = [
            self.around.link.retry_at(),
            Some(self.say_at),
            self.permit.ends(),
            self.stopping.map(|since| since + self.around.grace),
        ];
        let next = times.into_iter().flatten().filter(|at| *at > now).min();
        next.unwrap_or(now + Duration::from_secs(1))
    }
}

impl Drop for Session<'_> {
    /// A worker that is dropped leaves no training running.
    fn drop(&mut self) {
        self.permit.withdraw();
    }
}

/// Ready once the worker is to stop.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // A sender that is gone has nothing to wait for either.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// What the thread tells next; never, where it does not train.
async fn next(told: &mut Option<UnboundedReceiver<Told>>) -> Option<Told> {
    match told {
        Some(told) => told.recv().await,
        None => std::future::pending().await,
    }
}
