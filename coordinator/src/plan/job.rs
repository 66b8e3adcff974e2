//! The search of a stage as a job of the coordinator.

use super::Plan;
use super::stage::Stage;
use ropewalk_shared::job::{JobSpec, ModelIdentity, SearchOptions};
use ropewalk_shared::rope::Rescale;
use ropewalk_shared::sample::SampleId;

/// Sets of factors that the final report of a job measures besides the winner: none, three methods, each with two attention
/// factors, and the winner without starting tokens.
const REPORTED: u64 = 8;

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

/// How many sets of factors the final report of a job measures at most, the winner included.
pub fn reported_sets() -> u64 {
    REPORTED + 1
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
