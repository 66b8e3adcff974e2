//! What a sequence needs on its way through the decoder: the buffers that layers share, and for the way there and back the
//! hidden states of all tokens.

use super::Model;
use super::key_values::KeyValues;
use crate::cost::VOCABULARY_BLOCK;
use crate::device::Dtype;
use crate::ledger;
use crate::ops::Kernels;
use crate::ops::bf16::{narrow_rows, widen_rows};
use crate::ops::linear::gated;
use crate::tiles::aligned::LINE;
use candle_core::{CpuStorage, DType, Device, Module, Result, Storage, Tensor};

/// A sequence on its way through a model that is whole, in chunks of tokens, all of which are held.
pub(crate) struct Pass<'m> {
    model: &'m Model,
    /// Hidden states, `(tokens, hidden)`, one tensor per chunk, in the model's number format.
    pub chunks: Vec<Tensor>,
    pub cache: KeyValues,
    pub workspace: Workspace,
}

/// Buffers for one chunk that are written over and over on the CPU; no buffers on other devices.
pub(crate) struct Workspace {
    pub kernels: Kernels,
    buffers: Option<Buffers>,
}

struct Buffers {
    /// Hidden states that are kept in bf16, widened; none where they are kept in f32.
    hidden: Option<Tensor>,
    normed: Tensor,
    qkv: Tensor,
    /// None where gate and up are never written out.
    gate_up: Option<Tensor>,
    logits: Tensor,
    /// Bytes that threads hold on their own while they compute gate and up.
    scratch: usize,
}

/// Zeros, `(rows, width)` in f32, that begin with a cache line on the CPU: a matrix unit writes whole lines.
fn rows_from_a_line(rows: usize, width: usize, device: &Device) -> Result<Tensor> {
    let spare = LINE / size_of::<f32>();
    let all = Tensor::zeros(rows * width + spare, DType::F32, device)?;
    let begin = match &*all.storage_and_layout().0 {
        Storage::Cpu(CpuStorage::F32(numbers)) => numbers.as_ptr().align_offset(LINE).min(spare),
        _ => 0,
    };
    all.narrow(0, begin, rows * width)?.reshape((rows, width))
}

// === impl Pass ===

impl<'m> Pass<'m> {
    /// Embeds `tokens`, all of them ids of the vocabulary, in chunks of `chunk` tokens.
    pub fn new(model: &'m Model, tokens: &[u32], chunk: usize) -> Result<Self> {
        let embed = |ids: &[u32]| {
            let ids = Tensor::from_slice(ids, ids.len(), model.device())?;
            model.parameters.embedding.forward(&ids)
        };
        let chunks = tokens.chunks(chunk).map(embed).collect::<Result<_>>()?;
        let cache = KeyValues::new(model, model.device(), tokens.len())?;
        let workspace = Workspace::new(model, chunk.min(tokens.len()))?;
        Ok(Self { model, chunks, cache, workspace })
    }

    /// Number of chunks.
    pub fn chunks(&self) -> usize {
        self.chunks.len()
    }

    /// Runs one layer over one chunk. Layers are run in order, and for each of them all chunks in order.
    pub fn advance(&mut self, layer: usize, chunk: usize, rotation: (&Tensor, &Tensor)) -> Result<()> {
        if chunk == 0 {
            self.cache.clear();
        }
        let (model, kept) = (self.model, &self.chunks[chunk]);
        let layer = &model.parameters.layers[layer];
        let x = self.workspace.opened(kept)?;
        let x = layer.forward(&model.spec, x, rotation, &mut self.cache, &self.workspace)?;
        self.chunks[chunk] = self.workspace.kept(x, kept)?;
        Ok(())
    }
}

// === impl Workspace ===

impl Workspace {
    pub fn new(model: &Model, chunk: usize) -> Result<Self> {
        Self::on(model.device(), model, chunk)
    }

    /// The same on another of the model's devices.
    pub fn on(device: &Device, model: &Model, chunk: usize) -> Result<Self> {
        let spec = &model.spec;
        let buffer = |width: usize| rows_from_a_line(chunk, width, device);
        let parts = model.tiles.map(|(_, parts)| parts).filter(|_| gated::applies(spec));
        let buffers = match model.kernels {
            Kernels::Cpu => Some(Buffers {
                hidden: (model.dtype == Dtype::Bf16).then(|| buffer(spec.hidden)).transpose()?,
                normed: buffer(spec.hidden)?,
                qkv: buffer(spec.query_width() + 2 * spec.key_width())?,
                gate_up: parts.is_none().then(|| buffer(2 * spec.intermediate)).transpose()?,
                logits: buffer(spec.vocab.min(VOCABULARY_BLOCK))?,
                scratch: parts.map_or(0, |parts| gated::scratch_bytes(spec, chunk, parts)),
            }),
            _ => None,
        };
        Ok(Self { kernels: model.kernels, buffers })
    }

    /// What it takes.
    pub fn bytes(&self) -> u64 {
        let of = |all: &Buffers| {
            let some = [&all.hidden, &all.gate_up].into_iter().flatten();
            some.chain([&all.normed, &all.qkv, &all.logits]).map(ledger::bytes).sum::<u64>() + all.scratch as u64
        };
        self.buffers.as_ref().map_or(0, of)
    }

    /// Hidden states as the kernels take them, from how they are kept: on the CPU in f32. What is overwritten is a buffer
    /// or, where it is f32 already, `kept` itself.
    pub fn opened(&self, kept: &Tensor) -> Result<Tensor> {
        match self.rows(kept.dim(0)?, |buffers| buffers.hidden.as_ref())? {
            Some(x) => widen_rows(kept, &x).map(|()| x),
            None => Ok(kept.clone()),
        }
    }

    /// The reverse: `x` as it is kept, written over `kept` where that has another format.
    pub fn kept(&self, x: Tensor, kept: &Tensor) -> Result<Tensor> {
        if x.dtype() == kept.dtype() {
            return Ok(x);
        }
        narrow_rows(&x, kept)?;
        Ok(kept.clone())
    }

    /// Room for normalised hidden states, `(tokens, hidden)`.
    pub fn normed(&self, tokens: usize) -> Result<Option<Tensor>> {
        self.rows(tokens, |buffers| Some(&buffers.normed))
    }

    /// Room for queries, keys and values, `(tokens, query width + 2 key widths)`.
    pub fn qkv(&self, tokens: usize) -> Result<Option<Tensor>> {
        self.rows(tokens, |buffers| Some(&buffers.qkv))
    }

    /// Room for gate and up, `(tokens, 2 intermediate)`, where they are written out.
    pub fn gate_up(&self, tokens: usize) -> Result<Option<Tensor>> {
        self.rows(tokens, |buffers| buffers.gate_up.as_ref())
    }

    /// Room for a block of logits, `(tokens, width)`.
    pub fn logits(&self, tokens: usize, width: usize) -> Result<Option<Tensor>> {
        self.rows(tokens, |buffers| Some(&buffers.logits))?.map(|rows| rows.narrow(1, 0, width)).transpose()
    }

    fn rows(&self, tokens: usize, buffer: impl Fn(&Buffers) -> Option<&Tensor>) -> Result<Option<Tensor>> {
        self.buffers.as_ref().and_then(buffer).map(|buffer| buffer.narrow(0, 0, tokens)).transpose()
    }
}
