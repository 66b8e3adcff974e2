//! What is known of a training as it goes on: its steps, and how it ended.

use crate::fingerprint::Fingerprint;
use crate::job::JobId;
use crate::training::TrainingJob;
use crate::work::LeaseId;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Most steps in one report.
pub const MAX_STEPS_PER_REPORT: usize = 4096;
/// Most jobs that a worker says it cannot train.
pub const MAX_DECLINED: usize = 10_000;

/// A step that was done.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Its number, from 1.
    pub step: u32,
    /// Mean loss before it, in nats a token.
    pub loss: f64,
    /// The same of sequences of the long window alone; absent when it had none.
    pub long: Option<f64>,
    /// The same of short windows alone.
    pub short: Option<f64>,
    /// Length of the gradient before it was shortened.
    pub gradient_norm: f64,
    /// The learning rate.
    pub learning_rate: f64,
    /// Tokens that were counted.
    pub tokens: u64,
}

/// A worker's request for a training.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrainingRequest {
    /// Who asks, for people.
    pub worker: String,
    /// What it computes on.
    pub device: String,
    /// Version of its program.
    pub version: String,
    /// How long to wait when there is none.
    pub wait: Duration,
    /// Jobs that it cannot train.
    pub declined: Vec<JobId>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainingLease {
    /// A training, where there was one.
    pub unit: Option<TrainingUnit>,
    /// How long a lease lasts after it was given or renewed.
    pub lease: Duration,
    /// How often to report at least.
    pub report: Duration,
}

/// A training, leased.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainingUnit {
    /// The lease.
    pub lease: LeaseId,
    /// The job's id.
    pub id: JobId,
    /// What is to be trained.
    pub job: TrainingJob,
    /// How often it was leased, this time included.
    pub attempt: u32,
}

/// What a worker tells while it trains.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainingReport {
    /// Who, for people.
    pub worker: String,
    /// The lease it trains under.
    pub lease: LeaseId,
    /// The job.
    pub job: JobId,
    /// In order and without gaps; those that are known are passed over.
    pub steps: Vec<StepRecord>,
    /// The step after which the last checkpoint was taken; 0 before the first.
    pub checkpoint: u32,
    /// Absent while it goes on.
    pub end: Option<TrainingEnd>,
}

/// How a leased training ended.
#[derive(Clone, Debug, PartialEq)]
pub enum TrainingEnd {
    /// The model is in its place.
    Trained(Fingerprint),
    /// It is not.
    Failed(TrainingFailure),
}

/// Why a leased training did not end with a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrainingFailure {
    /// In which way.
    pub kind: TrainingFailureKind,
    /// What the worker says.
    pub reason: String,
}

/// What a failure says about the training, and about the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrainingFailureKind {
    /// The model, or the folder with the sequences, is not there or not what the job names: another worker may have it.
    NotHere,
    /// It does not fit into this worker's memory.
    TooLarge,
    /// Another process trains in the folder.
    Busy,
    /// The worker stops; what was done is in the checkpoint.
    HandedBack,
    /// Loss or gradient is no number: training again would go the same way.
    Diverged,
    /// The settings do not fit the model or the sequences.
    Invalid,
    /// Anything else, such as a full disk.
    Training,
}

/// How a training stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainingProgress {
    /// Steps that are done.
    pub steps_done: u32,
    /// Steps there are.
    pub steps: u32,
    /// Of the last step, in nats a token.
    pub loss: Option<f64>,
    /// The step after which the last checkpoint was taken; 0 before the first.
    pub checkpoint: u32,
    /// Who trains, where somebody does.
    pub worker: Option<String>,
}

// === impl TrainingFailureKind ===

impl TrainingFailureKind {
    /// Whether no worker could do better.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Diverged | Self::Invalid)
    }
}
