//! How jobs and workers stand, as `ropewalk status`, `jobs` and `workers` show it.

use crate::job::{JobId, SearchObjective};
use crate::plan::PlanProgress;
use crate::rope::Rescale;
use crate::training::TrainingProgress;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Being searched, trained or, of a plan, carried out.
    Running,
    /// No new unit is leased until it is resumed.
    Paused,
    /// The search has ended; the winner and the baselines are being measured.
    Reporting,
    /// The report is complete, the model in its place, or every stage done.
    Done,
    /// Ended by its owner; launching it again goes on from where it stood.
    Cancelled,
    /// Ended by an error that stands in [`JobStatus::reason`].
    Failed,
}

/// A job, seen from outside.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobStatus {
    /// Its identity.
    pub job_id: JobId,
    /// The name its owner gave it.
    pub name: String,
    /// The model it is about.
    pub model_name: String,
    /// Where it stands.
    pub state: JobState,
    /// Why it failed, or what it waits for and since when.
    pub reason: Option<String>,
    /// The generation being evaluated; 0 is the first population.
    pub generation: u32,
    /// Generations after the first population, if nothing stops the search early.
    pub generations: u32,
    /// Candidates of the search with a score.
    pub evaluations: u64,
    /// How many there will be if nothing stops the search early.
    pub planned_evaluations: u64,
    /// Units (candidate x sample) with a result, the report's included.
    pub passes: u64,
    /// Units of the current generation or report that are settled.
    pub stage_done: u64,
    /// Units of the current generation or report.
    pub stage_units: u64,
    /// Units leased right now.
    pub leased: u32,
    /// What is minimised; perplexity for jobs from before anything else could be.
    #[serde(default)]
    pub objective: SearchObjective,
    /// Smallest value of it so far, a perplexity of documents, of answers or of both; absent until a candidate was scored.
    pub best_perplexity: Option<f64>,
    /// The factors that reached it.
    pub best: Option<Rescale>,
    /// The model's own window, in tokens.
    pub original_length: u32,
    /// The window to reach, in tokens.
    pub target_length: u32,
    /// When it was launched, in milliseconds since 1970.
    pub created_ms: u64,
    /// When it ended, in milliseconds since 1970; absent while it has not.
    pub finished_ms: Option<u64>,
    /// How the training stands, where the job is one and no search: it has neither generations nor candidates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<TrainingProgress>,
    /// How the plan stands, where the job is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanProgress>,
}

/// A worker, seen from the coordinator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Its identity, until it or the coordinator restarts.
    pub worker_id: String,
    /// The name it gave itself.
    pub name: String,
    /// What it computes on, for example `cpu` or `cuda:0`.
    pub device: String,
    /// The number type it computes in.
    pub dtype: String,
    /// Longest sequence it can hold, in tokens.
    pub max_tokens: u64,
    /// Version of its program.
    pub version: String,
    /// Whether it was heard from within the time that its leases last.
    pub connected: bool,
    /// When it was last heard from, in milliseconds since 1970.
    pub last_seen_ms: u64,
    /// Units it holds right now.
    pub leased: u32,
    /// Results it brought.
    pub results: u64,
    /// Failures it reported.
    pub failures: u64,
    /// Tokens per second over its recent results; 0 before the first.
    pub tokens_per_second: f64,
    /// Document passes that it spent on units which were no longer wanted, in parts of a pass.
    pub stopped_passes: f64,
    /// The training that it is busy with, where it is one of those that train: it evaluates nothing meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<JobId>,
}

// === impl JobState ===

impl JobState {
    /// Whether nothing more happens to the job unless it is launched again.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Cancelled | Self::Failed)
    }

    /// The name in tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Reporting => "reporting",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
