//! The weights of a decoder on its device, brought into one form: one projection for queries, keys and values, one for
//! gate and up, whatever the files hold.

use super::LoadError;
use super::config::DecoderSpec;
use super::layer::Layer;
use super::names::{LayerNames, Projection};
use super::weights::{Found, WeightFiles};
use crate::ledger;
use crate::ops::Kernels;
use crate::ops::linear::Linear;
use crate::ops::linear::tiled::Tiled;
use crate::ops::rotate::HeadNorm;
use crate::placement::Residence;
use crate::tiles::Unit;
use candle_core::{DType, Device, Tensor};
use candle_transformers::models::with_tracing::Embedding;
use half::{bf16, f16};

/// All weights of a decoder.
#[derive(Debug)]
pub(crate) struct Parameters {
    pub embedding: Embedding,
    /// None where they are streamed.
    pub layers: Vec<Layer>,
    /// Weight of the final norm, `(hidden)`.
    pub norm: Tensor,
    /// Output head; of the embedding's tensor when tied.
    pub head: Linear,
    placed: Vec<Placed>,
    bytes: u64,
}

/// How weights are kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form {
    pub dtype: DType,
    /// The matrix unit that matrices are laid out for, and into how many parts their numbers are split.
    pub tiles: Option<(Unit, usize)>,
}

/// One tensor, and the tensors of the files that it was made of, below each other.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    pub tensor: Tensor,
    /// Name, and rows of the tensor (numbers, where it has one dimension).
    pub parts: Vec<(String, usize)>,
}

impl Parameters {
    /// Reads the weights that `spec` calls for; layers, unless they are streamed, in turn onto the devices.
    pub fn load(
        spec: &DecoderSpec,
        files: &WeightFiles,
        devices: &[Device],
        form: Form,
        layers: Residence,
    ) -> Result<Self, LoadError> {
        let mut reader = Reader { files, device: &devices[0], form, placed: Vec::new() };
        let vocab = [spec.vocab, spec.hidden];
        let embedding = reader.tensor("model.embed_tokens.weight", &vocab)?;
        let here = if layers == Residence::Device { spec.layers() } else { 0 };
        let mut layer = |index: usize| {
            reader.device = &devices[index % devices.len()];
            load_layer(&mut reader, spec, index)
        };
        let layers = (0..here).map(&mut layer).collect::<Result<Vec<_>, _>>()?;
        reader.device = &devices[0];
        let norm = reader.tensor("model.norm.weight", &[spec.hidden])?;
        let mut bytes = layers.iter().map(Layer::bytes).sum::<u64>() + ledger::bytes(&embedding) + ledger::bytes(&norm);
        let head = match form.tiles {
            _ if !spec.tied => reader.linear(&Projection::head(spec))?,
            Some((unit, parts)) => {
                Linear::new(embedding.clone(), None).tiled(unit, parts).map_err(placing("model.embed_tokens.weight"))?
            }
            None => Linear::new(embedding.clone(), None),
        };
        // The embedding's own tensor is counted.
        bytes += if spec.tied && form.tiles.is_none() { 0 } else { head.bytes() };
        let embedding = Embedding::from_weights(embedding).map_err(placing("model.embed_tokens.weight"))?;
        Ok(Self { embedding, layers, norm, head, placed: reader.placed, bytes })
    }

    /// Logits of the rows `x` for `width` tokens of the vocabulary from `first` on, written to `out` on the CPU.
    pub fn logits(
        &self,
        kernels: Kernels,
        x: &Tensor,
        (first, width): (usize, usize),
        out: Option<Tensor>,
    ) -> candle_core::Result<Tensor> {
        self.head.outputs(first, width)?.forward(kernels, x, out)
    }

    /// Reads the weights of one layer onto a device.
    pub fn read_layer(
        spec: &DecoderSpec,
        files: &WeightFiles,
        device: &Device,
        form: Form,
        index: usize,
    ) -> Result<Layer, LoadError> {
        load_layer(&mut Reader { files, device, form, placed: Vec::new() }, spec, index)
    }

    /// Bytes of all weights.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Every tensor once, in the order in which they were read; none where a matrix unit has them.
    pub fn placed(&self) -> &[Placed] {
        &self.placed
    }
}

fn load_layer(reader: &mut Reader<'_>, spec: &DecoderSpec, index: usize) -> Result<Layer, LoadError> {
    let names = LayerNames::of(spec, index);
    let mut head_norm = |part: usize| -> Result<Option<HeadNorm>, LoadError> {
        let Some(names) = &names.head_norms else { return Ok(None) };
        let weight = reader.tensor(&names[part], &[spec.head_dim])?;
        Ok(Some(HeadNorm { weight, eps: spec.norm_eps }))
    };
    let (query_norm, key_norm) = (head_norm(0)?, head_norm(1)?);
    Ok(Layer {
        input_norm: reader.tensor(&names.input_norm, &[spec.hidden])?,
        qkv: reader.linear(&names.qkv)?,
        query_norm,
        key_norm,
        output: reader.linear(&names.output)?,
        mlp_norm: reader.tensor(&names.mlp_norm, &[spec.hidden])?,
        gate_up: reader.linear(&names.gate_up)?,
        down: reader.linear(&names.down)?,
        window: spec.windows[index],
    })
}

/// Places tensors of the files on the device.
struct Reader<'a> {
    files: &'a WeightFiles,
    device: &'a Device,
    form: Form,
    placed: Vec<Placed>,
}

