//! Models: a Hugging Face checkpoint folder, read into one decoder whatever its family.
//!
//! [`config`] says what the decoder looks like, [`weights`] reads its tensors, `layer` and `decoder` run it.

pub mod config;
mod decoder;
mod error;
mod key_values;
mod last_layer;
mod layer;
mod names;
mod parameters;
pub mod weights;
pub(crate) mod written;

pub(crate) use decoder::{Pass, Workspace};
pub use error::LoadError;
pub(crate) use key_values::KeyValues;
pub(crate) use layer::Layer;
pub(crate) use parameters::Placed;

use crate::cost::{self, Format};
use crate::device::{DeviceError, Dtype};
use crate::kernels;
use crate::ledger::{Held, Ledger};
use crate::ops::Kernels;
use crate::placement::Residence;
use crate::tiles::Unit;
use candle_core::Device;
use config::DecoderSpec;
use parameters::{Form, Parameters};
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
    /// Where layers are streamed from.
    files: Option<WeightFiles>,
    devices: Vec<Device>,
    /// One for each device.
    ledgers: Vec<Ledger>,
    host: Ledger,
    /// What the weights take of each device.
    _held: Vec<Held>,
    dtype: Dtype,
    kernels: Kernels,
    /// The matrix unit that computes products and attention, and into how many parts numbers are split for it.
    tiles: Option<(Unit, usize)>,
}

