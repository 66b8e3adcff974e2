//! What an evaluation costs, from the model's configuration alone: bytes and floating-point operations.
//!
//! ```text
//! memory = weights + tokens x (hidden state + keys and values of one layer) + what a chunk needs + the program
//!        + what is kept of the first layer for the next candidates of the same samples
//! work   = tokens x linear layers + sum over queries of the keys they see
//! ```

mod weights;

use crate::attention::gpu_block;
use crate::device::Dtype;
use crate::model::config::DecoderSpec;
use crate::ops::linear::gated;
use crate::rope_table;
use weights::{TILE, layer_products};

pub use weights::{Format, layer_weights, weight_bytes, weights};
pub(crate) use weights::{ends_bytes, layer_bytes};

/// Logits held at a time, per token of a chunk: part of the vocabulary.
pub(crate) const VOCABULARY_BLOCK: usize = 4096;

/// Tokens that go through a layer at a time on the CPU: what a core's cache holds, and more are no faster.
const CPU_CHUNK: usize = 512;
/// On a GPU: few tokens leave most of it idle, and beyond so many nothing is gained (measured on an H200, 4k to 64k tokens).
const GPU_CHUNK: usize = 2048;

/// Bytes that may be kept of the first layer for the next candidates, unless an evaluator is told otherwise.
pub const SHARED_BYTES: u64 = 256 << 20;
/// What the program itself takes of the host's memory: code, threads, tokenizer, and what the allocator holds back.
/// Measured; a GPU's driver takes some hundred MiB of the device's, which are not counted.
const PROGRAM_BYTES: u64 = 17 << 20;
/// The same of a program that drives a GPU, on the host.
const GPU_PROGRAM_BYTES: u64 = 23 << 20;
/// Inputs of a right factor that the library of f32 products lays out at a time, at most.
const PRODUCT_INPUTS: usize = 512;
/// What it lays out of the left factor: about a core's second-level cache.
const PRODUCT_BYTES: usize = 2 << 20;

/// What is evaluated: documents of some length, in chunks, by a model.
#[derive(Clone, Copy, Debug)]
pub struct Load<'a> {
    /// The model.
    pub spec: &'a DecoderSpec,
    /// How its numbers are kept.
    pub format: Format,
    /// Tokens that go through a layer at a time.
    pub chunk_tokens: usize,
    /// Tokens of a document.
    pub tokens: usize,
}

/// Bytes that one evaluation needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// The model's weights, once.
    pub weights: u64,
    /// Hidden states of the whole sequence.
    pub hidden_states: u64,
    /// Keys and values of one layer for the whole sequence.
    pub keys_values: u64,
    /// Token ids, rotation tables and the buffers of a chunk.
    pub buffers: u64,
    /// Queries, keys and values of the first layer that are kept for the next candidates. The allocator may hold freed
    /// memory beside them, as much as half of all again.
    pub shared: u64,
    /// The program itself, with what its library of products holds.
    pub program: u64,
}

/// Floating-point operations of one evaluation; a multiplication and an addition are two.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// Projections, feed-forward blocks and output head.
    pub linear: f64,
    /// Scores and weighted sums of the attention, of visible keys only.
    pub attention: f64,
}

/// Tokens that go through a layer at a time, on the CPU or on a GPU, unless an evaluator is told otherwise.
pub fn chunk_tokens(cpu: bool) -> usize {
    if cpu { CPU_CHUNK } else { GPU_CHUNK }
}

// === impl Memory ===

impl Memory {
    /// Of one evaluation with everything on the device.
    pub fn of(load: Load<'_>) -> Self {
        let Load { spec, format, tokens, .. } = load;
        let (number, chunk) = (format.dtype.bytes(), load.chunk_tokens.min(tokens));
        let table = rope_table::bytes(spec.rotary_dim / 2, tokens, chunk);
        Self {
            weights: weight_bytes(spec, format),
            hidden_states: (tokens * spec.hidden * number) as u64,
            keys_values: keys_values_bytes(spec, format, tokens),
            buffers: (tokens * size_of::<u32>() + table) as u64 + chunk_buffers(load),
            shared: 0,
            program: match format {
                Format { cpu: false, .. } => GPU_PROGRAM_BYTES,
                Format { parts: Some(_), .. } => PROGRAM_BYTES,
                _ => PROGRAM_BYTES + product_bytes(spec, spec.vocab.min(VOCABULARY_BLOCK)),
            },
        }
    }

