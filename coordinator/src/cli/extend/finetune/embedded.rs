//! Training in this process.

use super::super::folder::write;
use super::super::runner::{Runner, StageModel};
use crate::cli::failure::{Failure, OrFail as _};
use crate::cli::finetune::options::{FINAL_SHARE, WARM_UP};
use crate::cli::finetune::progress::TrainingProgress;
use crate::cli::finetune::{csv, data, failure, points};
use crate::cli::prepare::ModelFolder;
use crate::cli::stop::stop_signal;
use crate::plan::FinetuneStage;
use crate::report::loss_plot;
use ropewalk_shared::rope::Rescale;
use ropewalk_shared::training::TrainSpec;
use ropewalk_worker::train::{self, StepRecord, TrainEvent};
use serde_json::{Map, Value, json};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The training that a plan's settings describe, with these factors.
pub(super) fn spec(settings: &Map<String, Value>, rescale: Rescale) -> Result<TrainSpec, serde_json::Error> {
    let mut settings = settings.clone();
    settings.insert("rescale".to_owned(), serde_json::to_value(rescale)?);
    // As the command line has it: a name alone, and fewer steps than a warm-up usually takes.
    if settings.get("schedule").is_some_and(|schedule| schedule == "cosine") {
        settings.insert("schedule".to_owned(), json!({ "cosine": { "final_share": FINAL_SHARE } }));
    }
    if let Some(steps) = settings.get("steps").and_then(Value::as_u64).filter(|steps| *steps < u64::from(WARM_UP)) {
        settings.entry("warmup_steps").or_insert_with(|| (steps / 10).into());
    }
    serde_json::from_value(Value::Object(settings))
}

/// Everything that is wrong with the settings, as far as it can be told before the factors are found.
pub fn check(settings: &Map<String, Value>, base: &ModelFolder, problem: &mut impl FnMut(&str, String)) {
    if settings.contains_key("rescale") {
        return problem("training.rescale", "is no setting: the stage's factors are what is trained with".to_owned());
    }
    match spec(settings, Rescale::identity(base.description.geometry.pairs())) {
        Err(error) => problem("training", error.to_string()),
        Ok(spec) => {
            if let Err(invalid) = spec.check(&base.description) {
                let problems = invalid.problems.into_iter();
                problems.for_each(|found| problem(&format!("training.{}", found.field), found.reason));
            }
        }
    }
}

/// The training that is expected, without its factors; `None` for settings that are not in order.
pub fn expected(settings: &Map<String, Value>, base: &ModelFolder) -> Option<TrainSpec> {
    spec(settings, Rescale::identity(base.description.geometry.pairs())).ok()
}

impl Runner<'_> {
    /// Trains on this machine, going on from the checkpoints of an earlier run, and returns the steps.
    pub(super) fn train(
        &self,
        model: &StageModel,
        (tune, settings): (&FinetuneStage, &Map<String, Value>),
        folder: &Path,
        place: &Path,
    ) -> Result<Vec<StepRecord>, Failure> {
        let spec = self.training(tune, settings)?;
        spec.check(&model.folder.description).or_input()?;
        let stop = Arc::new(AtomicBool::new(false));
        let raised = stop.clone();
        let stopping = tokio::spawn(async move {
            stop_signal().await;
            raised.store(true, Ordering::Relaxed);
        });
        // The training has threads of its own; the runtime only has to wait for it.
        let trained = tokio::task::block_in_place(|| {
            let sequences = data::sequences(&model.folder, &self.inputs.data, &spec)?;
            let mut progress = TrainingProgress::new(spec.steps, self.args.of_jobs().json);
            let mut told = Ok(());
            let mut tell = |event: TrainEvent| {
                if told.is_ok() {
                    told = progress.update(&event);
                }
                let go_on = told.is_ok() && !stop.load(Ordering::Relaxed);
                if go_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            };
            let work = folder.join("checkpoints");
            let trained = train::run(&model.folder.path, &spec, &sequences, &work, place, &mut tell);
            progress.finish();
            told?;
            trained.map_err(failure)
        });
        stopping.abort();
        Ok(trained?.curve)
    }

    /// The training of a stage. Where positions skip, the model sees distances of their reach, and the factors are rescaled to
    /// that window as the start of a second search is.
    pub(super) fn training(&self, tune: &FinetuneStage, settings: &Map<String, Value>) -> Result<TrainSpec, Failure> {
        let mut spec = spec(settings, self.factors(&tune.factors)?.rescale()).or_input()?;
        if spec.reach() > spec.length {
            spec.rescale = self.stretched(&tune.factors, spec.reach())?;
        }
        Ok(spec)
    }

    /// Writes the losses of a training as a table and a plot, and says how it went in a few words.
    pub(super) fn show_curve(&self, curve: &[StepRecord], folder: &Path) -> Result<String, Failure> {
        write(&folder.join("loss.csv"), &csv(curve))?;
        let title = format!("Fine-tuning of {}", self.inputs.folder.name);
        write(&folder.join("loss.svg"), &loss_plot(&title, &points(curve)).or_work()?)?;
        let losses = curve.first().zip(curve.last());
        let losses = losses.map(|(first, last)| format!(", loss {:.3} to {:.3}", first.loss, last.loss));
        Ok(format!("in {} steps{}", curve.len(), losses.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ropewalk_shared::training::Schedule;

    #[test]
    fn a_plan_may_leave_out_what_the_command_line_may() {
        let of = |settings: Value| spec(settings.as_object().unwrap(), Rescale::identity(4)).unwrap();
        let short = of(json!({"steps": 12, "length": 64, "schedule": "cosine"}));
        assert_eq!((short.warmup_steps, short.schedule), (1, Schedule::Cosine { final_share: 0.1 }));
        assert_eq!(of(json!({"steps": 12, "length": 64, "warmup_steps": 5})).warmup_steps, 5);
        let long = of(json!({"steps": 30, "length": 64, "schedule": {"cosine": {"final_share": 0.5}}}));
        assert_eq!((long.warmup_steps, long.schedule), (20, Schedule::Cosine { final_share: 0.5 }));
    }
}
