//! What passes between the coordinator and its workers: units, leases, reports.

use crate::fingerprint::Fingerprint;
use crate::job::JobId;
use crate::outcome::{Loss, LossSlope, UnitFailure};
use crate::rope::Rescale;
use crate::sample::SampleId;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// Most units leased by one request.
pub const MAX_UNITS_PER_LEASE: u32 = 1024;
/// Most reports in one request.
pub const MAX_REPORTS: usize = 4096;
/// Longest a request may wait for work.
pub const MAX_WAIT: Duration = Duration::from_secs(60);

/// What is wanted to be known of a candidate on a sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// The loss.
    #[default]
    Loss,
    /// The loss and its derivatives by the candidate's numbers, for about the price of three losses.
    Gradient,
}

/// A worker, from its registration until it or the coordinator restarts.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(String);

/// One lease of one unit. Never given twice, not even by a restarted coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(pub u64);

/// A text that is no worker id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no worker id: use the one that registering returned")]
pub struct InvalidWorkerId(String);

/// What a worker says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerProfile {
    /// For people; two workers may share a name.
    pub name: String,
    /// What it computes on.
    pub device: String,
    /// The number type it computes in.
    pub dtype: String,
    /// Longest sequence it can hold, in tokens.
    pub max_tokens: u64,
    /// Longest sequence of which it computes gradients, in tokens; 0 when it computes none.
    pub max_gradient_tokens: u64,
    /// Version of its program.
    pub version: String,
}

/// The answer to a registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// To be named in every request.
    pub worker: WorkerId,
    /// A lease lasts this long after it was given or renewed.
    pub lease: Duration,
    /// How often to renew.
    pub heartbeat: Duration,
}

/// A worker's request for work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseRequest {
    /// Who asks.
    pub worker: WorkerId,
    /// Rising; a repeated one is answered with the same leases.
    pub request_id: u64,
    /// At most this many units.
    pub max_units: u32,
    /// How long to wait when there is no work.
    pub wait: Duration,
    /// Models that it has loaded: preferred.
    pub loaded: Vec<Fingerprint>,
    /// Models that it looked for and does not have: never leased to it.
    pub missing: Vec<Fingerprint>,
}

/// One candidate on one sample, leased.
#[derive(Clone, Debug, PartialEq)]
pub struct Unit {
    /// The lease.
    pub lease: LeaseId,
    /// The job that wants it.
    pub job: JobId,
    /// The folder of the model.
    pub model_name: String,
    /// Digest of the model that the job was launched with.
    pub model_fingerprint: Fingerprint,
    /// The sample.
    pub sample: SampleId,
    /// Tokens of the sample.
    pub tokens: u32,
    /// The candidate.
    pub rescale: Rescale,
    /// What to find out.
    pub measure: Measure,
    /// How often this unit was leased, this time included.
    pub attempt: u32,
}

/// What came of a unit.
#[derive(Clone, Debug, PartialEq)]
pub struct UnitReport {
    /// The lease it was evaluated under, which may have expired.
    pub lease: LeaseId,
    /// The job.
    pub job: JobId,
    /// The sample.
    pub sample: SampleId,
    /// The candidate.
    pub rescale: Rescale,
    /// The result, or why there is none.
    pub outcome: UnitOutcome,
}

/// A result, or why there is none.
#[derive(Clone, Debug, PartialEq)]
pub enum UnitOutcome {
    /// Evaluated.
    Loss {
        /// The result.
        loss: Loss,
        /// How long it took.
        seconds: f64,
    },
    /// Evaluated with its derivatives.
    Gradient {
        /// The result.
        loss: Loss,
        /// How it changes with the candidate.
        slope: LossSlope,
        /// How long it took.
        seconds: f64,
    },
    /// Stopped on its way, because nobody wants it any more.
    Stopped {
        /// The part that was done, from 0 to 1.
        share: f64,
        /// How long that took.
        seconds: f64,
    },
    /// Not evaluated.
    Failure(UnitFailure),
}

/// What the coordinator made of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Stored.
    Accepted,
    /// Known before; the first result stands.
    Duplicate,
    /// Known before with another value; the first stands and the difference is logged.
    Conflict,
    /// Nobody asked for it: the job is over or was never here.
    NotWanted,
    /// The report itself cannot be right.
    Refused,
}

// === impl Measure ===

impl Measure {
    /// What it takes, in losses of the same sample.
    pub fn cost(self) -> u64 {
        match self {
            Self::Loss => 1,
            Self::Gradient => 3,
        }
    }
}

// === impl WorkerId ===

impl WorkerId {
    /// Longest id, in bytes.
    const MAX_LENGTH: usize = 64;

    /// An id from text.
    ///
    /// # Errors
    /// [`InvalidWorkerId`] for an empty or long text, or one with other characters than letters, digits and `-`.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidWorkerId> {
        let text = text.into();
        let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if plain && (1..=Self::MAX_LENGTH).contains(&text.len()) {
            Ok(Self(text))
        } else {
            Err(InvalidWorkerId(text.chars().take(Self::MAX_LENGTH).collect()))
        }
    }

    /// The `number`-th worker of the coordinator's `epoch`-th start.
    pub fn numbered(epoch: u32, number: u64) -> Self {
        Self(format!("w{epoch}-{number}"))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WorkerId({})", self.0)
    }
}

// === impl LeaseId ===

impl LeaseId {
    const COUNTER_BITS: u32 = 40;

    /// The `number`-th lease of the coordinator's `epoch`-th start.
    pub fn numbered(epoch: u32, number: u64) -> Self {
        Self(u64::from(epoch) << Self::COUNTER_BITS | number & ((1 << Self::COUNTER_BITS) - 1))
    }

    /// The start of the coordinator that gave this lease.
    pub fn epoch(self) -> u32 {
        (self.0 >> Self::COUNTER_BITS) as u32
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
