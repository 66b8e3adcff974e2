//! What a gradient takes in memory.

use crate::attention::AttentionShape;
use crate::attention::cpu::backward::key_gradient_bytes;
use crate::cost::{Format, Load, Memory, product_bytes};
use crate::device::Dtype;
use crate::model::config::DecoderSpec;

/// Results of attention are kept from the forward pass while those of all layers take at most this much; of longer
/// documents they are computed again, at the price of a third of the attention.
const KEPT_BYTES: usize = 2 << 30;
/// Logits held at a time take at most this much, or those of [`LEAST_ROWS`] tokens: of a whole chunk up to a vocabulary
/// of 65,536.
const LOGITS_BYTES: usize = 128 << 20;
/// Fewer make the product with the head slow.
const LEAST_ROWS: usize = 64;

/// How much is held to save work; does not change what comes out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Results of attention are kept from the forward pass.
    pub keep_attended: bool,
    /// Tokens whose logits are held at a time.
    pub logit_rows: usize,
}

impl Limits {
    pub fn of(spec: &DecoderSpec, tokens: usize) -> Self {
        let logit_rows = (LOGITS_BYTES / (spec.vocab * size_of::<f32>())).max(LEAST_ROWS);
        Self { keep_attended: attended_bytes(spec, tokens) <= KEPT_BYTES, logit_rows }
    }
}

/// Bytes that a gradient takes beside the weights: what an [evaluation](crate::cost::Memory) takes, and for each token
///
/// ```text
/// 4 (layers hidden + 2 hidden + 2 (query width + 2 key width) + 2 heads)     hidden states, one layer's rows, sums
/// 4 layers (query width + heads)                                             results of attention, if kept
/// 8 padded head dim max(32, key heads)                                       gradients of keys by unit, at most
/// ```
///
/// and what the library of products holds.
pub fn bytes(spec: &DecoderSpec, chunk_tokens: usize, tokens: usize) -> u64 {
    let (chunk, limits) = (chunk_tokens.min(tokens), Limits::of(spec, tokens));
    let rows = spec.query_width() + 2 * spec.key_width();
    let per_token = spec.layers() * spec.hidden + 2 * spec.hidden + 2 * rows + 2 * spec.heads;
    let buffers = chunk * (6 * spec.hidden + 2 * spec.query_width() + 3 * spec.intermediate)
        + chunk.min(limits.logit_rows) * (spec.vocab + spec.hidden);
    let shape = AttentionShape { heads: spec.heads, kv_heads: spec.kv_heads, head_dim: spec.head_dim, window: None };
    let attended = if limits.keep_attended { attended_bytes(spec, tokens) } else { 0 };
    let numbers = tokens * per_token + buffers;
    let own = numbers * size_of::<f32>() + key_gradient_bytes(&shape, tokens) + attended;
    let load = Load { spec, format: Format::on(true, Dtype::F32), chunk_tokens, tokens };
    Memory::of(load).evaluation() + own as u64 + product_bytes(spec, spec.vocab)
}

/// The longest document whose gradient takes no more than `limit` bytes beside the weights, to within a few percent.
pub fn max_tokens(spec: &DecoderSpec, chunk_tokens: usize, limit: u64) -> usize {
    // The need grows with the length but for a step down where results of attention are no longer kept.
    let (mut low, mut step) = (0, 1 << 32);
    while step > 0 {
        if bytes(spec, chunk_tokens, low + step) <= limit {
            low += step;
        }
        step /= 2;
    }
    low
}

fn attended_bytes(spec: &DecoderSpec, tokens: usize) -> usize {
    spec.layers() * tokens * (spec.query_width() + spec.heads) * size_of::<f32>()
}
