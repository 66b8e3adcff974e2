//! Why nothing happens to a job.

use super::queue::JobQueue;
use super::workers::Worker;
use ropewalk_shared::job::JobId;
use ropewalk_shared::work::Measure;
use std::fmt;

/// What a job waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// For any worker.
    NoWorker,
    /// For a worker that can take its units.
    NoneAble {
        /// Workers that are connected.
        connected: usize,
        /// How many of them do not have the model.
        without_model: usize,
        /// How many brought results that cannot be right, and are not asked any more.
        refused: usize,
        /// How many have the model and compute no gradients, where nothing else is wanted.
        without_gradients: usize,
        /// Tokens that the others can hold at most.
        largest: Option<u64>,
        /// Tokens that it takes.
        needed: u32,
    },
    /// For workers that could take its units, but train.
    Training {
        /// How many they are: all that could.
        workers: usize,
        /// What one of them trains.
        job: JobId,
    },
    /// For a sample that workers could not fetch.
    Retry {
        /// Units that wait.
        units: usize,
        /// What the last worker said.
        reason: String,
    },
}

/// What a job waits for; `None` while something of it is leased or can be.
pub(super) fn reason<'a>(queue: &JobQueue, workers: impl Iterator<Item = &'a Worker>) -> Option<Waiting> {
    if queue.paused || queue.leased().next().is_some() {
        return None;
    }
    if let Some((units, reason)) = queue.only_delayed() {
        return Some(Waiting::Retry { units, reason: reason.to_owned() });
    }
    let (needed, measure) = queue.smallest_ready()?;
    let (mut connected, mut without_model, mut refused, mut without_gradients, mut largest) = (0, 0, 0, 0, None);
    let mut training = Vec::new();
    for worker in workers {
        connected += 1;
        match worker.max_tokens(&queue.model, measure) {
            0 if worker.is_refused(&queue.model, measure) => refused += 1,
            0 if worker.max_tokens(&queue.model, Measure::Loss) > 0 => without_gradients += 1,
            0 => without_model += 1,
            holds if holds >= u64::from(needed) => training.push(worker.training.as_ref()?),
            holds => largest = largest.max(Some(holds)),
        }
    }
    if let Some(&job) = training.iter().min() {
        return Some(Waiting::Training { workers: training.len(), job: job.clone() });
    }
    if connected == 0 {
        return Some(Waiting::NoWorker);
    }
    Some(Waiting::NoneAble { connected, without_model, refused, without_gradients, largest, needed })
}

// === impl Waiting ===

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoWorker => {
                f.write_str("waiting for a worker: none is connected; start ropewalk-worker --coordinator URL")
            }
            Self::NoneAble { connected, without_model, refused, without_gradients, largest, needed } => {
                write!(f, "waiting for a worker that can take it: of {connected} connected")?;
                if *without_model > 0 {
                    write!(f, ", {without_model} without the job's model (--model-root)")?;
                }
                if *refused > 0 {
                    write!(
                        f,
                        ", {refused} left out for results that cannot be right (an event of the job that they were for, and the log, say why)"
                    )?;
                }
                if *without_gradients > 0 {
                    write!(f, ", {without_gradients} that compute no gradients (--device cpu does)")?;
                }
                if let Some(largest) = largest {
                    write!(f, ", the others hold at most {largest} of {needed} tokens")?;
                }
                Ok(())
            }
            Self::Training { workers, job } => {
                match workers {
                    1 => f.write_str("waiting: its only worker is training")?,
                    _ => write!(f, "waiting: its {workers} workers are training")?,
                }
                write!(
                    f,
                    " ({job}), and nothing is evaluated meanwhile; another (ropewalk-worker --coordinator URL) begins at once"
                )
            }
            Self::Retry { units, reason } => {
                write!(f, "{units} units wait to be tried again, their sample could not be fetched: {reason}")
            }
        }
    }
}