    /// The same where candidates are evaluated on so many samples like the load's again and again.
    #[must_use]
    pub fn sharing(self, load: Load<'_>, samples: usize) -> Self {
        let wanted = first_layer_bytes(load.spec, load.format, load.tokens).saturating_mul(samples as u64);
        Self { shared: wanted.min(SHARED_BYTES), ..self }
    }

    /// What one evaluation needs beside weights and program and what is kept for others.
    pub fn evaluation(&self) -> u64 {
        self.hidden_states + self.keys_values + self.buffers
    }

    /// Everything.
    pub fn total(&self) -> u64 {
        self.weights + self.evaluation() + self.shared + self.program
    }
}

/// Bytes of the buffers that a chunk of `n` tokens needs on its way, with numbers of `e` bytes:
///
/// ```text
/// CPU        4 n (hidden + query width + 2 key width + 2 intermediate + logits), 4 n hidden more where e is 2;
///            on a matrix unit, where gate and up stay in the caches, these in place of 2 intermediate
/// GPU        the largest of
///   attention      e n (2 query width + 3 key width) + r (c (4 + e) + head dim (2 e + 4) + 8)
///   feed-forward   e n (2 query width + 3 key width + 2 hidden + 3 intermediate)
///   head           e n 2 hidden + 4 n logits
/// ```
///
/// with `r` rows, the queries of all heads, and blocks of `c` keys. The CPU computes in f32 and writes over the same buffers
/// again and again; on a GPU they come and go, and FlashAttention needs less.
pub(crate) fn chunk_buffers(load: Load<'_>) -> u64 {
    let Load { spec, tokens, .. } = load;
    let Format { dtype, cpu, parts } = load.format;
    let (n, e) = (load.chunk_tokens.min(tokens), dtype.bytes());
    let (queries, keys, logits) = (spec.query_width(), spec.key_width(), spec.vocab.min(VOCABULARY_BLOCK));
    if cpu {
        let widened = if dtype == Dtype::Bf16 { spec.hidden } else { 0 };
        let gates = match parts {
            Some(parts) if gated::applies(spec) => gated::scratch_bytes(spec, n, parts),
            _ => 4 * n * 2 * spec.intermediate,
        };
        return (4 * n * (spec.hidden + queries + 2 * keys + logits + widened) + gates) as u64;
    }
    let rows = spec.heads * n;
    let scores = rows * (gpu_block(rows, tokens) * (4 + e) + spec.head_dim * (2 * e + 4) + 8);
    let attention = e * n * (2 * queries + 3 * keys);
    let feed_forward = e * n * (2 * spec.hidden + 3 * spec.intermediate);
    let head = e * n * 2 * spec.hidden + 4 * n * logits;
    (attention + scores.max(feed_forward)).max(head) as u64
}

/// Bytes that the library of f32 products holds on the CPU, at most, where so many logits are computed at a time: with a large
/// last-level cache it lays out its right factor whole.
pub(crate) fn product_bytes(spec: &DecoderSpec, logits: usize) -> u64 {
    let widest = logits.max(2 * spec.intermediate).max(spec.query_width() + 2 * spec.key_width());
    (PRODUCT_BYTES + size_of::<f32>() * spec.hidden.min(PRODUCT_INPUTS) * widest) as u64
}

/// Bytes of the first layer's queries, keys and values for a sequence. On the processor they are what is computed with.
pub(crate) fn first_layer_bytes(spec: &DecoderSpec, format: Format, tokens: usize) -> u64 {
    format.vector_bytes((tokens * (spec.query_width() + 2 * spec.key_width())) as u64)
}

/// Bytes of the keys and values of one layer for a sequence: two matrices for each head.
pub(crate) fn keys_values_bytes(spec: &DecoderSpec, format: Format, tokens: usize) -> u64 {
    2 * spec.kv_heads as u64 * format.matrix_bytes([tokens, spec.head_dim])
}

/// What one token more takes, in bytes, in sequences about as long as this: hidden state, keys and values, id, and its row
/// of the rotation tables where those are kept.
pub fn bytes_per_token(spec: &DecoderSpec, format: Format, tokens: usize) -> u64 {
    let pairs = spec.rotary_dim / 2;
    let tables = if rope_table::is_kept(pairs, tokens) { rope_table::bytes_per_token(pairs) } else { 0 };
    // A matrix unit's layout has no smaller part than a tile of tokens.
    let keys_values = keys_values_bytes(spec, format, TILE) / TILE as u64;
    keys_values + (spec.hidden * format.dtype.bytes() + size_of::<u32>() + tables) as u64
}

