//! Where a training finds what it needs: the folder it shares with whoever launched it, its sequences, its model.

use super::failure::failure;
use crate::work_loop::registry::{ModelName, Registry};
use ropewalk_shared::training::{
    InvalidSequences, TrainSequence, TrainingFailure, TrainingFailureKind, TrainingJob, TrainingPlace, read_sequences,
};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Finds models and sequences of trainings.
#[derive(Debug)]
pub(super) struct Finder {
    train_root: PathBuf,
    models: Registry,
    /// Models that plans made, by the folder they lie in.
    made: HashMap<PathBuf, Registry>,
}

/// All that a training reads, and where it writes.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) model: PathBuf,
    pub(super) sequences: Vec<TrainSequence>,
    pub(super) checkpoints: PathBuf,
    pub(super) output: PathBuf,
}

// === impl Finder ===

impl Finder {
    /// Plans' folders lie in `train_root`, or it is one; models that no plan made lie below `model_root`.
    pub(super) fn new(train_root: PathBuf, model_root: PathBuf) -> Self {
        Self { train_root, models: Registry::new(model_root), made: HashMap::new() }
    }

    /// What a job names, which was checked.
    ///
    /// # Errors
    /// [`TrainingFailureKind::NotHere`], with where it was looked for.
    pub(super) fn find(&mut self, job: &TrainingJob) -> Result<Found, TrainingFailure> {
        let folder = self.folder(&job.place)?;
        let sequences = sequences(job, &folder)?;
        let model = self.model(job, &folder)?;
        let (checkpoints, output) = (job.place.checkpoints(&folder), job.place.output(&folder));
        Ok(Found { model, sequences, checkpoints, output })
    }

    /// The plan's folder: the one that has the sequences.
    fn folder(&self, place: &TrainingPlace) -> Result<PathBuf, TrainingFailure> {
        let candidates = [self.train_root.join(&place.folder), self.train_root.clone()];
        candidates.iter().find(|folder| place.sequences(folder).is_file()).cloned().ok_or_else(|| {
            let [named, root] = candidates.each_ref().map(|folder| place.sequences(folder));
            not_here(format!(
                "the training's sequences are not on this worker: neither {} nor {} is there; start the worker with \
                 --train-root where the plan's folder lies, on a disk that it shares with whoever launched the training",
                named.display(),
                root.display()
            ))
        })
    }

    /// The model's folder: below the model root, or among the models that the plan made.
    fn model(&mut self, job: &TrainingJob, folder: &Path) -> Result<PathBuf, TrainingFailure> {
        let wanted = ModelName { name: job.model.name.clone(), fingerprint: job.model.fingerprint };
        let made = folder.join("models");
        let of_plan = self.made.entry(made.clone()).or_insert_with(|| Registry::new(made.clone()));
        // Where there is none of that name a search means reading all models there are.
        let order = match made.join(&wanted.name).is_dir() {
            true => [of_plan, &mut self.models],
            false => [&mut self.models, of_plan],
        };
        let mut reasons = Vec::new();
        for registry in order {
            match registry.find(&wanted) {
                Ok(model) => return Ok(model),
                Err(missing) => reasons.push(missing.reason),
            }
        }
        Err(not_here(reasons.join("; ")))
    }
}

fn sequences(job: &TrainingJob, folder: &Path) -> Result<Vec<TrainSequence>, TrainingFailure> {
    let path = job.place.sequences(folder);
    let unusable = |reason: String| not_here(format!("{}: {reason}", path.display()));
    let bytes = std::fs::read(&path).map_err(|error| unusable(format!("cannot be read: {error}")))?;
    read_sequences(&bytes, job.sequences).map_err(|error| match error {
        InvalidSequences::Damaged(_) => failure(TrainingFailureKind::Invalid, format!("{}: {error}", path.display())),
        InvalidSequences::Magic | InvalidSequences::Other => unusable(error.to_string()),
    })
}

fn not_here(reason: String) -> TrainingFailure {
    failure(TrainingFailureKind::NotHere, reason)
}
