//! The trained model as a Hugging Face folder: what the model's folder has, with other weights.

use super::folder::Part;
use super::optimizer::Optimizer;
use super::places::Merged;
use super::views::{self, Written};
use super::{TrainError, Trained};
use crate::model::weights::{Stored, WeightFiles};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Says what the weights were trained on.
const RECORD: &str = "training.json";
/// Kinds of files that belong to a model: configuration, tokenizer, chat template.
const CARRIED: [&str; 4] = ["json", "txt", "model", "jinja"];
/// Terms that stay with the weights, whatever follows these words in the name.
const TERMS: [&str; 3] = ["LICENSE", "NOTICE", "USE_POLICY"];

/// The training whose result stands at `out`, if it is this one.
pub(super) fn finished(out: &Path, identity: &str) -> Result<Option<Trained>, TrainError> {
    let exists = TrainError::OutputExists { out: out.to_owned() };
    match fs::read(out.join(RECORD)) {
        Ok(text) => match serde_json::from_slice::<Trained>(&text) {
            Ok(trained) if trained.identity == identity => Ok(Some(trained)),
            _ => Err(exists),
        },
        Err(_) => {
            let empty = fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_none());
            if out.symlink_metadata().is_ok() && !empty { Err(exists) } else { Ok(None) }
        }
    }
}

/// Writes the folder `out`, whole or not at all.
pub(super) fn write(model: &Path, optimizer: &Optimizer, trained: &Trained, out: &Path) -> Result<(), TrainError> {
    if let Some(parent) = out.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent).map_err(TrainError::io("make the folder", parent))?;
    }
    let part = Part::of(out)?;
    let files = WeightFiles::open(model)?;
    // Where the trained rows of every tensor of the files are.
    let merged = optimizer.places.merged(&optimizer.trained)?;
    let rows: HashMap<&str, &Merged> = merged.iter().map(|merged| (merged.name.as_str(), merged)).collect();
    for (path, tensors) in files.stored() {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let tensors = tensors.map(|Stored { name, dtype, shape, bytes }| {
            let written = match rows.get(name.as_str()) {
                Some(Merged { tensor, first, .. }) => Written::Rows { weight: tensor, first: *first, shape, dtype },
                // Not trained.
                None => Written::Bytes { bytes, shape, dtype },
            };
            (name, written)
        });
        views::write(&part.file(&name), tensors.collect())?;
    }
    let index = files.stored().count() > 1;
    for path in carried(model, index)? {
        part.copy(&path)?;
    }
    let record = serde_json::to_string_pretty(trained).map_err(std::io::Error::other);
    part.write(RECORD, &(record.map_err(TrainError::io("write", out))? + "\n"))?;
    part.finish()
}

/// The files besides the weights.
fn carried(model: &Path, index: bool) -> Result<Vec<PathBuf>, TrainError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(model).map_err(TrainError::io("look into", model))? {
        let path = entry.map_err(TrainError::io("look into", model))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let kind = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        let terms = TERMS.iter().any(|term| name.to_ascii_uppercase().starts_with(term));
        let foreign = name == RECORD || (name.ends_with(".index.json") && !(index && name.contains("safetensors")));
        if (CARRIED.contains(&kind) || terms) && !foreign && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
