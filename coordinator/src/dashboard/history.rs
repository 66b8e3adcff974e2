//! What became of a job so far, from its events.

use super::error::Unavailable;
use crate::store::Store;
use ropewalk_shared::event::{Event, JobEvent};
use ropewalk_shared::job::JobId;
use ropewalk_shared::training::StepRecord;
use std::collections::VecDeque;

/// Events read of a job, its last ones; more are there only in trainings of as many steps.
const MOST: u64 = 20_000;
/// Events read at a time.
const AT_ONCE: usize = 1000;
/// Events that are told one by one.
const TOLD: usize = 50;

/// A generation that is closed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Generation {
    pub generation: u32,
    pub evaluated: u32,
    pub failed: u32,
    pub dropped: u32,
    /// Best of this generation alone.
    pub own_best: Option<f64>,
    pub median: Option<f64>,
    /// Best so far.
    pub best: Option<f64>,
    pub improved: bool,
    pub total_evaluated: u64,
    pub document_passes: u64,
}

/// What happened to a job.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    pub generations: Vec<Generation>,
    pub steps: Vec<StepRecord>,
    /// Names and summaries of a plan's stages that are done.
    pub stages: Vec<(String, String)>,
    /// The last events, newest first. Steps are told by their curve.
    pub latest: VecDeque<Event>,
}

// === impl History ===

impl History {
    /// Reads the events of a job up to its last one.
    pub fn read(store: &Store, job: &JobId, last: u64) -> Result<Self, Unavailable> {
        let mut history = Self::default();
        let mut next = last.saturating_sub(MOST) + 1;
        while next <= last {
            let events = store.events(job, next, last, AT_ONCE)?;
            next += events.len().max(1) as u64;
            events.into_iter().for_each(|event| history.take(event));
        }
        Ok(history)
    }

    fn take(&mut self, event: Event) {
        match &event.what {
            JobEvent::TrainingStep(step) => return self.steps.push(*step),
            JobEvent::GenerationClosed {
                generation,
                evaluated,
                failed,
                dropped,
                generation_best,
                median,
                best,
                improved,
                total_evaluated,
                document_passes,
            } => self.generations.push(Generation {
                generation: *generation,
                evaluated: *evaluated,
                failed: *failed,
                dropped: *dropped,
                own_best: *generation_best,
                median: *median,
                best: *best,
                improved: *improved,
                total_evaluated: *total_evaluated,
                document_passes: *document_passes,
            }),
            JobEvent::StageDone { stage, summary } => {
                // A stage that was made again is done once.
                self.stages.retain(|(name, _)| name != stage);
                self.stages.push((stage.clone(), summary.clone()));
            }
            _ => {}
        }
        self.latest.push_front(event);
        self.latest.truncate(TOLD);
    }
}
