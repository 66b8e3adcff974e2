//! Statuses and events on the wire.

use super::field::{InvalidField, amount, at_most, invalid, line, value};
use super::job::objective;
use super::{FieldProblem, pb};
use crate::event::Event;
use crate::rope::Rescale;
use crate::status::{JobState, JobStatus, WorkerStatus};

const MAX_LINE: usize = 4096;
const MAX_EVENT_BYTES: u64 = 1 << 20;

// === JobState ===

impl From<JobState> for pb::JobState {
    fn from(state: JobState) -> Self {
        match state {
            JobState::Running => Self::Running,
            JobState::Paused => Self::Paused,
            JobState::Reporting => Self::Reporting,
            JobState::Done => Self::Done,
            JobState::Cancelled => Self::Cancelled,
            JobState::Failed => Self::Failed,
        }
    }
}

impl TryFrom<pb::JobState> for JobState {
    type Error = InvalidField;
    fn try_from(state: pb::JobState) -> Result<Self, InvalidField> {
        match state {
            pb::JobState::Running => Ok(Self::Running),
            pb::JobState::Paused => Ok(Self::Paused),
            pb::JobState::Reporting => Ok(Self::Reporting),
            pb::JobState::Done => Ok(Self::Done),
            pb::JobState::Cancelled => Ok(Self::Cancelled),
            pb::JobState::Failed => Ok(Self::Failed),
            pb::JobState::Unspecified => Err(invalid("state", FieldProblem::Unknown(state.into()))),
        }
    }
}

// === JobStatus ===

impl From<&JobStatus> for pb::JobStatus {
    fn from(status: &JobStatus) -> Self {
        Self {
            job_id: status.job_id.to_string(),
            name: status.name.clone(),
            state: pb::JobState::from(status.state).into(),
            reason: status.reason.clone().unwrap_or_default(),
            generation: status.generation,
            generations: status.generations,
            evaluations: status.evaluations,
            planned_evaluations: status.planned_evaluations,
            passes: status.passes,
            stage_done: status.stage_done,
            stage_units: status.stage_units,
            leased: status.leased,
            best_perplexity: status.best_perplexity,
            best: status.best.as_ref().map(Into::into),
            original_length: status.original_length,
            target_length: status.target_length,
            created_ms: status.created_ms,
            finished_ms: status.finished_ms.unwrap_or(0),
            model_name: status.model_name.clone(),
            objective: status.objective.to_string(),
            training: status.training.as_ref().map(Into::into),
            plan: status.plan.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<pb::JobStatus> for JobStatus {
    type Error = InvalidField;
    fn try_from(message: pb::JobStatus) -> Result<Self, InvalidField> {
        at_most("reason", message.reason.len() as u64, 64 * MAX_LINE as u64)?;
        Ok(Self {
            state: message.state().try_into()?,
            job_id: message.job_id.parse().map_err(value("job_id"))?,
            name: line("name", message.name, MAX_LINE)?,
            model_name: line("model_name", message.model_name, MAX_LINE)?,
            reason: (!message.reason.is_empty()).then_some(message.reason),
            generation: message.generation,
            generations: message.generations,
            evaluations: message.evaluations,
            planned_evaluations: message.planned_evaluations,
            passes: message.passes,
            stage_done: message.stage_done,
            stage_units: message.stage_units,
            leased: message.leased,
            objective: objective("objective", &message.objective)?,
            best_perplexity: message.best_perplexity,
            best: message.best.map(Rescale::try_from).transpose()?,
            original_length: message.original_length,
            target_length: message.target_length,
            created_ms: message.created_ms,
            finished_ms: (message.finished_ms != 0).then_some(message.finished_ms),
            training: message.training.map(TryInto::try_into).transpose()?,
            plan: message.plan.map(TryInto::try_into).transpose()?,
        })
    }
}

// === WorkerStatus ===

impl From<&WorkerStatus> for pb::WorkerStatus {
    fn from(status: &WorkerStatus) -> Self {
        Self {
            worker_id: status.worker_id.clone(),
            name: status.name.clone(),
            device: status.device.clone(),
            dtype: status.dtype.clone(),
            max_tokens: status.max_tokens,
            version: status.version.clone(),
            connected: status.connected,
            last_seen_ms: status.last_seen_ms,
            leased: status.leased,
            results: status.results,
            failures: status.failures,
            tokens_per_second: status.tokens_per_second,
            stopped_passes: status.stopped_passes,
            training_job: status.training.as_ref().map(ToString::to_string).unwrap_or_default(),
        }
    }
}

impl TryFrom<pb::WorkerStatus> for WorkerStatus {
    type Error = InvalidField;
    fn try_from(message: pb::WorkerStatus) -> Result<Self, InvalidField> {
        Ok(Self {
            worker_id: line("worker_id", message.worker_id, MAX_LINE)?,
            name: line("name", message.name, MAX_LINE)?,
            device: line("device", message.device, MAX_LINE)?,
            dtype: line("dtype", message.dtype, MAX_LINE)?,
            version: line("version", message.version, MAX_LINE)?,
            max_tokens: message.max_tokens,
            connected: message.connected,
            last_seen_ms: message.last_seen_ms,
            leased: message.leased,
            results: message.results,
            failures: message.failures,
            tokens_per_second: amount("tokens_per_second", message.tokens_per_second)?,
            stopped_passes: amount("stopped_passes", message.stopped_passes)?,
            training: match message.training_job.as_str() {
                "" => None,
                job => Some(job.parse().map_err(value("training_job"))?),
            },
        })
    }
}

// === Event ===

impl TryFrom<pb::Event> for Event {
    type Error = InvalidField;
    fn try_from(message: pb::Event) -> Result<Self, InvalidField> {
        at_most("event.json", message.json.len() as u64, MAX_EVENT_BYTES)?;
        let what = serde_json::from_str(&message.json).map_err(value("event.json"))?;
        Ok(Self { sequence: message.sequence, time_ms: message.time_ms, what })
    }
}

impl From<&Event> for pb::Event {
    fn from(event: &Event) -> Self {
        // Events hold text and numbers only, for which JSON cannot fail; an unnamed kind is skipped by every consumer.
        let json = serde_json::to_string(&event.what).unwrap_or_else(|_| r#"{"kind":"unknown"}"#.into());
        Self { sequence: event.sequence, time_ms: event.time_ms, json }
    }
}
