//! Which model folder holds the model of a job.
//!
//! A model is found by its fingerprint. Its name only says where to look first: the folder of that name below the
//! model root, then the root itself, then every other folder. A fingerprint is computed once and again only when
//! sizes or times of the folder's files change, so that looking again costs next to nothing.

use crate::model::fingerprint_dir;
use ropewalk_shared::fingerprint::Fingerprint;
use ropewalk_shared::outcome::{FailureKind, UnitFailure};
use ropewalk_shared::work::Unit;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// How far below the root a model may lie: enough for `owner/name` and for `models--x/snapshots/revision`.
const MAX_DEPTH: usize = 3;
/// Most folders looked into, so that a root of `/` ends in a message and not in a walk through the disk.
const MAX_FOLDERS: usize = 5_000;
/// Most folders named in a message.
const MAX_NAMED: usize = 8;

/// Finds models below one folder.
#[derive(Debug)]
pub(super) struct Registry {
    root: PathBuf,
    known: HashMap<PathBuf, Known>,
}

/// What is known of one model folder.
#[derive(Debug)]
struct Known {
    stamp: Stamp,
    fingerprint: Fingerprint,
}

/// Names, sizes and times of a model's files: another stamp, another fingerprint to compute.
type Stamp = Vec<(String, u64, Option<SystemTime>)>;

/// Which model a job is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ModelName {
    /// The folder it probably lies in.
    pub(super) name: String,
    /// What it must be.
    pub(super) fingerprint: Fingerprint,
}

// === impl ModelName ===

impl ModelName {
    /// The model of a unit.
    pub(super) fn of(unit: &Unit) -> Self {
        Self { name: unit.model_name.clone(), fingerprint: unit.model_fingerprint }
    }
}

// === impl Registry ===

impl Registry {
    /// A registry of the models in and below `root`.
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root, known: HashMap::new() }
    }

    /// The folder that holds the model.
    ///
    /// # Errors
    /// [`FailureKind::FingerprintMismatch`] when no folder holds it and the one of that name holds another model,
    /// [`FailureKind::ModelMissing`] when no folder holds it.
    pub(super) fn find(&mut self, wanted: &ModelName) -> Result<PathBuf, UnitFailure> {
        // The name comes from the network; a path in it must not lead out of the root.
        let named = self.root.join(Path::new(&wanted.name).file_name().unwrap_or_default());
        let named = if is_model(&named) { Some(named) } else { self.root_by_that_name(&wanted.name) };
        let failure = match named.clone().map(|folder| self.check_named(folder, wanted)) {
            Some(Ok(folder)) => return Ok(folder),
            failed => failed.and_then(Result::err),
        };
        let mut seen = Vec::new();
        for folder in model_folders(&self.root).into_iter().filter(|folder| Some(folder) != named.as_ref()) {
            match self.fingerprint(&folder) {
                Ok(found) if found == wanted.fingerprint => return Ok(folder),
                Ok(found) => seen.push(format!("{} ({})", folder.display(), found.short())),
                Err(error) => seen.push(format!("{} ({error})", folder.display())),
            }
        }
        let missing = || UnitFailure { kind: FailureKind::ModelMissing, reason: self.missing(wanted, &seen) };
        Err(failure.unwrap_or_else(missing))
    }

    /// The root, when it is itself the model folder of that name.
    fn root_by_that_name(&self, name: &str) -> Option<PathBuf> {
        let root = self.root.canonicalize().ok()?;
        (root.file_name()? == name && is_model(&self.root)).then(|| self.root.clone())
    }

    fn check_named(&mut self, folder: PathBuf, wanted: &ModelName) -> Result<PathBuf, UnitFailure> {
        let place = folder.display();
        let (kind, reason) = match self.fingerprint(&folder) {
            Ok(found) if found == wanted.fingerprint => return Ok(folder),
            Ok(found) => {
                let reason = format!(
                    "{place} holds another model than the job's: fingerprint {} where {} is wanted; copy the files that \
                     the job was launched with (config.json and *.safetensors)",
                    found.short(),
                    wanted.fingerprint.short()
                );
                (FailureKind::FingerprintMismatch, reason)
            }
            Err(error) => (FailureKind::ModelMissing, format!("{place} cannot be read as a model: {error}")),
        };
        Err(UnitFailure { kind, reason })
    }

    fn missing(&self, wanted: &ModelName, seen: &[String]) -> String {
        let (name, root) = (&wanted.name, self.root.display());
        let found = match seen {
            [] => "no model folder (one with a config.json)".to_owned(),
            seen => {
                let more = if seen.len() > MAX_NAMED { ", …" } else { "" };
                format!("only {}{more}", seen[..seen.len().min(MAX_NAMED)].join(", "))
            }
        };
        format!(
            "model {name:?} (fingerprint {}) is not on this worker: looked in {root} and found {found}; copy the \
             model to {} or start the worker with --model-root where it lies",
            wanted.fingerprint.short(),
            self.root.join(name).display(),
        )
    }

    /// The fingerprint of a folder, computed when it is not known or the files changed.
    fn fingerprint(&mut self, folder: &Path) -> Result<Fingerprint, String> {
        let stamp = stamp(folder).map_err(|error| error.to_string())?;
        match self.known.get(folder) {
            Some(known) if known.stamp == stamp => Ok(known.fingerprint),
            _ => {
                tracing::info!(folder = %folder.display(), "computing the fingerprint of a model");
                // An error is not kept: it can pass without a trace in sizes and times.
                let fingerprint = fingerprint_dir(folder).map_err(|error| error.to_string())?;
                self.known.insert(folder.to_owned(), Known { stamp, fingerprint });
                Ok(fingerprint)
            }
        }
    }
}

fn is_model(folder: &Path) -> bool {
    folder.join("config.json").is_file()
}

/// Whether there is any model in or below `root`.
pub(super) fn holds_models(root: &Path) -> bool {
    walk(root).next().is_some()
}

/// The model folders in and below `root`, in the order of their paths.
fn model_folders(root: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = walk(root).collect();
    found.sort();
    found
}

/// The same one after the other, the root first, as they are come upon.
fn walk(root: &Path) -> impl Iterator<Item = PathBuf> {
    let (mut pending, mut looked) = (vec![(root.to_owned(), 0)], 0);
    let folders = std::iter::from_fn(move || {
        let (folder, depth) = pending.pop()?;
        looked += 1;
        if looked > MAX_FOLDERS {
            tracing::warn!(root = %root.display(), "more than {MAX_FOLDERS} folders: the rest is not searched for models");
            return None;
        }
        if depth < MAX_DEPTH {
            // A folder that cannot be read holds no model for us.
            let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
            let folders = entries.map(|entry| entry.path()).filter(|path| path.is_dir() && !is_hidden(path));
            pending.extend(folders.map(|path| (path, depth + 1)));
        }
        Some(folder)
    });
    folders.filter(|folder| is_model(folder))
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

/// Configuration and weight files of a folder, in the order of their names.
fn stamp(folder: &Path) -> std::io::Result<Stamp> {
    let mut stamp = Stamp::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let extension = path.extension().unwrap_or_default();
        if extension == "json" || extension == "safetensors" {
            // Not the entry's own: weights are often links into a cache.
            let metadata = path.metadata()?;
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            stamp.push((name, metadata.len(), metadata.modified().ok()));
        }
    }
    stamp.sort();
    Ok(stamp)
}

#[cfg(test)]
mod tests;
