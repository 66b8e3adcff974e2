//! Writes that belong together.

use super::keys;
use super::records::{GenerationRecord, JobRecord};
use super::value::{self, Head, PART_BYTES};
use crate::search::StrategyState;
use ropewalk_shared::event::Event;
use ropewalk_shared::job::{JobId, JobSpec};
use ropewalk_shared::outcome::{Loss, LossSlope};
use ropewalk_shared::plan::PlanJob;
use ropewalk_shared::rope::RescaleId;
use ropewalk_shared::sample::SampleId;
use ropewalk_shared::training::TrainingJob;
use serde::Serialize;

/// Writes that are found again together or not at all.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    writes: sled::Batch,
    count: usize,
}

// === impl Batch ===

impl Batch {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// A job's specification.
    pub fn spec(&mut self, job: &JobId, spec: &JobSpec) {
        self.record(&keys::spec(job), spec);
    }

    /// A training's specification.
    pub fn training(&mut self, job: &JobId, training: &TrainingJob) {
        self.record(&keys::training(job), training);
    }

    /// A plan's specification.
    pub fn plan(&mut self, job: &JobId, plan: &PlanJob) {
        self.record(&keys::plan(job), plan);
    }

    /// Where a job stands.
    pub fn job(&mut self, job: &JobId, record: &JobRecord) {
        self.record(&keys::job_record(job), record);
    }

    /// The result of one unit.
    pub fn result(&mut self, job: &JobId, rescale: RescaleId, sample: SampleId, loss: Loss) {
        self.insert(keys::result(job, rescale, sample), value::encode_loss(loss).to_vec());
    }

    /// The slope of one unit, beside its result.
    pub fn slope(&mut self, job: &JobId, rescale: RescaleId, sample: SampleId, slope: &LossSlope) {
        self.value(&keys::slope(job, rescale, sample), &value::encode_slope(slope));
    }

    /// A candidate that could not be evaluated.
    pub fn candidate_failure(&mut self, job: &JobId, rescale: RescaleId, reason: &str) {
        self.record(&keys::candidate_failure(job, rescale), &reason);
    }

    /// Forgets that a candidate could not be evaluated.
    pub fn forget_candidate_failure(&mut self, job: &JobId, rescale: RescaleId) {
        self.writes.remove(keys::candidate_failure(job, rescale));
        self.count += 1;
    }

    /// A generation, open or closed.
    pub fn generation(&mut self, job: &JobId, number: u32, generation: &GenerationRecord) {
        self.record(&keys::generation(job, number), generation);
    }

    /// The state of a search.
    pub fn strategy(&mut self, job: &JobId, state: &StrategyState) {
        self.record(&keys::strategy(job), state);
    }

    /// An event under its sequence number.
    pub fn event(&mut self, job: &JobId, event: &Event) {
        self.record(&keys::event(job, event.sequence), event);
    }

    /// The factor file of a finished job.
    pub fn factors(&mut self, job: &JobId, text: &str) {
        self.record(&keys::factors(job), &text);
    }

    #[cfg(test)]
    pub(super) fn strategy_text(&mut self, job: &JobId, text: &str) {
        self.record(&keys::strategy(job), &text);
    }

    pub(super) fn record(&mut self, key: &[u8], record: &impl Serialize) {
        self.value(key, &value::encode(record));
    }

    /// A value of any length, cut where it has to be. Parts of an earlier, longer value stay behind unread: they are
    /// few, and written over when the value grows again.
    pub(super) fn value(&mut self, key: &[u8], bytes: &[u8]) {
        if bytes.len() <= PART_BYTES {
            return self.insert(key.to_vec(), Head::Whole(bytes).to_bytes());
        }
        for (index, part) in bytes.chunks(PART_BYTES).enumerate() {
            self.insert(keys::part(key, index as u32), part.to_vec());
        }
        self.insert(key.to_vec(), Head::Cut { length: bytes.len(), counted_from: 1 }.to_bytes());
    }

    pub(super) fn insert(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.writes.insert(key, value);
        self.count += 1;
    }

    pub(super) fn into_sled(self) -> sled::Batch {
        self.writes
    }
}