/// A layer on its device: one that stays there, or one that goes when this value does.
pub(crate) enum LayerHere<'m> {
    Resident(&'m Layer),
    Streamed(Box<Layer>, #[expect(dead_code, reason = "counts the layer as alive")] Held),
}

impl Model {
    /// Reads `config.json` and the safetensors files of the folder `dir`, with all weights on one device.
    ///
    /// The weights are converted to `dtype` once; the files are memory-mapped and not kept.
    ///
    /// # Errors
    /// [`LoadError`] names the file, the tensor or the field, what was expected and what is there.
    pub fn load(dir: &Path, device: &Device, dtype: Dtype) -> Result<Self, LoadError> {
        Self::load_placed(dir, std::slice::from_ref(device), dtype, Residence::Device)
    }

    /// The same with the layers dealt out to several devices in turn, or not kept on them at all: then the files stay
    /// mapped, and evaluations read layer after layer. Embedding, final norm and head are on the first device.
    ///
    /// # Errors
    /// As [`Self::load`]; [`DeviceError::None`] without a device.
    pub fn load_placed(dir: &Path, devices: &[Device], dtype: Dtype, layers: Residence) -> Result<Self, LoadError> {
        Self::load_run_by(dir, devices, dtype, layers, kernels::native_tiles(dtype))
    }

    /// The same as [`Self::load`] on the CPU of a machine with a matrix unit: on one without, or of a format that it does not
    /// compute with, run by the emulation of one. Slow, and there to check that path.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_with_tiles(dir: &Path, dtype: Dtype) -> Result<Self, LoadError> {
        let emulated = || dtype.parts().map(|parts| (Unit::Emulated, parts));
        let tiles = kernels::native_tiles(dtype).or_else(emulated);
        Self::load_run_by(dir, &[Device::Cpu], dtype, Residence::Device, tiles)
    }

    /// The same with products and attention computed by a matrix unit, if there is one and the processor computes.
    fn load_run_by(
        dir: &Path,
        devices: &[Device],
        dtype: Dtype,
        layers: Residence,
        tiles: Option<(Unit, usize)>,
    ) -> Result<Self, LoadError> {
        let first = devices.first().ok_or(DeviceError::None)?;
        dtype.check(first)?;
        if devices.iter().any(|device| device.is_cpu() != first.is_cpu()) {
            return Err(DeviceError::Mixed.into());
        }
        let text = read_config(dir)?;
        let spec = DecoderSpec::from_config_json(&text)?;
        let description = ModelDescription::from_config_json(&text)?;
        let files = WeightFiles::open(dir)?;
        files.check_layers(spec.layers())?;
        files.check_used(&spec)?;
        // More devices than layers would have nothing to do.
        let devices = devices[..devices.len().min(spec.layers())].to_vec();
        let kernels = Kernels::of(first);
        let tiles = tiles.filter(|_| kernels == Kernels::Cpu);
        let form = Form { dtype: dtype.to_candle(), tiles };
        let parameters = Parameters::load(&spec, &files, &devices, form, layers)?;
        let ledgers: Vec<Ledger> = devices.iter().map(|_| Ledger::default()).collect();
        let held = held(&parameters, &ledgers);
        let files = (layers == Residence::Host).then_some(files);
        Ok(Self {
            description,
            spec,
            parameters,
            files,
            devices,
            ledgers,
            host: Ledger::default(),
            _held: held,
            dtype,
            kernels,
            tiles,
        })
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

    /// How its numbers are kept.
    pub(crate) fn format(&self) -> Format {
        Format { dtype: self.dtype, cpu: self.device().is_cpu(), parts: self.tiles.map(|(_, parts)| parts) }
    }

    /// Where the weights lie; the first of several devices.
    pub fn device(&self) -> &Device {
        &self.devices[0]
    }

    /// The devices that layers are dealt out to.
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// What is alive on each of the devices: weights, and what evaluations need of hidden states, keys, values and
    /// buffers. What a device's own operations need for a moment is not counted.
    pub fn ledgers(&self) -> &[Ledger] {
        &self.ledgers
    }

    /// Hidden states that wait in the host's memory.
    pub fn host_ledger(&self) -> &Ledger {
        &self.host
    }

    /// Where the layers' weights are kept.
    pub fn weights(&self) -> Residence {
        if self.files.is_some() { Residence::Host } else { Residence::Device }
    }

    /// Whether all of it is on one device, as everything but evaluations needs it.
    pub fn is_whole(&self) -> bool {
        self.files.is_none() && self.devices.len() == 1
    }

    /// The weights of a layer, read from the files where they are streamed. Counts them before they are there.
    pub(crate) fn layer(&self, index: usize) -> Result<LayerHere<'_>, LoadError> {
        let Some(files) = &self.files else { return Ok(LayerHere::Resident(&self.parameters.layers[index])) };
        let (number, form) = (index % self.devices.len(), Form { dtype: self.dtype.to_candle(), tiles: self.tiles });
        let held = self.ledgers[number].hold(cost::layer_bytes(&self.spec, self.format()));
        let layer = Parameters::read_layer(&self.spec, files, &self.devices[number], form, index)?;
        Ok(LayerHere::Streamed(Box::new(layer), held))
    }

    /// The weights.
    pub(crate) fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Which operations run it.
    pub(crate) fn kernels(&self) -> Kernels {
        self.kernels
    }

    /// Name of the kernels that run it, for people.
    pub fn kernels_name(&self) -> String {
        let name = self.kernels.name(self.device(), self.dtype.to_candle(), self.spec.head_dim);
        kernels::with_unit(name, self.tiles)
    }

    /// Bytes that the weights take on the devices.
    pub fn weight_bytes(&self) -> u64 {
        self.parameters.bytes()
    }
}

/// Counts the weights that stay where they are.
fn held(parameters: &Parameters, ledgers: &[Ledger]) -> Vec<Held> {
    let mut bytes = vec![0; ledgers.len()];
    for (index, layer) in parameters.layers.iter().enumerate() {
        bytes[index % ledgers.len()] += layer.bytes();
    }
    bytes[0] += parameters.bytes() - bytes.iter().sum::<u64>();
    ledgers.iter().zip(bytes).map(|(ledger, bytes)| ledger.hold(bytes)).collect()
}

impl std::ops::Deref for LayerHere<'_> {
    type Target = Layer;
    fn deref(&self) -> &Layer {
        match self {
            Self::Resident(layer) => layer,
            Self::Streamed(layer, _) => layer,
        }
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
