//! An evaluator for documents of some length: what has to be streamed for them is, and nothing else.

use super::{Evaluator, EvaluatorOptions, StartError, usable};
use crate::device::{self, Dtype};
use crate::model::{LoadError, Model};
use crate::placement::{Load, NoPlacement, Placement};
use candle_core::Device;
use std::path::Path;

/// Why there is no evaluator.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The model cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The devices are too small.
    #[error(transparent)]
    NoPlacement(#[from] NoPlacement),
    /// The threads did not start.
    #[error(transparent)]
    Start(#[from] StartError),
}

impl Evaluator {
    /// Loads the model of the folder `dir` so that documents of `tokens` tokens can be evaluated: its weights onto the
    /// devices where there is room, and else layer by layer while they are needed.
    ///
    /// # Errors
    /// [`OpenError`], with what the documents take when no placement fits.
    pub fn open(
        dir: &Path,
        devices: &[Device],
        dtype: Dtype,
        tokens: usize,
        options: EvaluatorOptions,
    ) -> Result<Self, OpenError> {
        let spec = Model::read_spec(dir)?;
        let load = Load { spec: &spec, dtype, chunk_tokens: options.chunk_tokens, tokens };
        let free = devices.iter().filter_map(device::memory_bytes).min();
        let free = free.map(usable);
        let limit = options.device_memory.or(free).unwrap_or(u64::MAX);
        let place = Placement::choose(load, limit, devices.len().min(spec.layers()), None)?;
        let model = Model::load_placed(dir, devices, dtype, place.weights)?;
        // What is kept for the next candidates takes what is left.
        let spare = limit - place.need(load).device();
        let options = EvaluatorOptions { shared_bytes: options.shared_bytes.min(spare), ..options };
        Ok(Self::new(model.into(), options)?)
    }

    /// Whether documents of `tokens` tokens fit only when the model is opened anew, with its weights streamed.
    pub(crate) fn must_stream(&self, tokens: usize) -> bool {
        let stream = || Placement::choose(self.load(tokens), self.device_memory, self.model.devices().len(), None);
        self.placement(tokens).is_err() && stream().is_ok()
    }
}