impl Reader<'_> {
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, LoadError> {
        self.stacked(&[(name.to_owned(), shape[0])], &shape[1..])
    }

    /// Projections of the same input as one.
    fn linear(&mut self, projection: &Projection) -> Result<Linear, LoadError> {
        let (weights, inputs) = (projection.tensors("weight"), projection.inputs);
        let bias = |reader: &mut Self| reader.stacked(&projection.tensors("bias"), &[]);
        let Some(tiles) = self.form.tiles else {
            let weight = self.stacked(&weights, &[inputs])?;
            return Ok(Linear::new(weight, projection.bias.then(|| bias(self)).transpose()?));
        };
        let (found, outputs) = (self.find(&weights, &[inputs])?, weights.iter().map(|(_, rows)| rows).sum());
        // Straight from the files: a matrix is never there in two forms.
        let tiled =
            Tiled::new(tiles, (outputs, inputs), |take| found.iter().try_for_each(|part| part.read(&mut *take)))?;
        let bias = projection.bias.then(|| bias(self)).transpose()?;
        Linear::of_tiled(tiled, bias).map_err(placing(&weights[0].0))
    }

    /// Tensors of `rows` by `rest`.
    fn find<'p>(&'p self, parts: &'p [(String, usize)], rest: &[usize]) -> Result<Vec<Found<'p>>, LoadError> {
        let shape = |rows: usize| -> Vec<usize> { std::iter::once(rows).chain(rest.iter().copied()).collect() };
        parts.iter().map(|(name, rows)| self.files.find(name, &shape(*rows))).collect()
    }

    /// Tensors of `rows` by `rest`, below each other.
    fn stacked(&mut self, parts: &[(String, usize)], rest: &[usize]) -> Result<Tensor, LoadError> {
        let found = self.find(parts, rest)?;
        let rows = parts.iter().map(|(_, rows)| rows).sum();
        let shape: Vec<usize> = std::iter::once(rows).chain(rest.iter().copied()).collect();
        // The processor's kernels compute in f32, and what is multiplied number by number is small: norms and biases.
        let dtype = if self.device.is_cpu() && shape.len() == 1 { DType::F32 } else { self.form.dtype };
        // Rounded as they are read: neither host nor device ever holds more than what stays.
        let tensor = match dtype {
            DType::BF16 => Tensor::from_vec(numbers(&found, bf16::from_f32)?, shape, &Device::Cpu),
            DType::F16 => Tensor::from_vec(numbers(&found, f16::from_f32)?, shape, &Device::Cpu),
            _ => Tensor::from_vec(numbers(&found, |number| number)?, shape, &Device::Cpu),
        };
        let tensor = tensor.and_then(|tensor| tensor.to_device(self.device)).map_err(placing(&parts[0].0))?;
        // Matrices that are laid out for a unit are no tensors, and what is left is of no use without them.
        if self.form.tiles.is_none() {
            self.placed.push(Placed { tensor: tensor.clone(), parts: parts.to_vec() });
        }
        Ok(tensor)
    }
}

/// The numbers of tensors, one after the other, in another format.
fn numbers<T>(found: &[Found<'_>], format: impl Fn(f32) -> T) -> Result<Vec<T>, LoadError> {
    let mut all = Vec::with_capacity(found.iter().map(Found::count).sum());
    for part in found {
        part.read(|numbers| all.extend(numbers.iter().map(|number| format(*number))))?;
    }
    Ok(all)
}

fn placing(tensor: &str) -> impl Fn(candle_core::Error) -> LoadError + '_ {
    move |source| LoadError::Placement { tensor: tensor.to_owned(), source: source.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Dtype;
    use crate::model::Model;
    use crate::ops::Kernels;
    use std::path::Path;

    #[test]
    fn a_unit_gets_the_numbers_that_tensors_have() {
        let golden = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/golden"));
        for (case, dtype, parts) in
            [("qwen2", Dtype::Bf16, 1), ("phi3", Dtype::F32Fast, 2), ("llama-tied", Dtype::Bf16, 1)]
        {
            let tiles = Some((Unit::Emulated, parts));
            let load = |tiles| {
                Model::load_run_by(&golden.join(case), &[Device::Cpu], dtype, Residence::Device, tiles).unwrap()
            };
            let (plain, read) = (load(None), load(tiles));
            let of = |model: &Model| {
                let parameters = model.parameters();
                let layers =
                    parameters.layers.iter().flat_map(|layer| [&layer.qkv, &layer.output, &layer.gate_up, &layer.down]);
                layers.chain([&parameters.head]).cloned().collect::<Vec<_>>()
            };
            for (plain, read) in of(&plain).iter().zip(of(&read)) {
                let (outputs, inputs) = plain.weight().dims2().unwrap();
                let x = Tensor::arange(0.0f32, (3 * inputs) as f32, &Device::Cpu).unwrap();
                let x = x.sin().unwrap().reshape((3, inputs)).unwrap();
                let [want, got] = [plain.tiled(Unit::Emulated, parts).unwrap(), read].map(|linear| {
                    let out = Tensor::zeros((3, outputs), DType::F32, &Device::Cpu).unwrap();
                    linear.forward(Kernels::Cpu, &x, Some(out)).unwrap().to_vec2::<f32>().unwrap()
                });
                assert_eq!(got, want, "{case}");
            }
        }
    }
}
