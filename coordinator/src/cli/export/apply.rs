//! `ropewalk export --apply`: a whole model's folder with the factors in it.

use super::{ExportArgs, Report};
use crate::cli::failure::{Failure, OrFail as _, Outcome};
use crate::cli::output::{self, note};
use crate::cli::prepare::ModelFolder;
use crate::export::checkpoint::{self, Checkpoint, CheckpointError, Ingredients};
use crate::export::{DroppedStartTokens, HfOptions};
use anyhow::Context as _;
use ropewalk_worker::fold;
use ropewalk_worker::model::{fingerprint_dir, weights};
use std::path::Path;

/// Writes the folder `out`: the model in folder `model` with the factors.
pub(super) async fn run(args: &ExportArgs, model: &Path, out: &Path) -> Outcome {
    checkpoint::check_place(out).map_err(failure)?;
    let folder = ModelFolder::open(model)?;
    // Damaged weights should be said now, and not by every engine.
    weights::WeightFiles::open(&folder.path).context("--apply needs a whole model").or_input()?;
    let weights = weights::files_of(&folder.path).or_input()?;
    let subject = args.subject(Some(&folder)).await?;

    let dropped = if args.drop_start_tokens { DroppedStartTokens::of(&subject.file) } else { None };
    let options = HfOptions {
        short: args.short_set(&folder.config_json, &subject.file.pair_attention)?,
        target_length: args.target_length,
        dropped,
        hf5_only: args.hf5_only,
    };
    let checkpoint = Checkpoint::new(Ingredients {
        model: &folder.path,
        name: &folder.name,
        config_json: &folder.config_json,
        weights: &weights,
        factors: &subject.file,
        factors_json: subject.text.as_deref(),
        options: &options,
    });
    let checkpoint = checkpoint.map_err(failure)?;

    if subject.file.model.is_some() {
        let fingerprint = fingerprint_dir(&folder.path).or_input()?;
        checkpoint::same_weights(&subject.file, &folder.name, fingerprint).map_err(failure)?;
    } else {
        note("the factors do not name their model: that they belong to this one is not checked");
    }
    let fold = |profile: &[f64], to: &Path| fold::write(&folder.path, profile, to).map_err(Into::into);
    let written = checkpoint.write(out, &fold).map_err(failure)?;
    let mut notes = checkpoint.notes;
    notes.extend(match (written.folded, written.copied) {
        (0, 0) => {
            Some("the weights are hard links: whoever changes them in one folder changes them in both".to_owned())
        }
        (0, _) => Some("the weights could not be linked and are copies".to_owned()),
        _ => None,
    });
    notes.iter().for_each(note);
    if args.json {
        let left_out_windows = &checkpoint.left_out_windows;
        return output::json(&Report {
            format: "model",
            out: Some(out),
            content: None,
            notes: &notes,
            left_out_windows,
        });
    }
    output::line(out.display().to_string())
}

fn failure(error: CheckpointError) -> Failure {
    Failure::sorted(error.is_input(), error)
}
