//! What is stored of a job, where it differs from the domain's own types.

use crate::search::{GenerationSummary, Score};
use ropewalk_shared::candidate::Candidate;
use ropewalk_shared::event::{Event, JobEvent};
use ropewalk_shared::job::JobId;
use ropewalk_shared::plan::StageAtWork;
use ropewalk_shared::status::{JobState, JobStatus};
use serde::{Deserialize, Serialize};

/// Where a job stands, beside its specification and its search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobRecord {
    /// What is being evaluated.
    pub stage: Stage,
    /// Whether units are held back.
    pub paused: bool,
    /// Why nothing more happens, if so.
    pub ended: Option<Ended>,
    /// When it was launched, in milliseconds since 1970.
    pub created_ms: u64,
    /// When it ended.
    pub finished_ms: Option<u64>,
    /// How long it has been running, pauses and stops of the coordinator left out.
    pub active_ms: u64,
    /// Number of its last event.
    pub last_sequence: u64,
    /// How it stood when it ended, so that ended jobs need not be brought to life to be listed.
    pub final_status: Option<JobStatus>,
    /// Of a training, how far it is; absent for searches. A training has no stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<TrainingRecord>,
    /// Of a plan, how far it is; absent for all others. A plan has no stage of this kind either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanRecord>,
}

/// How far a plan is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanRecord {
    /// Names of the stages that are done, each of which is an event.
    pub done: Vec<String>,
    /// The stage at work.
    pub stage: Option<StageAtWork>,
    /// The search or training that it waits for.
    pub job: Option<JobId>,
    /// How often it was begun to carry the plan out.
    pub attempts: u32,
    /// How often that failed since the last stage was done.
    pub fruitless: u32,
}

/// How far a training is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainingRecord {
    /// Steps that are done, each of which is an event.
    pub steps_done: u32,
    /// Loss of the last one, in nats a token.
    pub loss: Option<f64>,
    /// The step after which the last checkpoint was taken; 0 before the first.
    pub checkpoint: u32,
    /// How often it was leased.
    pub attempts: u32,
    /// How often it failed since the last step.
    pub fruitless: u32,
    /// How many workers fell silent over it since the last step.
    pub silent: u32,
    /// Who trains, or trained last and may come back.
    pub holder: Option<Holder>,
}

/// Who trains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The lease.
    pub lease: u64,
    /// The worker's name.
    pub worker: String,
}

/// What is being evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Generations, until the strategy or the time budget ends them.
    Search,
    /// The winner and the baselines.
    Report,
}

/// Why nothing more happens to a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ended {
    /// The report is complete.
    Done,
    /// Ended by its owner.
    Cancelled,
    /// For this reason.
    Failed(String),
}

/// One generation: what was asked and, once it is closed, what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationRecord {
    /// In the order in which they were asked.
    pub candidates: Vec<Candidate>,
    /// Absent while it is open.
    pub closed: Option<ClosedGeneration>,
}

/// What came of a generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClosedGeneration {
    /// In the order of the candidates.
    pub scores: Vec<Score>,
    /// Counts and ranks.
    pub summary: GenerationSummary,
}

// === impl TrainingRecord ===

impl TrainingRecord {
    /// Notes that who held this lease knows that it is over; whether it was the last to hold one.
    pub fn let_go(&mut self, lease: u64) -> bool {
        self.holder.take_if(|holder| holder.lease == lease).is_some()
    }
}

// === impl JobRecord ===

impl JobRecord {
    /// The next event of the job.
    pub fn next_event(&mut self, time_ms: u64, what: JobEvent) -> Event {
        self.last_sequence += 1;
        Event { sequence: self.last_sequence, time_ms, what }
    }

    /// How the job stands, where it is over.
    pub fn ended_state(&self) -> Option<JobState> {
        self.ended.as_ref().map(|ended| match ended {
            Ended::Done => JobState::Done,
            Ended::Cancelled => JobState::Cancelled,
            Ended::Failed(_) => JobState::Failed,
        })
    }

    /// Whether the job is a training, and no search.
    pub fn is_training(&self) -> bool {
        self.training.is_some()
    }

    /// Whether the job is a plan.
    pub fn is_plan(&self) -> bool {
        self.plan.is_some()
    }

    /// The record of a job that begins.
    pub fn new(created_ms: u64) -> Self {
        Self {
            stage: Stage::Search,
            paused: false,
            ended: None,
            created_ms,
            finished_ms: None,
            active_ms: 0,
            last_sequence: 0,
            final_status: None,
            training: None,
            plan: None,
        }
    }
}
