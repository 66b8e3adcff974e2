//! A training as a job of the coordinator, carried out by a worker that shares a folder with whoever launched it.
//!
//! Weights, optimiser and sequences are too large to be sent about, so they never are: they lie in one folder which all
//! workers of the training see.
//!
//! ```text
//! FOLDER/stages/STAGE/sequences.bin    what is trained on, written by whoever launches
//! FOLDER/stages/STAGE/checkpoints      written by the worker, and gone on from by the next one
//! FOLDER/models/OUTPUT                 what comes out
//! ```

use super::{InvalidTraining, TrainSpec};
use crate::job::{JobId, ModelIdentity, Problem};
use crate::model_description::ModelDescription;
use crate::plain_name::{self, MOST_OF_FOLDER, MOST_OF_JOB};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Everything that determines a training. Two equal specifications are the same job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainingJob {
    /// A short name for people: letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// The model that is trained, found below a worker's model root.
    pub model: ModelIdentity,
    /// How it is trained, and under which factors.
    pub settings: TrainSpec,
    /// Digest of the file of sequences.
    pub sequences: SequencesId,
    /// Where everything lies.
    pub place: TrainingPlace,
    /// Counts how often what came out was put out of the way, to be made again.
    #[serde(default)]
    pub repetition: u32,
}

/// Folders of a training, by names that cannot lead out of the folder which workers share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainingPlace {
    /// The plan's folder below a worker's train root, or the train root itself.
    pub folder: String,
    /// Below its `stages`: sequences and checkpoints.
    pub stage: String,
    /// Below its `models`: what comes out.
    pub output: String,
}

/// Digest of a file of sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequencesId(pub [u8; 32]);

// === impl TrainingJob ===

impl TrainingJob {
    /// The id of the job.
    pub fn id(&self) -> JobId {
        JobId::derived("ropewalk training job v1", &self.name, self)
    }

    /// Checks all of it and returns the model's description, which was read on the way.
    ///
    /// # Errors
    /// [`InvalidTraining`] with every problem found.
    pub fn check(&self) -> Result<ModelDescription, InvalidTraining> {
        let mut problems = Vec::new();
        let names = [
            ("name", &self.name, MOST_OF_JOB),
            ("model", &self.model.name, MOST_OF_FOLDER),
            ("folder", &self.place.folder, MOST_OF_FOLDER),
            ("stage", &self.place.stage, MOST_OF_FOLDER),
            ("output", &self.place.output, MOST_OF_FOLDER),
        ];
        for (field, name, most) in names {
            if let Err(wrong) = plain_name::check(name, most) {
                problems.push(Problem { field, reason: wrong.to_string() });
            }
        }
        match ModelDescription::from_config_json(&self.model.config_json) {
            Ok(description) => {
                problems.extend(self.settings.check(&description).err().into_iter().flat_map(|found| found.problems));
                if problems.is_empty() {
                    return Ok(description);
                }
            }
            Err(error) => problems.push(Problem { field: "model", reason: error.to_string() }),
        }
        Err(InvalidTraining { problems })
    }
}

// === impl TrainingPlace ===

impl TrainingPlace {
    /// Whether a plan's folder can be called so where workers train for it.
    pub fn can_be_named(folder: &str) -> bool {
        plain_name::check(folder, MOST_OF_FOLDER).is_ok()
    }

    /// The file of sequences, in the plan's folder.
    pub fn sequences(&self, folder: &Path) -> PathBuf {
        self.stage(folder).join("sequences.bin")
    }

    /// Where checkpoints go, in the plan's folder.
    pub fn checkpoints(&self, folder: &Path) -> PathBuf {
        self.stage(folder).join("checkpoints")
    }

    /// Where the trained model goes, in the plan's folder.
    pub fn output(&self, folder: &Path) -> PathBuf {
        folder.join("models").join(&self.output)
    }

    fn stage(&self, folder: &Path) -> PathBuf {
        folder.join("stages").join(&self.stage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fingerprint::Fingerprint;
    use crate::rope::Rescale;

    const CONFIG: &str = r#"{"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 1,
        "intermediate_size": 64, "vocab_size": 32, "rope_theta": 10000.0, "max_position_embeddings": 32}"#;

    fn job() -> TrainingJob {
        TrainingJob {
            name: "plan-tune".into(),
            model: ModelIdentity {
                name: "base".into(),
                fingerprint: Fingerprint::from([1; 32]),
                config_json: CONFIG.into(),
            },
            settings: TrainSpec::new(30, 64, Rescale::identity(8)),
            sequences: SequencesId([2; 32]),
            place: TrainingPlace { folder: "plan".into(), stage: "tune".into(), output: "base-tune".into() },
            repetition: 0,
        }
    }

    #[test]
    fn names_cannot_lead_out_of_the_folder_and_all_problems_are_told() {
        assert!(job().check().is_ok());
        let mut bad = job();
        bad.place = TrainingPlace { folder: "..".into(), stage: "a/b".into(), output: String::new() };
        bad.settings.steps = 0;
        let problems = bad.check().unwrap_err().problems;
        let fields: Vec<&str> = problems.iter().map(|problem| problem.field).collect();
        assert_eq!(fields, ["folder", "stage", "output", "steps", "warmup_steps"]);
    }

    #[test]
    fn every_part_is_part_of_the_identity() {
        let mut other = job();
        other.sequences = SequencesId([3; 32]);
        assert_ne!(other.id(), job().id());
        other = TrainingJob { repetition: 1, ..job() };
        assert_ne!(other.id(), job().id());
        assert_eq!(job().id(), job().id());
        assert!(job().id().as_str().starts_with("plan-tune-"));
    }
}
