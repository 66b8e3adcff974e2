//! Why a model cannot be loaded.

use super::config::SUPPORTED;
use crate::device::DeviceError;
use ropewalk_shared::model_description::ConfigError;
use std::path::PathBuf;

/// Why a model cannot be loaded: what, where, and what to do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// A file is not there or cannot be read.
    #[error("cannot read {}: {source}; a model folder has config.json and safetensors files", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not JSON.
    #[error("{} is not valid JSON: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where it goes wrong.
        source: serde_json::Error,
    },
    /// A field that every part of the program reads is missing or wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A decoder of another kind.
    #[error("model type {model_type:?} is not supported; supported are {}", SUPPORTED.join(", "))]
    ModelType {
        /// What config.json says.
        model_type: String,
    },
    /// A field of config.json has a value that this decoder cannot have.
    #[error("config.json: {field} is {value}, expected {expected}")]
    Field {
        /// Name of the field.
        field: &'static str,
        /// What stands there, shortened.
        value: String,
        /// What could stand there.
        expected: String,
    },
    /// No weights at all.
    #[error("no weights in {}: neither model.safetensors nor model.safetensors.index.json is there; convert other formats to safetensors first", dir.display())]
    NoWeights {
        /// The model folder.
        dir: PathBuf,
    },
    /// The shard index is not usable.
    #[error("{}: {reason}", path.display())]
    Index {
        /// The index file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A weight file is cut off.
    #[error("{} is truncated: its header announces {expected} bytes, the file has {got}; download it again", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Bytes announced.
        expected: u64,
        /// Bytes there.
        got: u64,
    },
    /// A weight file is not there, but what git-lfs keeps in its place.
    #[error("{} is a pointer of git-lfs and not the weights: run `git lfs pull` in its folder", path.display())]
    LfsPointer {
        /// The file.
        path: PathBuf,
    },
    /// A weight file is no safetensors file.
    #[error("{} is not a safetensors file: {reason}", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong with its header.
        reason: String,
    },
    /// A tensor that the configuration calls for is in none of the files.
    #[error("tensor {tensor:?} is in none of the weight files of {}: do config.json and weights belong together?", dir.display())]
    MissingTensor {
        /// Name of the tensor.
        tensor: String,
        /// The model folder.
        dir: PathBuf,
    },
    /// The files have more layers than the configuration says.
    #[error(
        "tensor {tensor:?} is in the weight files of {}, which have {found} layers, but config.json says {layers} \
         (num_hidden_layers): do config.json and weights belong together?", dir.display()
    )]
    SurplusLayer {
        /// Name of the first tensor of the first layer too many.
        tensor: String,
        /// The model folder.
        dir: PathBuf,
        /// Layers by config.json.
        layers: usize,
        /// Layers in the files.
        found: usize,
    },
    /// The files have tensors for a layer that the configuration says nothing of.
    #[error(
        "tensor {tensor:?} and {others} more are in the weight files of {}, and the decoder that config.json describes has no \
         use for them: without them this is another model; do config.json and weights belong together?", dir.display()
    )]
    UnusedTensor {
        /// Name of the first.
        tensor: String,
        /// The model folder.
        dir: PathBuf,
        /// How many there are beside it.
        others: usize,
    },
    /// The weights are quantised.
    #[error(
        "config.json has quantization_config ({method}): quantised checkpoints are not read; take the model's unquantised \
         weights, in f32, bf16 or f16"
    )]
    Quantised {
        /// What it names as the method, shortened.
        method: String,
    },
    /// A tensor has another shape than the configuration says.
    #[error("{}: tensor {tensor:?} has shape {got:?}, config.json calls for {expected:?}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// Shape that follows from config.json.
        expected: Vec<usize>,
        /// Shape in the file.
        got: Vec<usize>,
    },
    /// A tensor has a number format that is not read (quantised weights, for example).
    #[error("{}: tensor {tensor:?} is stored as {got}; f32, bf16 and f16 are read", path.display())]
    TensorFormat {
        /// The file.
        path: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// Format in the file.
        got: String,
    },
    /// The device or the number format is not available.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The device refused the weights.
    #[error("cannot place tensor {tensor:?} on the device: {source}")]
    Placement {
        /// Name of the tensor.
        tensor: String,
        /// What candle said.
        source: Box<candle_core::Error>,
    },
}
