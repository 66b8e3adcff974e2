//! Models: a Hugging Face checkpoint folder, read into one decoder whatever its family.
//!
//! [`config`] says what the decoder looks like, [`weights`] reads its tensors, `layer` and `decoder` run it.

pub mod config;
mod decoder;
mod error;
mod last_layer;
mod layer;
mod parameters;
pub mod weights;

pub(crate) use decoder::{KeyValues, Pass, Workspace};
pub use error::LoadError;
pub(crate) use layer::Layer;
pub(crate) use parameters::Placed;

use crate::device::Dtype;
use crate::ops::Kernels;
use candle_core::Device;
use config::DecoderSpec;
use parameters::Parameters;
use ropewalk_shared::fingerprint::{Fingerprint, Fingerprinter};
use ropewalk_shared::model_description::ModelDescription;
use std::fs::File;
use std::path::{Path, PathBuf};
use weights::WeightFiles;

/// A decoder with its weights on a device. Evaluations only read it, so any number of them may share one.
#[derive(Debug)]
pub struct Model {
    description: ModelDescription,
    spec: DecoderSpec,
    parameters: Parameters,
    device: Device,
    dtype: Dtype,
    kernels: Kernels,
}

impl Model {
    /// Reads `config.json` and the safetensors files of the folder `dir`.
    ///
    /// The weights are converted to `dtype` once; the files are memory-mapped and not kept.
    ///
    /// # Errors
    /// [`LoadError`] names the file, the tensor or the field, what was expected and what is there.
    pub fn load(dir: &Path, device: &Device, dtype: Dtype) -> Result<Self, LoadError> {
        dtype.check(device)?;
        let text = read_config(dir)?;
        let spec = DecoderSpec::from_config_json(&text)?;
        let description = ModelDescription::from_config_json(&text)?;
        let files = WeightFiles::open(dir)?;
        let parameters = Parameters::load(&spec, &files, device, dtype.to_candle())?;
        let kernels = if device.is_cpu() { Kernels::Cpu } else { Kernels::Tensor };
        Ok(Self { description, spec, parameters, device: device.clone(), dtype, kernels })
    }

    /// What the decoder in a folder looks like, from its config.json alone.
    ///
    /// # Errors
    /// As [`Self::load`], of that file.
    pub fn read_spec(dir: &Path) -> Result<DecoderSpec, LoadError> {
        DecoderSpec::from_config_json(&read_config(dir)?)
    }

    /// The same model run by candle's own operations, as on a GPU: slow on the CPU, and there to check that path.
    #[must_use]
    pub fn with_tensor_operations(mut self) -> Self {
        self.kernels = Kernels::Tensor;
        self
    }

    /// What config.json says of the model's window and RoPE.
    pub fn description(&self) -> &ModelDescription {
        &self.description
    }

    /// What the decoder looks like.
    pub fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// Number format of the weights.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Where the weights lie.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The weights.
    pub(crate) fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Which operations run it.
    pub(crate) fn kernels(&self) -> Kernels {
        self.kernels
    }

    /// Bytes that the weights take.
    pub fn weight_bytes(&self) -> u64 {
        self.parameters.bytes() as u64
    }
}

/// Identity of the model in the folder `dir`: its configuration and the content of every weight file.
///
/// # Errors
/// [`LoadError`] when a file is missing or cannot be read; the weights themselves are not checked.
pub fn fingerprint_dir(dir: &Path) -> Result<Fingerprint, LoadError> {
    let text = read_config(dir)?;
    let config = serde_json::from_str(&text).map_err(|source| LoadError::Json { path: config_path(dir), source })?;
    let mut fingerprinter = Fingerprinter::new(&config);
    for path in weights::files_of(dir)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let read = File::open(&path).and_then(|file| fingerprinter.file(&name, file));
        read.map_err(|source| LoadError::Io { path, source })?;
    }
    Ok(fingerprinter.finish())
}

fn config_path(dir: &Path) -> PathBuf {
    dir.join("config.json")
}

fn read_config(dir: &Path) -> Result<String, LoadError> {
    let path = config_path(dir);
    std::fs::read_to_string(&path).map_err(|source| LoadError::Io { path, source })
}
