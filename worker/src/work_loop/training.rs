//! Trainings: leased beside the units, one at a time, and carried out while nothing is evaluated.
//!
//! ```text
//!              a training, whether it is wanted         assignment, permit
//! coordinator ----------------------------> session  ------------------> bench (a thread)
//!             <----------------------------   |      <------------------
//!               steps, checkpoint, end        | gate    steps, checkpoints, end
//!                                             v
//!                                            desk
//! ```
//!
//! The service for trainings knows no registrations: a lease is all that binds a worker. Whatever happens to either, no
//! more is lost than the steps since the last checkpoint, which lies where the next worker finds it.

mod bench;
mod declined;
mod failure;
mod gate;
mod permit;
mod place;
mod session;
mod unsaid;

pub(super) use gate::{DeskSide, TrainSide, gate};

use super::desk::{EVER, LAST_REPORT};
use super::link::{Link, Meaning};
use super::{WorkerConfig, WorkerError};
use bench::Bench;
use declined::Declined;
use place::Finder;
use ropewalk_shared::training::{TrainingLease, TrainingRequest, TrainingUnit};
use ropewalk_shared::wire::pb;
use session::{Fate, Surroundings, Terms, carry_out, stopped};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tonic::Status;

/// How long the coordinator may hold a request until there is a training.
const LEASE_WAIT: Duration = Duration::from_secs(20);
/// Beyond that, for the answer to arrive.
const ANSWER: Duration = Duration::from_secs(20);
/// Pause after an answer that came sooner than it should, and after a lease of which nothing came.
const PAUSE: Duration = Duration::from_millis(500);
/// Pause after a coordinator said that it does not lease trainings: it may be replaced by one that does.
const LONG_PAUSE: Duration = Duration::from_secs(300);

/// The part of a worker that trains.
pub(super) struct Trainings {
    config: WorkerConfig,
    link: Link,
    bench: Bench,
    gate: TrainSide,
    declined: Declined,
    /// No request before.
    ask_at: Instant,
    /// What the coordinator's last refusal said.
    refusal: Option<String>,
}

// === impl Trainings ===

impl Trainings {
    /// Starts the thread that trains; nothing is leased yet.
    ///
    /// # Errors
    /// [`WorkerError`] when the worker cannot train as it is configured.
    pub(super) fn start(config: &WorkerConfig, train_root: &Path, gate: TrainSide) -> Result<Self, WorkerError> {
        if !train_root.is_dir() {
            return Err(WorkerError::TrainRoot(train_root.to_owned()));
        }
        if !config.devices.is_cpu() {
            return Err(WorkerError::TrainsOnCpu { devices: config.devices.to_string() });
        }
        let finder = Finder::new(train_root.to_owned(), config.model_root.clone());
        Ok(Self {
            config: config.clone(),
            // Of its own, so that trouble of the one says nothing about the other.
            link: Link::new(&config.coordinator, &config.access)?,
            bench: Bench::start(finder, config.threads).map_err(WorkerError::Thread)?,
            gate,
            declined: Declined::default(),
            ask_at: Instant::now(),
            refusal: None,
        })
    }

    /// Trains until `stop` is true, and returns how many models were made.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) -> u64 {
        let mut trained = 0;
        while let Some((unit, terms)) = self.leased(&mut stop).await {
            let job = unit.id.clone();
            tracing::info!(job = %job, attempt = unit.attempt, "leased a training");
            self.gate.shut();
            let around = Surroundings {
                worker: &self.config.name,
                link: &mut self.link,
                bench: &self.bench,
                gate: &mut self.gate,
                stop: &mut stop,
                grace: self.config.grace.min(EVER) + LAST_REPORT,
            };
            let fate = carry_out(around, unit, terms).await;
            self.gate.open();
            let now = Instant::now();
            match fate {
                Fate::Trained => trained += 1,
                Fate::Failed(kind) => self.declined.failed(job, kind, now),
                Fate::Refused => self.declined.refused(job, now),
                Fate::NotWanted | Fate::Lost | Fate::Unheard => self.ask_at = now + PAUSE,
            }
        }
        trained
    }

    /// The next training; none once the worker is to stop.
    async fn leased(&mut self, stop: &mut watch::Receiver<bool>) -> Option<(TrainingUnit, Terms)> {
        loop {
            let at = self.link.retry_at().map_or(self.ask_at, |at| at.max(self.ask_at));
            let ask = async {
                tokio::time::sleep_until(at.into()).await;
                self.ask().await
            };
            let leased = tokio::select! {
                biased;
                // A training that is being leased at this moment goes to another worker when its lease expires.
                () = stopped(stop) => return None,
                leased = ask => leased,
            };
            if leased.is_some() {
                return leased;
            }
        }
    }

    /// Asks once.
    async fn ask(&mut self) -> Option<(TrainingUnit, Terms)> {
        let asked = Instant::now();
        let declined = self.declined.jobs(asked);
        // Until the list of them changes.
        let wait = self.declined.next_end().map_or(LEASE_WAIT, |end| end.saturating_duration_since(asked));
        let request = TrainingRequest {
            worker: self.config.name.clone(),
            device: self.config.devices.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            wait: wait.clamp(PAUSE, LEASE_WAIT),
            declined,
        };
        let mut client = self.link.trainings();
        let call = client.lease_training(pb::LeaseTrainingRequest::from(&request));
        let late = |_| Err(Status::deadline_exceeded("no answer in time"));
        let answer = tokio::time::timeout(request.wait + ANSWER, call).await.unwrap_or_else(late);
        match answer.map(|response| TrainingLease::try_from(response.into_inner())) {
            Ok(Ok(TrainingLease { unit, lease, report })) => {
                self.link.served();
                self.refusal = None;
                if unit.is_none() && asked.elapsed() < request.wait.min(PAUSE) {
                    self.ask_at = Instant::now() + PAUSE;
                }
                unit.map(|unit| (unit, Terms::new(lease, report)))
            }
            Ok(Err(error)) => {
                // It goes to another worker when the lease expires.
                self.refused(format!("the coordinator sent a training that makes no sense: {error}"));
                None
            }
            Err(status) if Meaning::of(&status) == Meaning::Refused => {
                self.refused(format!("the coordinator leases no trainings to this worker: {}", status.message()));
                None
            }
            Err(status) => {
                // The desk says when the coordinator is away.
                self.link.failed("lease-training", &status, true);
                None
            }
        }
    }

    /// Says once what would be said again, and asks less often.
    fn refused(&mut self, reason: String) {
        self.ask_at = Instant::now() + LONG_PAUSE;
        if self.refusal.as_ref() != Some(&reason) {
            tracing::warn!(coordinator = self.link.url(), again_after = ?LONG_PAUSE, "{reason}");
            self.refusal = Some(reason);
        }
    }
}
