//! The thread that trains, one training after the other.
//!
//! It shares nothing with the task that talks to the coordinator but two channels and the permit of each training, so
//! neither a long step nor a panic delays a report.

use super::failure::{self, failure};
use super::permit::Permit;
use super::place::{Finder, Found};
use crate::model::fingerprint_dir;
use crate::train::{self, StepRecord, TrainError, TrainEvent};
use crate::work_loop::evaluation::message;
use ropewalk_shared::fingerprint::Fingerprint;
use ropewalk_shared::training::{TrainingFailure, TrainingFailureKind, TrainingJob};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Instant;
use tokio::sync::mpsc::UnboundedSender;

/// A training to be done.
pub(super) struct Assignment {
    pub(super) job: TrainingJob,
    /// It is stopped when this ends.
    pub(super) permit: Arc<Permit>,
    /// Where to tell.
    pub(super) told: UnboundedSender<Told>,
}

/// What the thread tells.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Told {
    /// The model is loaded; these steps were done before.
    Begun(Vec<StepRecord>),
    Step(StepRecord),
    /// A checkpoint was taken after this step.
    Checkpoint(u32),
    /// Nothing follows.
    Ended(Ending),
}

/// How a training ended.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Ending {
    /// The model stands in its place.
    Trained {
        fingerprint: Fingerprint,
        curve: Vec<StepRecord>,
    },
    /// Its permit ended; what was done until this step is kept.
    Interrupted {
        step: u32,
    },
    Failed(TrainingFailure),
}

/// The other end of the thread.
#[derive(Debug)]
pub(super) struct Bench {
    tasks: mpsc::Sender<Assignment>,
}

// === impl Bench ===

impl Bench {
    /// Starts the thread; trainings run on `threads` threads, 0 for one per processor core.
    pub(super) fn start(mut finder: Finder, threads: usize) -> std::io::Result<Self> {
        let (tasks, inbox) = mpsc::channel::<Assignment>();
        let work = move || {
            for assignment in inbox {
                let ending = caught(|| train(&mut finder, &assignment, threads));
                // Nobody listens any more when the worker stops.
                let _ = assignment.told.send(Told::Ended(ending));
            }
        };
        thread::Builder::new().name("training".to_owned()).spawn(work)?;
        Ok(Self { tasks })
    }

    /// Queues a training. For one that is lost with the thread the channel of what is told closes.
    pub(super) fn send(&self, assignment: Assignment) {
        let _ = self.tasks.send(assignment);
    }
}

fn train(finder: &mut Finder, assignment: &Assignment, threads: usize) -> Ending {
    match try_train(finder, assignment, threads) {
        Ok(ending) => ending,
        Err(failure) => Ending::Failed(failure),
    }
}

fn try_train(finder: &mut Finder, assignment: &Assignment, threads: usize) -> Result<Ending, TrainingFailure> {
    let Assignment { job, permit, told } = assignment;
    // Names come from the network, and must not lead out of the folder.
    job.check().map_err(|error| failure(TrainingFailureKind::Invalid, error.to_string()))?;
    let Found { model, sequences, checkpoints, output } = finder.find(job)?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let pool = pool.map_err(|error| failure(TrainingFailureKind::Training, error.to_string()))?;
    let mut tell = |event: TrainEvent| {
        let told_now = match event {
            TrainEvent::Begun { before, .. } => Some(Told::Begun(before)),
            TrainEvent::Step(record) => Some(Told::Step(record)),
            TrainEvent::Checkpoint { step } => Some(Told::Checkpoint(step)),
            TrainEvent::Progress { .. } => None,
        };
        if let Some(event) = told_now {
            let _ = told.send(event);
        }
        if permit.holds(Instant::now()) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    let trained = pool.install(|| train::run(&model, &job.settings, &sequences, &checkpoints, &output, &mut tell));
    match trained {
        Ok(trained) => {
            let fingerprint = fingerprint_dir(&output);
            let fingerprint = fingerprint.map_err(|error| failure(TrainingFailureKind::Training, error.to_string()))?;
            Ok(Ending::Trained { fingerprint, curve: trained.curve })
        }
        Err(TrainError::Interrupted { step, .. }) => Ok(Ending::Interrupted { step }),
        Err(error) => Err(failure::of(&error)),
    }
}

/// Turns a panic into a failed training: the thread goes on to the next.
fn caught(train: impl FnOnce() -> Ending) -> Ending {
    catch_unwind(AssertUnwindSafe(train)).unwrap_or_else(|panic| {
        let reason = format!("the training panicked: {}", message(&*panic));
        Ending::Failed(failure(TrainingFailureKind::Training, reason))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_a_failed_training() {
        let Ending::Failed(failed) = caught(|| panic!("index {} out of bounds", 7)) else { panic!("not failed") };
        assert_eq!(failed.kind, TrainingFailureKind::Training);
        assert_eq!(failed.reason, "the training panicked: index 7 out of bounds");
    }
}
