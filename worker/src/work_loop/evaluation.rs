//! The thread that evaluates: one model at a time, one unit after the other.
//!
//! It shares nothing with the tasks that talk to the coordinator but two channels and the cancel flags, so neither a
//! long evaluation nor a panicking one delays a heartbeat.

use super::batch;
use super::registry::{ModelName, Registry};
use super::{WorkerConfig, WorkerError};
use crate::cancel::CancelFlag;
use crate::device::Dtype;
use crate::evaluator::{Asked, Evaluator, EvaluatorOptions, OpenError};
use crate::gradient::Gradient;
use crate::model::LoadError;
use crate::perplexity::EvalError;
use candle_core::Device;
use ropewalk_shared::fingerprint::Fingerprint;
use ropewalk_shared::outcome::{FailureKind, Loss, LossSlope, UnitFailure};
use ropewalk_shared::sample::Sample;
use ropewalk_shared::work::{Measure, Unit};
use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// How long a model that could not be loaded is left alone: reading it takes time, and the cause seldom goes away.
const LOAD_AGAIN: Duration = Duration::from_secs(600);
/// So long the thread may take to end, once it is to.
const LEAVING: Duration = Duration::from_secs(5);

/// What the thread is asked to do.
pub(super) enum Task {
    /// Evaluate a unit.
    Evaluate(Assignment),
    /// Look again for the models that were not there.
    LookAgain,
    /// Give up the memory of the loaded model.
    Unload,
}

/// A unit with everything its evaluation needs.
pub(super) struct Assignment {
    /// Names the unit in this worker.
    pub(super) number: u64,
    pub(super) unit: Arc<Unit>,
    pub(super) sample: Arc<Sample>,
    pub(super) cancel: CancelFlag,
}

/// What the thread tells.
#[derive(Debug)]
pub(super) enum Notice {
    /// The model is loaded and the evaluation runs; so many units of the sample could run together.
    Started { number: u64, together: usize },
    /// The unit is done with, one way or the other.
    Finished { number: u64, outcome: Outcome, took: Duration },
    /// Which models are here, and which were looked for in vain, changed.
    Models { loaded: Option<Fingerprint>, missing: Vec<Fingerprint> },
}

/// What came of a unit.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Outcome {
    Loss(Loss),
    Gradient(Loss, LossSlope),
    Failure(UnitFailure),
    /// The GPU failed, for so many evaluations one after the other.
    DeviceFailed {
        reason: String,
        in_a_row: u32,
    },
    /// The flag was raised, when this part was done.
    Cancelled {
        share: f32,
    },
}

/// The other end of the thread.
#[derive(Debug)]
pub(super) struct Evaluation {
    tasks: mpsc::Sender<Task>,
    notices: UnboundedReceiver<Notice>,
    thread: thread::JoinHandle<()>,
}

/// What lives on the thread.
struct Bench {
    devices: Vec<Device>,
    dtype: Dtype,
    options: EvaluatorOptions,
    registry: Registry,
    loaded: Option<(Fingerprint, Evaluator)>,
    /// Models that are not here, each with the reason that was given.
    missing: BTreeMap<ModelName, String>,
    /// Models that are here and could not be loaded, each with the time of the attempt and what came of it.
    unloadable: BTreeMap<ModelName, (Instant, String)>,
    /// Evaluations that the GPU failed since the last that it did not.
    device_failures: u32,
    notices: UnboundedSender<Notice>,
}

// === impl Evaluation ===

impl Evaluation {
    /// Starts the thread on devices that were opened.
    pub(super) fn start(config: &WorkerConfig, devices: Vec<Device>) -> Result<Self, WorkerError> {
        let (tasks, inbox) = mpsc::channel();
        let (outbox, notices) = unbounded_channel();
        let bench = Bench {
            devices,
            dtype: config.dtype,
            options: EvaluatorOptions {
                threads: config.threads,
                max_tokens: config.max_tokens.map(|tokens| usize::try_from(tokens).unwrap_or(usize::MAX)),
                device_memory: config.device_memory,
                ..EvaluatorOptions::on(config.devices.is_cpu())
            },
            registry: Registry::new(config.model_root.clone()),
            loaded: None,
            missing: BTreeMap::new(),
            unloadable: BTreeMap::new(),
            device_failures: 0,
            notices: outbox,
        };
        let thread = thread::Builder::new().name("evaluation".to_owned()).spawn(move || bench.run(&inbox));
        Ok(Self { tasks, notices, thread: thread.map_err(WorkerError::Thread)? })
    }

