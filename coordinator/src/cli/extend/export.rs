//! The export stage: a folder that engines load.

use super::folder::Made;
use super::runner::Runner;
use crate::cli::failure::{Failure, OrFail as _};
use crate::cli::output::note;
use crate::cli::prepare::ModelFolder;
use crate::export::checkpoint::{Checkpoint, Ingredients, remove_leftovers, same_weights};
use crate::export::{DroppedStartTokens, HfOptions};
use crate::plan::{ExportStage, Stage};
use anyhow::Context as _;
use ropewalk_shared::factor_file::FactorFile;
use ropewalk_shared::fingerprint::Fingerprint;
use ropewalk_worker::fold;
use ropewalk_worker::model::{fingerprint_dir, weights};
use std::path::Path;

/// What an export of factors with a model's folder writes; with a fingerprint, that of the weights for which the factors must be.
pub(super) fn checkpoint(
    (folder, fingerprint): (&ModelFolder, Option<Fingerprint>),
    factors: &FactorFile,
    export: &ExportStage,
) -> Result<Checkpoint, Failure> {
    let weights = weights::files_of(&folder.path).or_work()?;
    let dropped = if export.drop_start_tokens { DroppedStartTokens::of(factors) } else { None };
    let options = HfOptions { dropped, ..HfOptions::default() };
    let checkpoint = Checkpoint::new(Ingredients {
        model: &folder.path,
        name: &folder.name,
        config_json: &folder.config_json,
        weights: &weights,
        factors,
        factors_json: None,
        options: &options,
    });
    let checkpoint = checkpoint.or_work()?;
    if let Some(fingerprint) = fingerprint {
        same_weights(factors, &folder.name, fingerprint).or_work()?;
    }
    Ok(checkpoint)
}

impl Runner<'_> {
    /// Writes the model's folder with the factors applied, beside the other models of the plan.
    pub(super) fn export(&self, stage: &Stage, export: &ExportStage) -> Result<Made, Failure> {
        let (model, factors) = (self.model_of(stage)?, self.factors(&export.factors)?);
        let folder = &model.folder;
        let checkpoint = checkpoint((folder, Some(model.fingerprint)), &factors, export)?;
        let out = self.out.model(&self.inputs.folder.name, &stage.name);
        // Only a run that was killed between this folder and its result left one here.
        if out.exists() {
            std::fs::remove_dir_all(&out).with_context(|| format!("cannot replace {}", out.display())).or_work()?;
        }
        // The plan's folder is this process's alone, so that nobody is writing a model beside it.
        remove_leftovers(&out).or_work()?;
        let fold = |profile: &[f64], to: &Path| fold::write(&folder.path, profile, to).map_err(Into::into);
        checkpoint.write(&out, &fold).or_work()?;
        checkpoint.notes.iter().for_each(note);
        let summary = format!("{} holds the model with its factors", out.display());
        let fingerprint = fingerprint_dir(&out).or_work()?;
        Ok(Made { model: Some(self.below(&out)), fingerprint: Some(fingerprint), summary, ..Made::default() })
    }
}
