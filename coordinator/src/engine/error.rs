//! Why the engine says no.

use crate::scheduler::UnknownWorker;
use crate::store::StoreError;
use ropewalk_shared::job::{InvalidJob, JobId};
use ropewalk_shared::plan::InvalidPlanJob;
use ropewalk_shared::sample::SampleId;
use ropewalk_shared::status::JobState;
use ropewalk_shared::training::InvalidTraining;

/// A command that was not carried out; nothing has changed then.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The specification has problems.
    #[error(transparent)]
    InvalidJob(#[from] InvalidJob),
    /// A training has problems.
    #[error(transparent)]
    InvalidTraining(#[from] InvalidTraining),
    /// A plan has problems.
    #[error(transparent)]
    InvalidPlan(#[from] InvalidPlanJob),
    /// Two plans in one folder would set each other's results aside.
    #[error("plan {job} is at work in the folder {folder}: wait for its end, or cancel it first")]
    PlanFolderInUse {
        /// The folder.
        folder: String,
        /// The plan.
        job: JobId,
    },
    /// What a plan found lies in its folder.
    #[error("job {0} is a plan: its factors lie in stages/ of its folder, and its models in models/")]
    FactorsInFolder(JobId),
    /// What was trained is no set of factors.
    #[error(
        "job {0} is a training: its model lies in models/ of the plan's folder, and there are no factors to hand over"
    )]
    NoFactors(JobId),
    /// The job names samples that were not uploaded.
    #[error("{missing} of the job's samples are not stored here, the first is {first}: upload them, then launch again")]
    MissingSamples {
        /// How many.
        missing: usize,
        /// One of them.
        first: SampleId,
    },
    /// A sample cannot show what the job is about.
    #[error("sample {sample} has {tokens} tokens, the job needs at least its target length, {target_length}")]
    ShortSample {
        /// The sample.
        sample: SampleId,
        /// Its length.
        tokens: usize,
        /// The length needed.
        target_length: u32,
    },
    /// More work at a time than can be kept track of.
    #[error(
        "a generation of {candidates} candidates on {samples} samples is {} units, at most {most} are accepted: search with fewer samples or a smaller population",
        candidates.saturating_mul(*samples)
    )]
    TooManyUnits {
        /// The largest generation.
        candidates: u64,
        /// Samples on which each is evaluated, those of short windows included.
        samples: u64,
        /// The limit.
        most: u64,
    },
    /// A search that could not be read back after a restart.
    #[error(
        "the state of this search could grow to {} MiB, at most {} are stored: search with a smaller population, fewer parents, fewer generations or fewer given factors",
        .bytes.div_ceil(1 << 20), .most >> 20
    )]
    TooMuchState {
        /// What it could take, in bytes.
        bytes: u64,
        /// The limit.
        most: u64,
    },
    /// No job has this id.
    #[error("no job begins with {0:?}; `ropewalk jobs` lists them")]
    UnknownJob(String),
    /// Several have.
    #[error("{count} jobs begin with {prefix:?}, {first} and {second} among them: give more of the id")]
    AmbiguousJob {
        /// What was given.
        prefix: String,
        /// How many.
        count: usize,
        /// One of them.
        first: JobId,
        /// Another.
        second: JobId,
    },
    /// The job is past that.
    #[error("job {job} is {state} and cannot be {action}")]
    WrongState {
        /// The job.
        job: JobId,
        /// How it stands.
        state: JobState,
        /// What was wanted.
        action: &'static str,
    },
    /// There is nothing to hand over.
    #[error("job {0} has no candidate with a score yet; `ropewalk watch {0}` shows how far it is")]
    NoResult(JobId),
    /// A worker of another run, or one that was silent for long.
    #[error(transparent)]
    UnknownWorker(#[from] UnknownWorker),
    /// As many as can be kept track of.
    #[error("too many workers are registered: stop some, or wait until silent ones are forgotten")]
    TooManyWorkers,
    /// The store cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The coordinator is ending.
    #[error("the coordinator is stopping: try again when it is back")]
    Stopping,
}