    /// A thread that gives every unit the outcome that `outcome` says.
    #[cfg(test)]
    pub(super) fn scripted(mut outcome: impl FnMut() -> Outcome + Send + 'static) -> Self {
        let (tasks, inbox) = mpsc::channel();
        let (outbox, notices) = unbounded_channel();
        let thread = thread::spawn(move || {
            for task in inbox {
                if let Task::Evaluate(Assignment { number, cancel, .. }) = task {
                    let cancelled = Outcome::Cancelled { share: 0.0 };
                    let outcome = if cancel.is_cancelled() { cancelled } else { outcome() };
                    let _ = outbox.send(Notice::Started { number, together: 1 });
                    let _ = outbox.send(Notice::Finished { number, outcome, took: Duration::ZERO });
                }
            }
        });
        Self { tasks, notices, thread }
    }

    /// Queues a task. One for a thread that is gone is lost; [`Self::next`] tells.
    pub(super) fn send(&self, task: Task) {
        let _ = self.tasks.send(task);
    }

    /// What the thread has to tell next; `None` when it is gone.
    pub(super) async fn next(&mut self) -> Option<Notice> {
        self.notices.recv().await
    }

    /// Lets the thread finish what is queued, and waits for it, but not for long.
    pub(super) async fn finish(self) {
        drop(self.tasks);
        // A thread that panicked has been reported by the panic hook already. One that is reading a large model hears of nothing
        // until it has; it ends with the process.
        let since = Instant::now();
        while !self.thread.is_finished() && since.elapsed() < LEAVING {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

// === impl Bench ===

impl Bench {
    fn run(mut self, inbox: &mpsc::Receiver<Task>) {
        let (mut waiting, mut look) = (VecDeque::new(), false);
        loop {
            // All that is there, so that what goes together is seen together.
            let idle = waiting.is_empty() && !look;
            let task = if idle { inbox.recv().ok() } else { inbox.try_recv().ok() };
            match task {
                Some(Task::Evaluate(assignment)) => waiting.push_back(assignment),
                // Asked for many times during a long evaluation, it is done once.
                Some(Task::LookAgain) => look = true,
                Some(Task::Unload) => self.unload(),
                None if std::mem::take(&mut look) => self.look_again(),
                None if waiting.is_empty() => return,
                None => {
                    let most = waiting.front().map_or(1, |first| self.most_together(first));
                    self.evaluate(batch::take(&mut waiting, most));
                }
            }
        }
    }

    /// How many candidates of this unit's sample may go through the model together.
    fn most_together(&self, first: &Assignment) -> usize {
        match &self.loaded {
            Some((fingerprint, evaluator))
                if *fingerprint == first.unit.model_fingerprint && first.unit.measure == Measure::Loss =>
            {
                evaluator.most_together(first.sample.tokens().len())
            }
            _ => 1,
        }
    }

    /// Evaluates units of one sample.
    fn evaluate(&mut self, batch: Vec<Assignment>) {
        let (out, batch): (Vec<_>, Vec<_>) = batch.into_iter().partition(|assignment| assignment.cancel.is_cancelled());
        for Assignment { number, .. } in out {
            self.tell(Notice::Finished { number, outcome: Outcome::Cancelled { share: 0.0 }, took: Duration::ZERO });
        }
        let Some(first) = batch.first() else { return };
        let mut took = Duration::ZERO;
        let outcomes = caught(|| {
            if let Err(outcome) = self.load(&ModelName::of(&first.unit), first.sample.tokens().len()) {
                return Ok(vec![outcome; batch.len()]);
            }
            let together = self.most_together(first);
            batch.iter().for_each(|assignment| self.tell(Notice::Started { number: assignment.number, together }));
            let start = Instant::now();
            let outcomes = self.measure(&batch);
            took = start.elapsed() / batch.len() as u32;
            outcomes
        });
        let outcomes = outcomes.unwrap_or_else(|panic| {
            // Who knows what state it left the device in.
            self.unload();
            Err(panic)
        });
        let outcomes = outcomes.unwrap_or_else(|failure| vec![Outcome::Failure(failure); batch.len()]);
        for outcome in &outcomes {
            match outcome {
                Outcome::Loss(_) | Outcome::Gradient(..) => self.device_failures = 0,
                Outcome::DeviceFailed { in_a_row, .. } => self.device_failures = *in_a_row,
                Outcome::Failure(_) | Outcome::Cancelled { .. } => {}
            }
        }
        for (Assignment { number, .. }, outcome) in batch.iter().zip(outcomes) {
            self.tell(Notice::Finished { number: *number, outcome, took });
        }
    }

    /// What comes of each unit of a batch.
    fn measure(&self, batch: &[Assignment]) -> Result<Vec<Outcome>, UnitFailure> {
        let (Some((_, evaluator)), Some(first)) = (&self.loaded, batch.first()) else {
            return Err(failure(FailureKind::Evaluation, "no model is loaded".to_owned()));
        };
        let document = (first.sample.tokens(), first.sample.counted_from() as usize);
        let mut share = 0.0;
        let measured = match first.unit.measure {
            Measure::Loss => {
                let asked = batch.iter().map(|one| Asked { rescale: &one.unit.rescale, cancel: &one.cancel });
                let asked: Vec<Asked<'_>> = asked.collect();
                let losses = evaluator.evaluate_together(&asked, document, &mut |part| share = part);
                losses.map(|losses| {
                    losses.into_iter().map(|counted| counted.map(|counted| Outcome::Loss(counted.loss))).collect()
                })
            }
            Measure::Gradient => {
                let (rescale, cancel) = (&first.unit.rescale, &first.cancel);
                let gradient = evaluator.gradient(rescale, document, cancel, &mut |part| share = part);
                gradient.map(|Gradient { loss, log_factors, log_attention_factor, log_pair_attention }| {
                    let loss = Loss { nll_sum: loss.nll_sum, tokens: loss.tokens };
                    vec![Some(Outcome::Gradient(
                        loss,
                        LossSlope { log_factors, log_attention_factor, log_pair_attention },
                    ))]
                })
            }
        };
        // Of those that went together, one that is out stopped before the others were done; nobody noted when.
        let stopped = || Outcome::Cancelled { share };
        match measured {
            Ok(outcomes) => Ok(outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(stopped)).collect()),
            Err(EvalError::Cancelled) => Ok(batch.iter().map(|_| stopped()).collect()),
            Err(error @ (EvalError::NoGradient | EvalError::NotWhole)) => {
                Err(failure(FailureKind::NoGradient, error.to_string()))
            }
            Err(error) if error.is_too_large() => Err(failure(FailureKind::TooLarge, error.to_string())),
            Err(error @ EvalError::Device(_)) if !evaluator.model().device().is_cpu() => {
                let failed = Outcome::DeviceFailed { reason: error.to_string(), in_a_row: self.device_failures + 1 };
                Ok(vec![failed; batch.len()])
            }
            Err(error) => Err(failure(FailureKind::Evaluation, error.to_string())),
        }
    }

    /// Makes the model the loaded one, for documents of `tokens` tokens.
    fn load(&mut self, wanted: &ModelName, tokens: usize) -> Result<(), Outcome> {
        let serves = |(loaded, evaluator): &(Fingerprint, Evaluator)| {
            *loaded == wanted.fingerprint && !evaluator.must_stream(tokens)
        };
        if self.loaded.as_ref().is_some_and(serves) {
            return Ok(());
        }
        let failed = |kind, reason| Outcome::Failure(failure(kind, reason));
        if let Some((tried, reason)) = self.unloadable.get(wanted)
            && tried.elapsed() < LOAD_AGAIN
        {
            // Units that were leased before the coordinator was told.
            return Err(failed(FailureKind::ModelMissing, reason.clone()));
        }
        let found = self.find(wanted);
        self.tell_models();
        let folder = found.map_err(Outcome::Failure)?;
        // Before the next is loaded: two may not fit.
        self.unload();
        tracing::info!(model = wanted.name, folder = %folder.display(), "loading a model");
        match self.evaluator(&folder, tokens) {
            Ok(evaluator) => {
                tracing::info!(
                    model = wanted.name,
                    fingerprint = wanted.fingerprint.short(),
                    max_tokens = evaluator.max_tokens(),
                    threads = evaluator.threads(),
                    kernels = evaluator.model().kernels_name(),
                    placement =
                        evaluator.placement(tokens).map_or_else(|_| "none".to_owned(), |place| place.to_string()),
                    "model loaded"
                );
                self.unloadable.remove(wanted);
                self.loaded = Some((wanted.fingerprint, evaluator));
                self.tell_models();
                Ok(())
            }
            // The model is here; its documents are too long.
            Err(OpenError::NoPlacement(error)) => Err(failed(FailureKind::TooLarge, error.to_string())),
            Err(error) => {
                let reason = format!("cannot load the model in {}: {error}", folder.display());
                if self.is_of_the_gpu(error) {
                    return Err(Outcome::DeviceFailed { reason, in_a_row: self.device_failures + 1 });
                }
                self.unloadable.insert(wanted.clone(), (Instant::now(), reason.clone()));
                self.tell_models();
                // Not the candidates' fault: as good as not there, and another worker may be able to.
                Err(failed(FailureKind::ModelMissing, reason))
            }
        }
    }

    /// Whether the GPU failed, and not for want of memory: that may be another model's, or another process's.
    fn is_of_the_gpu(&self, error: OpenError) -> bool {
        match error {
            OpenError::Load(LoadError::Placement { source, .. }) if !self.devices.iter().all(Device::is_cpu) => {
                !EvalError::device(*source, 0).is_too_large()
            }
            _ => false,
        }
    }

    fn evaluator(&self, folder: &Path, tokens: usize) -> Result<Evaluator, OpenError> {
        Evaluator::open(folder, &self.devices, self.dtype, tokens, self.options.clone())
    }

    fn find(&mut self, wanted: &ModelName) -> Result<PathBuf, UnitFailure> {
        let found = self.registry.find(wanted);
        match &found {
            Ok(_) => _ = self.missing.remove(wanted),
            Err(failure) => _ = self.missing.insert(wanted.clone(), failure.reason.clone()),
        }
        found
    }

    fn look_again(&mut self) {
        let (missing, unloadable) = (self.missing.clone(), self.unloadable.len());
        self.unloadable.retain(|_, (tried, _)| tried.elapsed() < LOAD_AGAIN);
        for (wanted, before) in &missing {
            match caught(|| self.find(wanted)) {
                Ok(Ok(folder)) => tracing::info!(model = wanted.name, folder = %folder.display(), "model appeared"),
                Ok(Err(failure)) if failure.reason != *before => {
                    tracing::warn!(kind = ?failure.kind, "still without a model: {}", failure.reason);
                }
                Ok(Err(_)) | Err(_) => {}
            }
        }
        if self.missing.len() != missing.len() || self.unloadable.len() != unloadable {
            self.tell_models();
        }
    }

    fn unload(&mut self) {
        if self.loaded.take().is_some() {
            self.tell_models();
        }
    }

    fn tell_models(&self) {
        self.tell(Notice::Models {
            loaded: self.loaded.as_ref().map(|(fingerprint, _)| *fingerprint),
            missing: self.missing.keys().chain(self.unloadable.keys()).map(|model| model.fingerprint).collect(),
        });
    }

    fn tell(&self, notice: Notice) {
        // Nobody listens any more when the worker stops.
        let _ = self.notices.send(notice);
    }
}

fn failure(kind: FailureKind, reason: String) -> UnitFailure {
    UnitFailure { kind, reason }
}

/// Turns a panic into the failure of a unit: the thread goes on to the next.
fn caught<T>(evaluate: impl FnOnce() -> T) -> Result<T, UnitFailure> {
    catch_unwind(AssertUnwindSafe(evaluate))
        .map_err(|panic| failure(FailureKind::Evaluation, format!("the evaluation panicked: {}", message(&*panic))))
}

/// What a panic said.
pub(super) fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_a_failed_unit() {
        let literal = caught::<()>(|| panic!("index out of bounds")).unwrap_err();
        assert_eq!(literal.kind, FailureKind::Evaluation);
        assert!(literal.reason.ends_with("index out of bounds"), "{}", literal.reason);
        let number = 7;
        assert!(caught::<()>(|| panic!("layer {number}")).unwrap_err().reason.ends_with("layer 7"));
        let odd = caught::<()>(|| std::panic::panic_any(7)).unwrap_err();
        assert_eq!(odd.reason, "the evaluation panicked: no message");
        assert_eq!(caught(|| 7), Ok(7));
    }
}
