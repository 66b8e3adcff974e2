//! The search of a stage as a job of the coordinator.

use super::Plan;
use super::stage::Stage;
use ropewalk_shared::job::{JobSpec, MAX_SAMPLES, ModelIdentity, SearchOptions};
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

/// More samples than a job may have are told by this number: there is nothing to learn from more.
const MOST_STAND_INS: usize = MAX_SAMPLES + 1;

/// So many different samples that candidates are judged on, and one for each short window, which stand for documents that
/// are drawn later.
pub fn stand_ins(search: &mut SearchOptions, judged: usize) -> Vec<SampleId> {
    let sample = |number: usize| {
        let mut id = [0xff; 32];
        id[..8].copy_from_slice(&(number as u64).to_le_bytes());
        SampleId::from(id)
    };
    let judged = judged.min(MOST_STAND_INS);
    for (window, number) in search.keep_short.iter_mut().zip(judged..) {
        window.samples = vec![sample(number)];
    }
    (0..judged).map(sample).collect()
}
