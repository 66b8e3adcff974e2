//! The factors to measure: a published method, or a file.

use super::names::names;
use crate::cli::factors::read_file;
use crate::cli::failure::{Failure, OrFail as _, Outcome};
use crate::cli::output::note;
use crate::cli::prepare::ModelFolder;
use crate::export::same_model;
use ropewalk_shared::attention_factor::AttentionFactorPolicy;
use ropewalk_shared::baselines::Baseline;
use ropewalk_shared::factor_file::{FactorFile, FactorModel};
use ropewalk_shared::model_description::ModelDescription;
use ropewalk_shared::rope::Rescale;
use ropewalk_worker::model::fingerprint_dir;
use std::path::{Path, PathBuf};

const DYNAMIC_NTK: &str = "dynamic-ntk";

/// What `--factors` names.
#[derive(Debug)]
pub enum FactorChoice {
    /// The model as it is shipped.
    None,
    /// A published method, scaled to each length.
    Baseline(Baseline),
    /// NTK for each length's own ratio, whatever window the others are scaled to.
    DynamicNtk,
    /// The numbers of a file: the same at every length, or of a factor table those of the window that a length lies in.
    File { name: String, path: PathBuf, file: Box<FactorFile> },
}

// === impl FactorChoice ===

impl FactorChoice {
    /// Reads the texts of the option, and the files that they name; files of the same name are told apart by their folders.
    pub fn read_all(texts: &[String], description: &ModelDescription) -> Result<Vec<Self>, Failure> {
        let paths: Vec<&Path> = texts.iter().map(Path::new).collect();
        texts.iter().zip(names(&paths)).map(|(text, name)| Self::read_as(name, text, description)).collect()
    }

    /// Reads the text of the option, and the file if it names one.
    pub fn read(text: &str, description: &ModelDescription) -> Result<Self, Failure> {
        Self::read_as(text.to_owned(), text, description)
    }

    fn read_as(name: String, text: &str, description: &ModelDescription) -> Result<Self, Failure> {
        if text == "none" {
            return Ok(Self::None);
        }
        if let Some(baseline) = Baseline::ALL.into_iter().find(|baseline| baseline.name() == text) {
            return Ok(Self::Baseline(baseline));
        }
        if text == DYNAMIC_NTK {
            return Ok(Self::DynamicNtk);
        }
        let path = Path::new(text);
        if !path.exists() {
            return Err(Failure::input_message(format!(
                "--factors {text}: no such file, and no method of that name (none, pi, ntk, yarn, yarn-factors, {DYNAMIC_NTK})"
            )));
        }
        let file = Box::new(read_file(path, description)?);
        Ok(Self::File { name, path: path.to_owned(), file })
    }

    /// The name for tables.
    pub fn name(&self) -> &str {
        match self {
            Self::None => "none",
            Self::Baseline(baseline) => baseline.name(),
            Self::DynamicNtk => DYNAMIC_NTK,
            Self::File { name, .. } => name,
        }
    }

    /// Of a factor table, where the window begins that a length lies in, in tokens.
    pub fn window_from(&self, length: u32) -> Option<u32> {
        match self {
            Self::File { file, .. } => file.window_for(length).map(|window| window.from_length),
            _ => None,
        }
    }

    /// The factors at a length, those of published methods for a window of `target` tokens if one is given. YaRN comes
    /// with its own attention factor, as published.
    pub fn at(&self, description: &ModelDescription, length: u32, target: Option<u32>) -> Rescale {
        let original = description.original_length;
        let ratio = |length: u32| (f64::from(length) / f64::from(original)).max(1.0);
        match self {
            Self::None => description.shipped_rescale(length as usize),
            Self::Baseline(baseline) => {
                let ratio = ratio(target.unwrap_or(length));
                let policy = match baseline {
                    Baseline::Yarn | Baseline::YarnFactors => AttentionFactorPolicy::Yarn,
                    Baseline::Pi | Baseline::Ntk => AttentionFactorPolicy::None,
                };
                let factors = baseline.factors(&description.geometry, original, ratio);
                Rescale { attention_factor: policy.value(ratio, original), ..Rescale::with_factors(factors) }
            }
            Self::DynamicNtk => {
                Rescale::with_factors(Baseline::Ntk.factors(&description.geometry, original, ratio(length)))
            }
            Self::File { file, .. } => file.rescale_for(length),
        }
    }

    /// Of a file that names a model of this shape, where it lies and that model.
    fn searched(&self, description: &ModelDescription) -> Option<(&Path, &FactorModel)> {
        match self {
            // Those of another shape were told of when they were read.
            Self::File { path, file, .. } if same_model(file, description).is_ok() => {
                file.model.as_ref().map(|model| (path.as_path(), model))
            }
            _ => None,
        }
    }
}

/// Tells of files whose factors were searched with other weights or another configuration than this model's. That takes
/// reading all weights, and is done only where a file names its model.
pub fn note_other_weights(choices: &[FactorChoice], folder: &ModelFolder) -> Outcome {
    let searched: Vec<_> = choices.iter().filter_map(|choice| choice.searched(&folder.description)).collect();
    if searched.is_empty() {
        return Ok(());
    }
    let fingerprint = fingerprint_dir(&folder.path).or_input()?;
    for (path, model) in searched.into_iter().filter(|(_, model)| model.fingerprint != fingerprint) {
        note(format!(
            "{}: the factors were searched for another model, {:?} (fingerprint {}; that of {:?} is {}); they are used as they are",
            path.display(),
            model.name,
            model.fingerprint.short(),
            folder.name,
            fingerprint.short()
        ));
    }
    Ok(())
}