/// The longest document whose evaluation takes no more than `bytes` beside the weights, to within a few percent.
pub fn max_tokens(load: Load<'_>, bytes: u64) -> usize {
    longest(|tokens| Memory::of(Load { tokens, ..load }).evaluation() <= bytes)
}

/// The longest document that fits. The need grows with the length but for one step down where tables are no longer kept,
/// so doubling and halving finds a length that does.
pub(crate) fn longest(fits: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut step) = (0, 1 << 32);
    while step > 0 {
        if fits(low + step) {
            low += step;
        }
        step /= 2;
    }
    low
}

// === impl Work ===

impl Work {
    /// Of a sequence of `tokens` tokens.
    pub fn of(spec: &DecoderSpec, tokens: usize) -> Self {
        let products = spec.layers() as u64 * layer_products(spec) + (spec.vocab * spec.hidden) as u64;
        let keys: f64 = spec.windows.iter().map(|window| visible_keys(tokens, *window)).sum();
        Self { linear: 2.0 * products as f64 * tokens as f64, attention: 4.0 * spec.query_width() as f64 * keys }
    }

    /// Everything.
    pub fn total(&self) -> f64 {
        self.linear + self.attention
    }
}

/// Keys that all queries of a sequence see together, each itself included.
fn visible_keys(tokens: usize, window: Option<usize>) -> f64 {
    let window = window.unwrap_or(tokens).min(tokens) as f64;
    let tokens = tokens as f64;
    // The first `window` queries see 1, 2, … keys, the others `window` each.
    window * (window + 1.0) / 2.0 + (tokens - window) * window
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::placement::Placement;

    /// LLaMA2-7B, as its paper and its config.json describe it.
    pub(crate) fn llama2_7b() -> DecoderSpec {
        let config = serde_json::json!({
            "model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008,
            "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
            "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
        });
        DecoderSpec::from_config_json(&config.to_string()).unwrap()
    }

    fn load(spec: &DecoderSpec, tokens: usize) -> Load<'_> {
        Load { spec, format: Format::on(false, Dtype::Bf16), chunk_tokens: 512, tokens }
    }

    #[test]
    fn buffers_are_counted_by_hand() {
        let mut spec = llama2_7b();
        let of = |spec: &DecoderSpec, dtype, cpu, chunk_tokens, tokens| {
            chunk_buffers(Load { spec, format: Format { dtype, cpu, parts: None }, chunk_tokens, tokens })
        };
        // f32: normalised states, queries, keys and values, gate and up, logits; in bf16 the widened states too.
        assert_eq!(of(&spec, Dtype::F32, true, 512, 9999), 4 * 512 * (4 * 4096 + 2 * 11008 + 4096));
        assert_eq!(of(&spec, Dtype::F32Fast, true, 512, 9999), 4 * 512 * (4 * 4096 + 2 * 11008 + 4096));
        assert_eq!(of(&spec, Dtype::Bf16, true, 512, 9999), 4 * 512 * (4 * 4096 + 2 * 11008 + 2 * 4096));
        assert_eq!(of(&spec, Dtype::F32, true, 512, 100), 4 * 100 * (4 * 4096 + 2 * 11008 + 4096));
        // On a matrix unit: rows, what comes of them, and two panels of 32 columns in f32.
        let format = Format { dtype: Dtype::Bf16, cpu: true, parts: Some(1) };
        let tiled = chunk_buffers(Load { spec: &spec, format, chunk_tokens: 512, tokens: 9999 });
        assert_eq!(tiled, 4 * 512 * (4 * 4096 + 2 * 4096) + 512 * (2 * (4096 + 11008) + 4 * 2 * 32));
        // 65,536 rows of 256 scores (f32) and weights (bf16), three rows of a head, maxima and sums.
        let attention = 2 * 2048 * 5 * 4096 + 65_536 * (256 * (4 + 2) + 128 * (2 + 2 + 4) + 4 + 4);
        let feed_forward = 2 * 2048 * (5 * 4096 + 2 * 4096 + 3 * 11008);
        assert!(feed_forward > attention);
        assert_eq!(of(&spec, Dtype::Bf16, false, 2048, 9999), feed_forward);
        spec.intermediate = 4096;
        assert_eq!(of(&spec, Dtype::Bf16, false, 2048, 9999), attention);
        assert_eq!(of(&spec, Dtype::F16, false, 2048, 9999), attention);
        // Never more keys than there are.
        let few = 2 * 100 * 5 * 4096 + 3200 * (100 * (4 + 2) + 128 * (2 + 2 + 4) + 4 + 4);
        assert_eq!(of(&spec, Dtype::Bf16, false, 2048, 100), few);
        (spec.hidden, spec.intermediate, spec.heads, spec.kv_heads) = (256, 256, 1, 1);
        assert_eq!(of(&spec, Dtype::F32, false, 2048, 9999), 4 * 2048 * 2 * 256 + 4 * 2048 * 4096);
    }

    #[test]
    fn llama2_7b_has_its_published_number_of_parameters() {
        assert_eq!(weights(&llama2_7b()), 6_738_415_616);
    }

    #[test]
    fn visible_keys_are_counted_one_by_one() {
        for (tokens, window) in [(1, None), (9, None), (9, Some(1)), (9, Some(4)), (9, Some(9)), (9, Some(100))] {
            let by_hand: usize = (0..tokens).map(|query| (query + 1).min(window.unwrap_or(tokens))).sum();
            assert_eq!(visible_keys(tokens, window), by_hand as f64, "{tokens} {window:?}");
        }
    }

    #[test]
    fn memory_grows_by_hidden_state_keys_and_values_alone() {
        let spec = llama2_7b();
        let at = |tokens| Memory::of(load(&spec, tokens));
        let per_token = (at(1 << 21).total() - at(1 << 20).total()) as f64 / (1 << 20) as f64;
        // 4,096 numbers of hidden state, 2 x 4,096 of keys and values, 2 bytes each, and a token id.
        assert!((per_token - (3.0 * 4096.0 * 2.0 + 4.0)).abs() < 1.0, "{per_token}");
        let format = load(&spec, 0).format;
        assert_eq!(bytes_per_token(&spec, format, 1 << 20), 3 * 4096 * 2 + 4);
        // Tables that are kept have 64 cosines and 64 sines for each token.
        let shorter = (at(1 << 18).total() - at(1 << 17).total()) as f64 / f64::from(1 << 17);
        assert_eq!(bytes_per_token(&spec, format, 1 << 17) as f64, shorter);
        assert_eq!(shorter, 3.0 * 4096.0 * 2.0 + 4.0 + 512.0);
    }

    #[test]
    fn keys_and_values_take_what_was_predicted() {
        use crate::attention::cpu::tiled::TiledKeyValues;
        use crate::tiles::Unit;
        for (head_dim, parts, per_token) in [(16, 1, 512), (64, 1, 1024), (100, 1, 2048), (100, 2, 4096)] {
            let spec = DecoderSpec { head_dim, kv_heads: 4, rotary_dim: 0, hidden: 0, ..llama2_7b() };
            let format = Format { dtype: Dtype::Bf16, cpu: true, parts: Some(parts) };
            for tokens in [1, 31, 32, 33, 1000] {
                let held = TiledKeyValues::new(Unit::Emulated, spec.kv_heads, head_dim, tokens, parts);
                let load = Load { spec: &spec, format, chunk_tokens: 512, tokens };
                let memory = Memory::of(load).keys_values;
                assert_eq!(memory, held.bytes(), "{tokens} tokens of {head_dim}");
                assert_eq!(Placement::RESIDENT.need(load).keys_values, memory);
            }
            // By hand: 4 heads of as many whole tiles, keys and values, 2 bytes in each part.
            assert_eq!(bytes_per_token(&spec, format, 1000), per_token + 4, "{head_dim}");
        }
        let spec = DecoderSpec { head_dim: 100, kv_heads: 4, ..llama2_7b() };
        let plain = Format { dtype: Dtype::Bf16, cpu: true, parts: None };
        assert_eq!(keys_values_bytes(&spec, plain, 33), 33 * 2 * 400 * 2);
    }

    #[test]
    fn what_is_kept_of_the_first_layer_is_f32_on_the_processor() {
        let spec = llama2_7b();
        let of = |cpu| {
            let load = Load { format: Format { cpu, ..load(&spec, 0).format }, ..load(&spec, 100) };
            Memory::of(load).sharing(load, 3).shared
        };
        assert_eq!([false, true].map(of), [3 * 100 * 3 * 4096 * 2, 3 * 100 * 3 * 4096 * 4]);
    }

    #[test]
    fn the_longest_document_is_the_longest_that_fits() {
        let spec = llama2_7b();
        let longest = max_tokens(load(&spec, 0), 60 << 30);
        let need = |tokens| Memory::of(load(&spec, tokens)).evaluation();
        assert!(need(longest) <= 60 << 30 && need(longest + longest / 10) > 60 << 30, "{longest}");
    }
}
