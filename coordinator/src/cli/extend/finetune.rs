//! The fine-tuning stage: trained here, by another program, or before.

mod embedded;
mod leased;

pub(super) use embedded::{check, expected};

use super::command::Told;
use super::folder::Made;
use super::inputs::same_architecture;
use super::runner::{Runner, StageModel};
use crate::cli::failure::{Failure, OrFail as _, Outcome};
use crate::plan::{FinetuneStage, Stage, Training};
use anyhow::Context as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Files of a tokenizer, which training programs may leave out.
const TOKENIZER: [&str; 4] = ["special_tokens_map.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json"];

impl Runner<'_> {
    /// Makes a model that was trained with the factors. The checkpoint decides: it must be of the same architecture.
    pub(super) async fn finetune(&self, stage: &Stage, tune: &FinetuneStage, folder: &Path) -> Result<Made, Failure> {
        let model = self.model_of(stage)?;
        let place = self.out.model(&self.inputs.folder.name, &stage.name);
        let said = match &tune.training {
            Training::Embedded { settings } => {
                let curve = match self.args.coordinator.as_deref().filter(|_| !self.args.train_here) {
                    Some(url) => self.train_elsewhere(url, stage, &model, (tune, settings), &place).await?,
                    None => self.train(&model, (tune, settings), folder, &place)?,
                };
                self.show_curve(&curve, folder)?
            }
            Training::Command { command, steps, length } => {
                let told = Told {
                    command,
                    model: &model.folder.path,
                    factors: &self.factors_path(&tune.factors)?,
                    data: &self.absolute_data()?,
                    out: &folder.join("checkpoint"),
                    steps: *steps,
                    length: *length,
                };
                self.ordered(&model, &told, (folder, &place)).await?;
                format!("by {}", command.first().map_or("", String::as_str))
            }
            Training::Checkpoint { path } => {
                let (checkpoint, fingerprint) = same_architecture(path, &self.inputs.folder)?;
                let summary = format!("{}, trained before", checkpoint.path.display());
                return Ok(Made {
                    model: Some(checkpoint.path),
                    fingerprint: Some(fingerprint),
                    summary,
                    ..Made::default()
                });
            }
        };
        let (_, fingerprint) = same_architecture(&place, &self.inputs.folder)?;
        let summary = format!("{} trained {said}", place.display());
        Ok(Made { model: Some(self.below(&place)), fingerprint: Some(fingerprint), summary, ..Made::default() })
    }

    /// Has another program train, and puts its checkpoint in place.
    async fn ordered(&self, model: &StageModel, told: &Told<'_>, (folder, place): (&Path, &Path)) -> Outcome {
        // A run that was killed after the checkpoint had its place has nothing left to do.
        if place.exists() {
            return Ok(());
        }
        told.run(&folder.join("command.log")).await?;
        for name in TOKENIZER {
            let (from, to) = (model.folder.path.join(name), told.out.join(name));
            if from.is_file() && !to.exists() {
                fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display())).or_work()?;
            }
        }
        let checked = same_architecture(told.out, &self.inputs.folder);
        // The request was right; what the program made is not.
        checked.map_err(|failure| Failure::work_message(format!("the command ended well, but: {failure}")))?;
        let moved = fs::rename(told.out, place);
        moved.with_context(|| format!("cannot move the checkpoint to {}", place.display())).or_work()
    }

    /// The documents to train on, for a program that may run elsewhere.
    fn absolute_data(&self) -> Result<Vec<PathBuf>, Failure> {
        let absolute = |path: &PathBuf| path.canonicalize().with_context(|| path.display().to_string());
        self.args.data.iter().map(|path| absolute(path).or_input()).collect()
    }
}
