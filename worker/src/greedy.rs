//! Greedy decoding: the likeliest token, again and again, with the keys and values of all layers kept.
//!
//! An evaluation goes layer by layer and keeps one layer's keys and values. Decoding goes token by token, so it keeps
//! those of every layer: memory grows with the depth too. [`crate::counted`] tells by one pass whether decoding would
//! give an answer; this gives the answer.

use crate::cancel::CancelFlag;
use crate::cost::{Load, Memory, VOCABULARY_BLOCK};
use crate::model::{KeyValues, Model, Workspace};
use crate::ops::rms_norm::rms_norm;
use crate::perplexity::{self, EvalError};
use crate::rope_table::RopeTable;
use candle_core::{DType, Module, Result, Tensor};
use ropewalk_shared::rope::{AngleRule, Rescale};

/// Bytes that decoding takes beside the weights when prompt and answer have the load's tokens.
pub fn bytes(load: Load<'_>) -> u64 {
    let memory = Memory::of(load);
    memory.keys_values * load.spec.layers() as u64 + memory.buffers
}

/// Decodes `count` tokens after `prompt` under `rescale`, on the current thread pool. The prompt goes through in chunks of
/// `chunk` tokens; of tokens that are equally likely the one with the smallest id is taken.
///
/// Where no likelihood is a number, decoding ends, with fewer tokens than asked for.
///
/// # Errors
/// As [`perplexity::evaluate`]; prompts of one token are none.
pub fn decode(
    model: &Model,
    rescale: &Rescale,
    (prompt, count): (&[u32], usize),
    chunk: usize,
    cancel: &CancelFlag,
    progress: &mut dyn FnMut(f32),
) -> std::result::Result<Vec<u32>, EvalError> {
    perplexity::check(model, prompt)?;
    if !model.is_whole() {
        return Err(EvalError::NotWhole);
    }
    let rule = AngleRule::new(&model.description().geometry, rescale)?;
    let (total, chunk) = (prompt.len() + count, chunk.clamp(1, prompt.len()));
    let device = |error| EvalError::device(error, total);
    let mut decoder = Decoder::new(model, total, chunk).map_err(device)?;
    let mut done = 0;
    let mut step = |tokens: usize| {
        progress(done as f32 / total as f32);
        done += tokens;
        if cancel.is_cancelled() { Err(EvalError::Cancelled) } else { Ok(()) }
    };

    let mut table = RopeTable::new(rule.clone(), prompt.len(), chunk, model.device());
    let mut last = None;
    for (index, tokens) in prompt.chunks(chunk).enumerate() {
        step(tokens.len())?;
        let rotation = table.rotation(index).map_err(device)?;
        last = Some(decoder.advance(tokens, (&rotation.0, &rotation.1)).map_err(device)?);
    }
    // From here on a chunk is a token.
    let mut table = RopeTable::new(rule, total, 1, model.device());
    let mut answer = Vec::with_capacity(count);
    while let Some(x) = last.take() {
        let likeliest = decoder.likeliest(&x).map_err(device)?;
        answer.extend(likeliest);
        if let Some(token) = likeliest
            && answer.len() < count
        {
            step(1)?;
            let rotation = table.rotation(prompt.len() + answer.len() - 1).map_err(device)?;
            last = Some(decoder.advance(&[token], (&rotation.0, &rotation.1)).map_err(device)?);
        }
    }
    answer.truncate(count);
    progress(1.0);
    Ok(answer)
}

/// A sequence so far, as keys and values.
struct Decoder<'m> {
    model: &'m Model,
    caches: Vec<KeyValues>,
    workspace: Workspace,
}

impl<'m> Decoder<'m> {
    fn new(model: &'m Model, tokens: usize, chunk: usize) -> Result<Self> {
        let cache = |_| KeyValues::new(model, model.device(), tokens);
        let caches = (0..model.spec().layers()).map(cache).collect::<Result<_>>()?;
        Ok(Self { model, caches, workspace: Workspace::new(model, chunk)? })
    }

    /// Adds tokens to the sequence, and returns the hidden state of the last, `(1, hidden)`.
    fn advance(&mut self, tokens: &[u32], rotation: (&Tensor, &Tensor)) -> Result<Tensor> {
        let (parameters, spec) = (self.model.parameters(), self.model.spec());
        let ids = Tensor::from_slice(tokens, tokens.len(), self.model.device())?;
        let mut x = parameters.embedding.forward(&ids)?;
        for (layer, cache) in parameters.layers.iter().zip(&mut self.caches) {
            let opened = self.workspace.opened(&x)?;
            x = self.workspace.kept(layer.forward(spec, opened, rotation, cache, &self.workspace)?, &x)?;
        }
        x.narrow(0, tokens.len() - 1, 1)
    }

    /// The token of highest likelihood after a hidden state; none where no likelihood is a number.
    fn likeliest(&self, x: &Tensor) -> Result<Option<u32>> {
        let (parameters, spec, kernels) = (self.model.parameters(), self.model.spec(), self.workspace.kernels);
        let x =
            rms_norm(kernels, &self.workspace.opened(x)?, &parameters.norm, spec.norm_eps, self.workspace.normed(1)?)?;
        let mut best: Option<(f32, u32)> = None;
        for first in (0..spec.vocab).step_by(VOCABULARY_BLOCK) {
            let width = VOCABULARY_BLOCK.min(spec.vocab - first);
            let logits = parameters.logits(kernels, &x, (first, width), self.workspace.logits(1, width)?)?;
            let logits = logits.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
            for (logit, id) in logits.into_iter().zip(first as u32..) {
                // One that is no number makes every likelihood none.
                if logit.is_nan() {
                    return Ok(None);
                }
                if best.is_none_or(|(highest, _)| logit > highest) {
                    best = Some((logit, id));
                }
            }
        }
        Ok(best.map(|(_, id)| id))
    }
}
