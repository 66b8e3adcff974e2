//! Exact causal attention of a chunk of queries over all keys so far, without ever holding a matrix of scores.
//!
//! ```text
//! out_q = sum_k softmax_k(scale * q·k) v_k        over keys k with q - window < k <= q
//! ```
//!
//! Keys and values are visited in blocks with a running maximum and sum (online softmax), so memory does not grow with
//! the product of the lengths. Query head `h` reads key head `h / (heads / kv_heads)` (grouped queries).
//! [`mod@reference`] is the definition in f64, `cpu` the kernel for the processor, `tensor` the same algorithm in
//! candle operations for every other device; on NVIDIA GPUs `choice` says which kernel it is.

#[cfg(any(test, feature = "cuda"))]
pub(crate) mod choice;
pub(crate) mod cpu;
pub mod reference;
pub(crate) mod tensor;

use crate::ops::Kernels;
use candle_core::{Result, Tensor};

/// Attention of the queries `q` over `k` and `v`, laid out as [`AttentionShape`] says. On the CPU `q` is overwritten and
/// returned.
pub(crate) fn attention(kernels: Kernels, shape: AttentionShape, q: Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    match kernels {
        Kernels::Cpu => cpu::attention(shape, &q, k, v).map(|()| q),
        Kernels::Tensor => tensor::attention(shape, &q, k, v),
        #[cfg(feature = "cuda")]
        Kernels::Cuda => crate::cuda::attention(shape, &q, k, v),
    }
}

/// Keys that are visited at a time where attention is streaming, as on GPUs without a better one, for so many rows (queries of all heads): as many
/// as 64 MiB of scores in f32 have room for.
pub(crate) fn gpu_block(rows: usize, keys: usize) -> usize {
    const SCORES: usize = 1 << 24;
    (SCORES / rows.max(1)).clamp(128, 1024).min(keys)
}

/// Shape of one attention call.
///
/// Queries are `(chunk, heads * head_dim)`, heads side by side in a row; keys and values `(kv_heads, keys, head_dim)`.
/// The last query stands at the position of the last key: query `i` has position `keys - chunk + i`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Dimensions of a head.
    pub head_dim: usize,
    /// How many keys a query sees at most, itself included; all before it when absent.
    pub window: Option<usize>,
}

impl AttentionShape {
    /// Factor on the scores, `1 / sqrt(head_dim)`.
    pub fn scale(&self) -> f64 {
        1.0 / (self.head_dim as f64).sqrt()
    }

    /// Query heads that share one key head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Width of a row of queries.
    pub fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// First key that the query at `position` sees.
    pub fn first_key(&self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }
}
