//! How many weights a model has, and what they take as they are kept.

use crate::device::Dtype;
use crate::kernels;
use crate::model::config::DecoderSpec;

/// A matrix unit reads matrices in steps of so many inputs and outputs.
pub(super) const TILE: usize = 32;

/// How a model's numbers are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Number format.
    pub dtype: Dtype,
    /// Whether the processor computes: then norms and biases are f32, and the device's memory is the host's.
    pub cpu: bool,
    /// Into how many parts of bf16 matrices are split that are laid out for a matrix unit; none without one.
    pub parts: Option<usize>,
}

impl Format {
    /// On the processor of this machine, with its matrix unit if it has one; or on a GPU.
    pub fn on(cpu: bool, dtype: Dtype) -> Self {
        let unit = if cpu { kernels::native_tiles(dtype) } else { None };
        Self { dtype, cpu, parts: unit.map(|(_, parts)| parts) }
    }

    /// Of a matrix; where it is laid out for a unit it does not matter which way.
    pub(super) fn matrix_bytes(self, [outputs, inputs]: [usize; 2]) -> u64 {
        let bytes = match self.parts {
            Some(parts) => 2 * parts * outputs.next_multiple_of(TILE) * inputs.next_multiple_of(TILE),
            None => self.dtype.bytes() * outputs * inputs,
        };
        bytes as u64
    }

    /// Of numbers that are computed with as they are: norms, biases, rows of queries, keys and values.
    pub(super) fn vector_bytes(self, numbers: u64) -> u64 {
        numbers * if self.cpu { size_of::<f32>() } else { self.dtype.bytes() } as u64
    }
}

/// Bytes of all weights.
pub fn weight_bytes(spec: &DecoderSpec, format: Format) -> u64 {
    spec.layers() as u64 * layer_bytes(spec, format) + ends_bytes(spec, format)
}

/// Bytes of the weights of one layer.
pub(crate) fn layer_bytes(spec: &DecoderSpec, format: Format) -> u64 {
    let matrices: u64 = matrices(spec).map(|matrix| format.matrix_bytes(matrix)).iter().sum();
    matrices + format.vector_bytes(layer_weights(spec) - layer_products(spec))
}

/// Bytes of embedding, final norm and head.
pub(crate) fn ends_bytes(spec: &DecoderSpec, format: Format) -> u64 {
    let embedding = (spec.vocab * spec.hidden * format.dtype.bytes()) as u64;
    // In another layout the head is another matrix than the embedding that it is tied to.
    let one = spec.tied && format.parts.is_none();
    let head = if one { 0 } else { format.matrix_bytes([spec.vocab, spec.hidden]) };
    embedding + head + format.vector_bytes(spec.hidden as u64)
}

/// Numbers in all weights, biases included.
pub fn weights(spec: &DecoderSpec) -> u64 {
    let embeddings = spec.vocab * spec.hidden * if spec.tied { 1 } else { 2 };
    spec.layers() as u64 * layer_weights(spec) + (embeddings + spec.hidden) as u64
}

/// Numbers in the weights of one layer, biases included.
pub fn layer_weights(spec: &DecoderSpec) -> u64 {
    let qkv = spec.query_width() + 2 * spec.key_width();
    let bias = |present: bool, width: usize| if present { width } else { 0 };
    let biases = bias(spec.qkv_bias, qkv)
        + bias(spec.output_bias, spec.hidden)
        + bias(spec.mlp_bias, 2 * spec.intermediate + spec.hidden);
    let norms = 2 * spec.hidden + bias(spec.head_norm, 2 * spec.head_dim);
    layer_products(spec) + (biases + norms) as u64
}

/// Numbers in the matrices of one layer.
pub(super) fn layer_products(spec: &DecoderSpec) -> u64 {
    matrices(spec).map(|[outputs, inputs]| (outputs * inputs) as u64).iter().sum()
}

/// Outputs and inputs of the matrices of one layer: queries, keys and values; attention's output; gate and up; down.
fn matrices(spec: &DecoderSpec) -> [[usize; 2]; 4] {
    let (hidden, queries, intermediate) = (spec.hidden, spec.query_width(), spec.intermediate);
    [[queries + 2 * spec.key_width(), hidden], [hidden, queries], [2 * intermediate, hidden], [hidden, intermediate]]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Model;
    use candle_core::Device;
    use std::path::Path;

    #[test]
    fn what_weights_take_is_what_was_predicted() {
        let golden = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/golden"));
        // Biases, tied embeddings, head norms, fused tensors.
        for name in ["llama-mlp-attn-bias", "llama-tied", "qwen2", "qwen3", "phi3", "mistral-nowindow"] {
            for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F32Fast] {
                let model = Model::load(&golden.join(name), &Device::Cpu, dtype).unwrap();
                let native = Format::on(true, dtype);
                assert_eq!(model.weight_bytes(), weight_bytes(model.spec(), native), "{name} in {dtype}");
                let tiled = Model::load_with_tiles(&golden.join(name), dtype).unwrap();
                let format = Format { parts: dtype.parts(), ..native };
                assert_eq!(tiled.weight_bytes(), weight_bytes(model.spec(), format), "{name} in {dtype}, tiled");
            }
        }
    }
}
