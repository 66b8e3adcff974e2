//! What a job's record alone tells: all that is known of one that cannot be read, and what jobs that are no search share.

use crate::store::{Ended, JobRecord};
use ropewalk_shared::event::JobEvent;
use ropewalk_shared::job::JobId;
use ropewalk_shared::status::{JobState, JobStatus};

/// What is told of the end of a job that has no factors.
pub(super) fn end_event(ended: &Ended) -> JobEvent {
    match ended {
        Ended::Done => JobEvent::Done { perplexity: None, held_out: None },
        Ended::Cancelled => JobEvent::Cancelled,
        Ended::Failed(reason) => JobEvent::Failed { reason: reason.clone() },
    }
}

/// How a job stands that has no stages of a search.
pub(super) fn state_without_search(record: &JobRecord) -> JobState {
    let going_on = if record.paused { JobState::Paused } else { JobState::Running };
    record.ended_state().unwrap_or(going_on)
}

/// The status of a job of which only the record could be read.
pub(super) fn unreadable(id: &JobId, record: &JobRecord, reason: String) -> JobStatus {
    JobStatus { reason: Some(reason), ..status_without_search(id, record, JobState::Failed) }
}

/// A status in which nothing was searched yet, to be filled in.
pub(super) fn status_without_search(id: &JobId, record: &JobRecord, state: JobState) -> JobStatus {
    let name = id.as_str().rsplit_once('-').map_or(id.as_str(), |(name, _)| name);
    JobStatus {
        job_id: id.clone(),
        name: name.to_owned(),
        model_name: String::new(),
        state,
        reason: None,
        generation: 0,
        generations: 0,
        evaluations: 0,
        planned_evaluations: 0,
        passes: 0,
        stage_done: 0,
        stage_units: 0,
        leased: 0,
        objective: Default::default(),
        best_perplexity: None,
        best: None,
        original_length: 0,
        target_length: 0,
        created_ms: record.created_ms,
        finished_ms: record.finished_ms,
        training: None,
        plan: None,
    }
}
