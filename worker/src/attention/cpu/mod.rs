//! Streaming attention in f32 on the CPU. Keys and values may be kept in bf16: a block of them is widened once for all the
//! queries of a tile.
//!
//! The vectors run along the queries: a lane is a query. Scores of a block of keys are kept transposed,
//! `(keys, queries)`, so that maxima, sums and masks need no operation across lanes, and keys and values are read
//! where they lie, one broadcast number at a time, without packing. Work is split over key heads and tiles of queries;
//! what is computed for a query does not depend on its tile, so the result does not depend on the number of threads.

pub(crate) mod backward;
mod block;
mod tile;
pub(crate) mod tiled;

use super::AttentionShape;
use crate::ops::view::{Heads, Number, RowsMut, heads, rows_mut};
use crate::simd::{self, Arch};
use candle_core::{CpuStorage, InplaceOp3, Layout, Result, Tensor};
use rayon::prelude::*;
use std::sync::OnceLock;
use tile::{Head, Kept, Part, Tile};

/// Queries of a head are handed out in multiples of this, the widest strip of any instruction set.
const QUERIES: usize = 64;
/// Rows of queries, of all heads that share keys, that a thread works on at a time: so often is a block of keys used
/// once it has come into the cache.
const ROWS: usize = 256;

/// Replaces the queries `q` by the result of their attention over `k` and `v`.
///
/// All three are views of rows on the CPU, laid out as [`AttentionShape`] says, of f32 or, both keys and values, of bf16;
/// the rows of `q` may be part of wider ones.
///
/// # Errors
/// Candle's, when a tensor has another type or layout.
pub(crate) fn attention(shape: AttentionShape, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<()> {
    q.inplace_op3(k, v, &Attention { shape, log_sums: None })
}

/// The same, and what the backward pass needs of the softmax: for every head and query, `(heads, queries)`, the
/// logarithm of the sum of the exponentials of its scores, to base 2: `log2(sum_k 2^(log2(e) scale q·k))`.
///
/// # Errors
/// As [`attention`].
pub(crate) fn attention_with_log_sums(shape: AttentionShape, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Vec<f32>> {
    let op = Attention { shape, log_sums: Some(OnceLock::new()) };
    q.inplace_op3(k, v, &op)?;
    Ok(op.log_sums.and_then(OnceLock::into_inner).unwrap_or_default())
}

struct Attention {
    shape: AttentionShape,
    /// Where they go, when they are asked for.
    log_sums: Option<OnceLock<Vec<f32>>>,
}

impl InplaceOp3 for Attention {
    fn name(&self) -> &'static str {
        "streaming-attention"
    }

    fn cpu_fwd(
        &self,
        q: &mut CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<()> {
        let q = rows_mut(q, q_layout)?;
        match k {
            CpuStorage::BF16(_) => self.with(q, heads(k, k_layout)?, heads(v, v_layout)?, Kept::Bf16),
            _ => self.with(q, heads(k, k_layout)?, heads(v, v_layout)?, Kept::F32),
        }
    }
}

impl Attention {
    fn with<'a, T: Number>(
        &self,
        q: RowsMut<'_>,
        k: Heads<'a, T>,
        v: Heads<'a, T>,
        kept: impl Fn(Head<'a, T>) -> Kept<'a> + Sync,
    ) -> Result<()> {
        let shape = &self.shape;
        let of = |x: &Heads<'_, T>| (x.heads, x.count, x.dim);
        if q.width != shape.query_width() || of(&k) != (shape.kv_heads, k.count, shape.head_dim) || of(&v) != of(&k) {
            candle_core::bail!("{} columns of queries, keys {:?}, values {:?} for {shape:?}", q.width, of(&k), of(&v));
        }
        if q.count > k.count {
            candle_core::bail!("{} queries, but {} keys", q.count, k.count);
        }
        let mut log_sums = vec![0.0; if self.log_sums.is_some() { shape.heads * q.count } else { 0 }];
        let queries = q.data.chunks_mut(q.stride).map(|row| &mut row[..q.width]);
        let head = |x: Heads<'a, T>, index| kept(Head::new(x, index));
        run(simd::best(), shape, queries, (q.count, k.count), |index| [head(k, index), head(v, index)], &mut log_sums);
        if let Some(slot) = &self.log_sums {
            let _ = slot.set(log_sums);
        }
        Ok(())
    }
}

/// Runs the attention on these instructions; `queries` yields the `count` rows, and `head` the keys and values, `keys` of
/// each, of the key head with an index. `log_sums` is `(heads, count)`, or empty when nobody asks for them.
fn run<'q>(
    arch: Arch,
    shape: &AttentionShape,
    queries: impl Iterator<Item = &'q mut [f32]>,
    (count, keys): (usize, usize),
    head: impl Fn(usize) -> [Kept<'q>; 2] + Sync,
    log_sums: &'q mut [f32],
) {
    parts_of(shape, queries, (count, keys), log_sums).into_par_iter().enumerate().for_each(|(index, parts)| {
        let [keys, values] = head(index % shape.kv_heads);
        arch.dispatch(Tile { shape, parts, keys, values });
    });
}

/// Deals out the `count` queries, the last of which stands at the last of `keys` keys, in tiles: for each run of rows one
/// for every key head, of the queries of all heads that read it. `log_sums` as in [`run`].
fn parts_of<'q>(
    shape: &AttentionShape,
    queries: impl Iterator<Item = &'q mut [f32]>,
    (count, keys): (usize, usize),
    log_sums: &'q mut [f32],
) -> Vec<Vec<Part<'q>>> {
    let first = keys - count;
    let wanted = (ROWS / shape.group()).max(QUERIES) / QUERIES * QUERIES;
    // Enough tiles for all threads. Their size does not change what is computed for a query.
    let even = (count * shape.kv_heads / (4 * rayon::current_num_threads())).next_multiple_of(QUERIES);
    let queries_per_tile = wanted.min(even).max(QUERIES);

    let mut log_sums: Vec<_> = log_sums.chunks_mut(count).map(|head| head.chunks_mut(queries_per_tile)).collect();
    let mut tiles: Vec<Vec<Part<'_>>> = Vec::new();
    for (row, query) in queries.enumerate() {
        if row % queries_per_tile == 0 {
            let mut log_sums = log_sums.iter_mut();
            let mut part = || Part {
                position: first + row,
                queries: Vec::with_capacity(queries_per_tile),
                log_sums: log_sums.next().and_then(Iterator::next).unwrap_or_default(),
            };
            tiles.extend((0..shape.kv_heads).map(|_| (0..shape.group()).map(|_| part()).collect()));
        }
        let begin = tiles.len() - shape.kv_heads;
        let parts = tiles[begin..].iter_mut().flatten();
        for (part, query) in parts.zip(query.chunks_exact_mut(shape.head_dim)) {
            part.queries.push(query);
        }
    }
    tiles
}

#[cfg(test)]
mod tests;
