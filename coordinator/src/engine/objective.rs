//! What a job minimises, on the samples that it has.

use super::error::EngineError;
use super::job::ActiveJob;
use super::stage::Slot;
use ropewalk_shared::factor_file::Measured;
use ropewalk_shared::job::{InvalidJob, JobSpec, Problem, SearchObjective};
use ropewalk_shared::outcome::Loss;
use ropewalk_shared::sample::{SampleId, SampleShape};
use std::collections::HashMap;

/// Refuses an objective that has nothing to judge by, on the samples of the search or on those held out.
pub(super) fn check(spec: &JobSpec, shapes: &HashMap<SampleId, SampleShape>) -> Result<(), EngineError> {
    let mut problems = Vec::new();
    for (samples, which) in [(&spec.samples, "samples of the search"), (&spec.held_out, "held-out samples")] {
        let shapes: Vec<SampleShape> = samples.iter().filter_map(|sample| shapes.get(sample).copied()).collect();
        // A job may do without held-out samples.
        if let Err(error) = spec.search.objective.weights(&shapes)
            && !shapes.is_empty()
        {
            problems.push(Problem { field: "objective", reason: format!("{which}: {error}") });
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(InvalidJob { problems }.into()) }
}

/// A candidate of the report under the job's objective, and as text where that is something else.
pub(super) fn measured(job: &ActiveJob, slot: Option<&Slot>, attention_factor: f64) -> Measured {
    let (objective, spec) = (job.spec.search.objective, &job.spec);
    let losses = slot.map_or(&[][..], Slot::losses);
    let (judged, held_out) = losses.split_at(spec.judged_samples().count().min(losses.len()));
    // After these come those of the short windows.
    let held_out = &held_out[..spec.held_out.len().min(held_out.len())];
    let search = &judged[..spec.samples.len().min(judged.len())];
    let held_out_shapes = job.shapes(&spec.held_out);
    // There is no finite number when a sample failed or when there are no held-out samples.
    let finite = |value: f64| Some(value).filter(|value| value.is_finite());
    let text = || {
        let documents = held_out.iter().zip(&held_out_shapes).filter(|(_, shape)| shape.is_whole());
        let (losses, shapes): (Vec<Option<Loss>>, Vec<SampleShape>) = documents.unzip();
        finite(score(SearchObjective::Perplexity, &losses, &shapes))
    };
    Measured {
        value: score(objective, search, &job.shapes(&spec.samples)),
        held_out: finite(score(objective, held_out, &held_out_shapes)),
        attention_factor,
        held_out_text: if objective.asks() { text() } else { None },
    }
}

/// NaN where a loss is missing, or there is none.
fn score(objective: SearchObjective, losses: &[Option<Loss>], shapes: &[SampleShape]) -> f64 {
    let losses: Option<Vec<Loss>> = losses.iter().copied().collect();
    losses.map_or(f64::NAN, |losses| objective.score(&losses, shapes))
}
