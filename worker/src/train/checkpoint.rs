//! Checkpoints: all that the next step depends on.
//!
//! A folder each, `checkpoint-N` after step N, which appears whole or not at all; the one before is removed once the next
//! stands, and the loss after it is a number: there is always one that was good.

use super::folder::Part;
use super::optimizer::{Moments, Optimizer, Trained, set};
use super::views::{self, Written};
use super::{StepRecord, TrainError};
use crate::model::weights::WeightFiles;
use crate::ops::view::cpu_contiguous;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

const PREFIX: &str = "checkpoint-";
const STATE: &str = "state.json";
/// As weights of models are read.
const NUMBERS: &str = "model.safetensors";

/// The checkpoints of one training.
pub(super) struct Checkpoints {
    dir: PathBuf,
    identity: String,
}

/// What is not a tensor.
#[derive(Serialize, Deserialize)]
struct State {
    identity: String,
    curve: Vec<StepRecord>,
}

// === impl Checkpoints ===

impl Checkpoints {
    /// Those in a folder, which is there.
    pub fn of(dir: &Path, identity: &str) -> Self {
        Self { dir: dir.to_owned(), identity: identity.to_owned() }
    }

    /// Puts weights and moments back to the last checkpoint, and returns the steps until then; none without one.
    pub fn resume(&self, optimizer: &mut Optimizer) -> Result<Vec<StepRecord>, TrainError> {
        let Some((step, path)) = self.all()?.pop() else { return Ok(Vec::new()) };
        let unusable = |reason: String| TrainError::Checkpoint { path: path.clone(), reason };
        let text = fs::read(path.join(STATE)).map_err(|error| unusable(format!("{STATE}: {error}")))?;
        let state: State = serde_json::from_slice(&text).map_err(|error| unusable(format!("{STATE}: {error}")))?;
        if state.identity != self.identity {
            return Err(TrainError::OtherTraining { dir: self.dir.clone() });
        }
        if state.curve.len() != step {
            return Err(unusable(format!("{STATE} tells of {} steps", state.curve.len())));
        }
        let files = WeightFiles::open(&path).map_err(|error| unusable(error.to_string()))?;
        for trained in &mut optimizer.trained {
            // Over what is there: three tensors beside all others may be more than there is room for.
            let read = |kind: &str, numbers: &mut Vec<f32>| {
                numbers.clear();
                let name = format!("{kind}.{}", trained.name);
                let found = files.find(&name, trained.value.dims());
                let read = found.and_then(|found| found.read(|block| numbers.extend_from_slice(block)));
                read.map_err(|error| unusable(error.to_string()))
            };
            let (Moments { mean, square }, mut value) = (&mut trained.moments, Vec::new());
            read("mean", mean)?;
            read("square", square)?;
            value.reserve_exact(trained.value.elem_count());
            read("value", &mut value)?;
            set(&trained.value, value)?;
        }
        optimizer.places.fill(&optimizer.trained)?;
        Ok(state.curve)
    }

    /// Keeps the state after the last step of `curve`, and returns the number of that. The checkpoint before it stays:
    /// whether this one is of use is known when the next step has a loss.
    pub fn write(&self, optimizer: &Optimizer, curve: &[StepRecord]) -> Result<usize, TrainError> {
        let step = curve.len();
        let part = Part::of(&self.dir.join(format!("{PREFIX}{step:08}")))?;
        let values: Vec<_> = optimizer.trained.iter().map(|trained| trained.value.storage_and_layout()).collect();
        let mut tensors = Vec::with_capacity(3 * optimizer.trained.len());
        for (Trained { name, value, moments }, (storage, layout)) in optimizer.trained.iter().zip(&values) {
            // As they lie there: a copy of the largest may be more than there is room for.
            let (shape, numbers) = (value.dims().to_vec(), cpu_contiguous(storage, layout)?);
            tensors.push((format!("value.{name}"), Written::Numbers(numbers, shape.clone())));
            tensors.push((format!("mean.{name}"), Written::Numbers(&moments.mean, shape.clone())));
            tensors.push((format!("square.{name}"), Written::Numbers(&moments.square, shape)));
        }
        views::write(&part.file(NUMBERS), tensors)?;
        let state = State { identity: self.identity.clone(), curve: curve.to_vec() };
        let text = serde_json::to_string(&state).map_err(std::io::Error::other);
        part.write(STATE, &text.map_err(TrainError::io("write", &self.dir))?)?;
        part.finish()?;
        let all = self.all()?;
        for (_, path) in &all[..all.len().saturating_sub(2)] {
            fs::remove_dir_all(path).map_err(TrainError::io("remove", path))?;
        }
        Ok(step)
    }

    /// After a step that diverged: removes the checkpoint right before it, whose weights have given no number, and returns
    /// the step of the one that is left.
    pub fn last_good(&self, diverged: u32) -> Result<Option<u32>, TrainError> {
        let mut all = self.all()?;
        if let Some((_, path)) = all.pop_if(|(step, _)| *step + 1 == diverged as usize) {
            fs::remove_dir_all(&path).map_err(TrainError::io("remove", &path))?;
        }
        Ok(all.last().map(|(step, _)| *step as u32))
    }

    /// Removes all checkpoints: the result stands. What cannot be removed does no harm.
    pub fn clear(&self) {
        for (_, path) in self.all().unwrap_or_default() {
            let _ = fs::remove_dir_all(path);
        }
    }

    /// Steps and folders, in order.
    fn all(&self) -> Result<Vec<(usize, PathBuf)>, TrainError> {
        let look = || TrainError::io("look into", &self.dir);
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(look())? {
            let path = entry.map_err(look())?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            if let Some(step) = name.and_then(|name| name.strip_prefix(PREFIX)?.parse().ok()) {
                all.push((step, path));
            }
        }
        all.sort();
        Ok(all)
    }
}
