//! The search of a stage as a job of the coordinator.

use super::Plan;
use super::stage::Stage;
use ropewalk_shared::job::{JobSpec, ModelIdentity, SearchOptions};
use ropewalk_shared::rope::Rescale;
use ropewalk_shared::sample::SampleId;

/// A search at `length` tokens as a job: the same stage, model, start and documents are the same job.
pub fn job(
    (plan, stage): (&Plan, &Stage),
    model: ModelIdentity,
    (length, options): (u32, &SearchOptions),
    start: Vec<Rescale>,
    (samples, held_out): (Vec<SampleId>, Vec<SampleId>),
) -> JobSpec {
    JobSpec {
        name: format!("{}-{}-{length}", plan.name, stage.name),
        model,
        target_length: length,
        search: SearchOptions { init: start, ..options.clone() },
        samples,
        held_out,
    }
}

/// So many different samples, which stand for documents that are drawn later.
pub fn stand_ins(count: usize) -> Vec<SampleId> {
    let sample = |number: usize| {
        let mut id = [0xff; 32];
        id[..8].copy_from_slice(&(number as u64).to_le_bytes());
        SampleId::from(id)
    };
    (0..count).map(sample).collect()
}
