//! Whether a plan fits the model that it is run with.

use super::stage::{Stage, Work};
use super::{Plan, Problem, job};
use crate::documents::PER_DOCUMENT;
use ropewalk_shared::job::{MAX_SAMPLES, ModelIdentity, SearchOptions};
use ropewalk_shared::model_description::ModelDescription;
use ropewalk_shared::rope::Rescale;

/// Fields of a job that a plan does not state, so that what is wrong with them is said elsewhere.
const ELSEWHERE: [&str; 3] = ["samples", "model", "init"];

impl Plan {
    /// Everything that is wrong with running this plan on the model.
    pub fn problems_with(&self, model: &ModelIdentity, description: &ModelDescription) -> Vec<Problem> {
        let mut problems = Vec::new();
        let original = description.original_length;
        if let Some(expected) = self.original_length.filter(|&expected| expected != original) {
            let reason = format!("the plan is for a window of {expected} tokens, and {} has {original}", model.name);
            problems.push(Problem::of_plan("original_length", reason));
        }
        for stage in &self.stages {
            for (length, _, options) in stage.work.searches() {
                self.check_job(stage, (model, description), (length, options.clone()), &mut problems);
            }
        }
        problems.dedup();
        problems
    }

    fn check_job(
        &self,
        stage: &Stage,
        (model, description): (&ModelIdentity, &ModelDescription),
        (length, mut options): (u32, SearchOptions),
        problems: &mut Vec<Problem>,
    ) {
        // As many as the stage has, and something to start from where it has that, as far as any budget depends on it.
        let documents = stage.work.searches().first().map_or(1, |(_, samples, _)| *samples).clamp(1, MAX_SAMPLES);
        let judged = options.objective.judged(documents as u64, PER_DOCUMENT.into()) as usize;
        let samples = job::stand_ins(&mut options, judged);
        let starts = match &stage.work {
            Work::Search(search) => search.start.is_some(),
            _ => options.strategy.takes_init(),
        };
        let start = starts.then(|| Rescale::identity(description.geometry.pairs()));
        let start = start.into_iter().collect();
        let job = job((self, stage), model.clone(), (length, &options), start, (samples, Vec::new()));
        let Err(invalid) = job.check_new() else { return };
        let of_plan = invalid.problems.into_iter().filter(|problem| !ELSEWHERE.contains(&problem.field));
        problems.extend(of_plan.map(|problem| {
            let field = match (problem.field, &stage.work) {
                ("target_length", Work::Recover(_)) => "lengths",
                ("target_length", _) => "length",
                (field, _) => field,
            };
            Problem::of_stage(&stage.name, field, problem.reason)
        }));
    }
}
