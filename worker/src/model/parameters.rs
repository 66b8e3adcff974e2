//! The weights of a decoder on its device, brought into one form: one projection for queries, keys and values, one for
//! gate and up, whatever the files hold.

use super::LoadError;
use super::config::DecoderSpec;
use super::layer::Layer;
use super::weights::WeightFiles;
use crate::ledger;
use crate::ops::Kernels;
use crate::ops::linear::Linear;
use crate::ops::rotate::HeadNorm;
use crate::placement::Residence;
use crate::tiles::Unit;
use candle_core::{DType, Device, Tensor};
use candle_transformers::models::with_tracing::Embedding;

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
        dtype: DType,
        layers: Residence,
    ) -> Result<Self, LoadError> {
        let mut reader = Reader { files, device: &devices[0], dtype, placed: Vec::new() };
        let vocab = [spec.vocab, spec.hidden];
        let embedding = reader.tensor("model.embed_tokens.weight", &vocab)?;
        let here = if layers == Residence::Device { spec.layers() } else { 0 };
        let mut layer = |index: usize| {
            reader.device = &devices[index % devices.len()];
            load_layer(&mut reader, spec, index)
        };
        let layers = (0..here).map(&mut layer).collect::<Result<_, _>>()?;
        reader.device = &devices[0];
        let norm = reader.tensor("model.norm.weight", &[spec.hidden])?;
        let head = if spec.tied { embedding.clone() } else { reader.tensor("lm_head.weight", &vocab)? };
        let embedding = Embedding::from_weights(embedding).map_err(placing("model.embed_tokens.weight"))?;
        let bytes = reader.placed.iter().map(|placed| ledger::bytes(&placed.tensor)).sum();
        Ok(Self { embedding, layers, norm, head: Linear::new(head, None), placed: reader.placed, bytes })
    }

    /// The same for a matrix unit: matrices are laid out for it, split into so many parts.
    pub fn tiled(self, unit: Unit, parts: usize) -> candle_core::Result<Self> {
        // They would keep every matrix alive beside its packed form until all are packed.
        drop(self.placed);
        let layers = self.layers.into_iter().map(|layer| layer.tiled(unit, parts));
        let layers = layers.collect::<candle_core::Result<Vec<_>>>()?;
        let head = self.head.tiled(unit, parts)?;
        let bytes = ledger::bytes(self.embedding.embeddings()) + layers.iter().map(Layer::bytes).sum::<u64>();
        let bytes = bytes + head.bytes() + ledger::bytes(&self.norm);
        Ok(Self { layers, head, placed: Vec::new(), bytes, ..self })
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
        dtype: DType,
        index: usize,
    ) -> Result<Layer, LoadError> {
        load_layer(&mut Reader { files, device, dtype, placed: Vec::new() }, spec, index)
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
    let name = |part: &str| format!("model.layers.{index}.{part}");
    let (queries, keys) = (spec.query_width(), spec.key_width());
    let (qkv, gate_up): (Vec<_>, Vec<_>) = if spec.fused_tensors {
        let qkv = vec![(name("self_attn.qkv_proj"), queries + 2 * keys)];
        (qkv, vec![(name("mlp.gate_up_proj"), 2 * spec.intermediate)])
    } else {
        let part = |part: &str, width| (name(&format!("self_attn.{part}_proj")), width);
        let gate_up = ["mlp.gate_proj", "mlp.up_proj"].map(|part| (name(part), spec.intermediate));
        (vec![part("q", queries), part("k", keys), part("v", keys)], gate_up.to_vec())
    };
    let mut head_norm = |part: &str| -> Result<Option<HeadNorm>, LoadError> {
        if !spec.head_norm {
            return Ok(None);
        }
        let name = name(&format!("self_attn.{part}_norm.weight"));
        let weight = reader.tensor(&name, &[spec.head_dim])?;
        Ok(Some(HeadNorm { weight, eps: spec.norm_eps }))
    };
    let (query_norm, key_norm) = (head_norm("q")?, head_norm("k")?);
    let output = [(name("self_attn.o_proj"), spec.hidden)];
    let down = [(name("mlp.down_proj"), spec.hidden)];
    Ok(Layer {
        input_norm: reader.tensor(&name("input_layernorm.weight"), &[spec.hidden])?,
        qkv: reader.linear(&qkv, spec.hidden, spec.qkv_bias)?,
        query_norm,
        key_norm,
        output: reader.linear(&output, queries, spec.output_bias)?,
        mlp_norm: reader.tensor(&name("post_attention_layernorm.weight"), &[spec.hidden])?,
        gate_up: reader.linear(&gate_up, spec.hidden, spec.mlp_bias)?,
        down: reader.linear(&down, spec.intermediate, spec.mlp_bias)?,
        window: spec.windows[index],
    })
}

/// Places tensors of the files on the device.
struct Reader<'a> {
    files: &'a WeightFiles,
    device: &'a Device,
    dtype: DType,
    placed: Vec<Placed>,
}

impl Reader<'_> {
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, LoadError> {
        self.stacked(&[(name.to_owned(), shape[0])], &shape[1..])
    }

    /// Projections of the same input as one.
    fn linear(&mut self, parts: &[(String, usize)], inputs: usize, bias: bool) -> Result<Linear, LoadError> {
        let named =
            |suffix: &str| -> Vec<_> { parts.iter().map(|(name, rows)| (format!("{name}.{suffix}"), *rows)).collect() };
        let weight = self.stacked(&named("weight"), &[inputs])?;
        let bias = bias.then(|| self.stacked(&named("bias"), &[])).transpose()?;
        Ok(Linear::new(weight, bias))
    }

    /// Tensors of `rows` by `rest`, below each other.
    fn stacked(&mut self, parts: &[(String, usize)], rest: &[usize]) -> Result<Tensor, LoadError> {
        // Not reserved up front: a configuration may lie about sizes, the tensors in the files cannot.
        let mut data = Vec::new();
        for (name, rows) in parts {
            let shape: Vec<usize> = std::iter::once(*rows).chain(rest.iter().copied()).collect();
            self.files.read(name, &shape, &mut data)?;
        }
        let rows = parts.iter().map(|(_, rows)| rows).sum();
        let shape: Vec<usize> = std::iter::once(rows).chain(rest.iter().copied()).collect();
        data.shrink_to_fit();
        // The processor's kernels compute in f32, and what is multiplied number by number is small: norms and biases.
        let dtype = if self.device.is_cpu() && shape.len() == 1 { DType::F32 } else { self.dtype };
        // Rounded here: the device never holds more than what stays.
        let place = || Tensor::from_vec(data, shape, &Device::Cpu)?.to_dtype(dtype)?.to_device(self.device);
        let tensor = place().map_err(placing(&parts[0].0))?;
        self.placed.push(Placed { tensor: tensor.clone(), parts: parts.to_vec() });
        Ok(tensor)
    }
}

fn placing(tensor: &str) -> impl Fn(candle_core::Error) -> LoadError + '_ {
    move |source| LoadError::Placement { tensor: tensor.to_owned(), source: source.into() }
}
