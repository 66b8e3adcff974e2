//! A model's folder with the factors applied, as engines load it.
//!
//! Everything is worked out and checked before a byte is written; what is written appears under its name whole or not
//! at all. The weights are those of the model: hard links where the file system has them, copies elsewhere. Attention factors
//! of single rotary pairs, which no config.json has a place for, are multiplied into a copy of the query and key weights.

mod card;
mod error;
mod files;
mod folded;
mod folder;

pub use error::CheckpointError;
pub use folder::remove_leftovers;

use super::{ExportError, HfOptions, hf, json};
use folder::Part;
use ropewalk_shared::factor_file::FactorFile;
use ropewalk_shared::fingerprint::Fingerprint;
use std::path::{Path, PathBuf};

/// What a checkpoint is made of.
#[derive(Clone, Copy, Debug)]
pub struct Ingredients<'a> {
    /// Folder of the model.
    pub model: &'a Path,
    /// The model's name, for the model card.
    pub name: &'a str,
    /// The text of its config.json.
    pub config_json: &'a str,
    /// Its weight files, all of them in the folder.
    pub weights: &'a [PathBuf],
    /// The factors.
    pub factors: &'a FactorFile,
    /// The text of the factor file where it is to be passed on as it is; absent to write it anew.
    pub factors_json: Option<&'a str>,
    /// What the export needs to know besides.
    pub options: &'a HfOptions,
}

/// A checkpoint that is ready to be written.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Files that are written: name and content.
    texts: Vec<(String, String)>,
    /// Files of the model that are copied: small ones, which users edit.
    copied: Vec<PathBuf>,
    /// Files of the model that are linked.
    weights: Vec<PathBuf>,
    /// Attention factors of pairs to be folded into them; empty for none.
    folded: Vec<f64>,
    /// For the user: what to know of the result.
    pub notes: Vec<String>,
    /// Where the windows of a factor table begin, in tokens, that config.json has no place for; factors.json has all.
    pub left_out_windows: Vec<u32>,
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Weight files that share their bytes with the model's.
    pub linked: usize,
    /// Weight files that could not be linked, and were copied.
    pub copied: usize,
    /// Weight files written anew, with attention factors of pairs folded into them.
    pub folded: usize,
}

/// Writes the weight files of the model into a folder, its queries and keys multiplied by attention factors of the pairs.
pub type Fold<'a> = dyn Fn(&[f64], &Path) -> Result<(), Box<dyn std::error::Error + Send + Sync>> + 'a;

/// Refuses factors that were searched with another configuration or other weights than this model's.
///
/// # Errors
/// [`CheckpointError::OtherWeights`]. Factors that name no model fit any of their shape.
pub fn same_weights(factors: &FactorFile, name: &str, fingerprint: Fingerprint) -> Result<(), CheckpointError> {
    match &factors.model {
        Some(searched) if searched.fingerprint != fingerprint => Err(CheckpointError::OtherWeights {
            searched: searched.name.clone(),
            searched_fingerprint: searched.fingerprint.short(),
            name: name.to_owned(),
            fingerprint: fingerprint.short(),
        }),
        _ => Ok(()),
    }
}

/// Refuses a place where a checkpoint would overwrite something.
///
/// # Errors
/// [`CheckpointError::NotEmpty`], [`CheckpointError::NotAFolder`] and [`CheckpointError::Io`].
pub fn check_place(out: &Path) -> Result<(), CheckpointError> {
    folder::resolve(out).map(drop)
}

// === impl Checkpoint ===

impl Checkpoint {
    /// The attention factors of pairs that are folded into the weights; empty for none.
    pub fn folded(&self) -> &[f64] {
        &self.folded
    }

    /// Works out every file of the checkpoint; nothing is written yet.
    ///
    /// # Errors
    /// [`CheckpointError::Export`] when the factors do not fit the model or the form cannot say them,
    /// [`CheckpointError::NoWeights`] without weights, [`CheckpointError::Io`] for files that cannot be read.
    pub fn new(from: Ingredients<'_>) -> Result<Self, CheckpointError> {
        if from.weights.is_empty() {
            return Err(CheckpointError::NoWeights { model: from.model.to_owned() });
        }
        let (mut factors, folded) = folded::split(from.factors)?;
        let config = hf::whole(&factors, from.config_json, from.options)?;
        factors.target_length = factors.target_length.or(from.options.target_length);
        let factors_json = match (from.factors_json, &from.options.dropped) {
            (Some(text), None) if factors == *from.factors => text.to_owned(),
            (_, dropped) => json::export(&factors, dropped.as_ref())?.content,
        };
        let target = factors.target_length.ok_or(ExportError::NoTargetLength)?;
        let mut files = files::of_model(from.model, from.weights)?;
        let mut texts = vec![("config.json".to_owned(), config.content), ("factors.json".to_owned(), factors_json)];
        let mut notes = config.notes;
        notes.extend(folded::note(&folded));
        let card = card::card(&from, &factors, (target, !folded.is_empty()), &notes)?;
        texts.push(("README.md".to_owned(), card));
        if let Some((path, raised)) = files::raised_tokenizer(&files, target)? {
            files.retain(|file| *file != path);
            texts.push((files::TOKENIZER_CONFIG.to_owned(), raised));
            notes.push(format!("model_max_length in {} is raised to {target}", files::TOKENIZER_CONFIG));
        }
        notes.extend(files::left_out(from.config_json));
        let left_out_windows = config.left_out_windows;
        Ok(Self { texts, copied: files, weights: from.weights.to_vec(), folded, notes, left_out_windows })
    }

    /// Writes the folder `out`, which must be empty or not there.
    ///
    /// All is written into a folder beside it, which takes its name at the end. An error removes that folder; whoever
    /// kills the process finds it under the name of `out` followed by `.part`.
    ///
    /// # Errors
    /// Those of [`check_place`]; [`CheckpointError::Io`] when something cannot be written, [`CheckpointError::Fold`] when
    /// `fold`, which is called where attention factors of pairs have to be folded in, cannot do so.
    pub fn write(&self, out: &Path, fold: &Fold<'_>) -> Result<Written, CheckpointError> {
        let part = Part::beside(&folder::resolve(out)?)?;
        let mut written = Written { linked: 0, copied: 0, folded: 0 };
        let linked = if self.folded.is_empty() { &self.weights[..] } else { &[] };
        if !self.folded.is_empty() {
            fold(&self.folded, part.path()).map_err(CheckpointError::Fold)?;
            written.folded = self.weights.len();
        }
        for path in linked {
            match part.link_or_copy(path, |from, to| std::fs::hard_link(from, to))? {
                true => written.linked += 1,
                false => written.copied += 1,
            }
        }
        for path in &self.copied {
            part.copy(path)?;
        }
        for (name, content) in &self.texts {
            part.write(name, content)?;
        }
        part.finish()?;
        Ok(written)
    }
}
