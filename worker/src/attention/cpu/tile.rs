//! One tile: some queries of every head that reads the same keys, against all the keys they see.

use super::super::AttentionShape;
use super::block;
use crate::ops::bf16::widen;
use crate::ops::view::Heads;
use half::bf16;
use pulp::{Simd, WithSimd};
use std::ops::Deref;

/// Keys per block. Scores, queries and sums of a strip then stay in the first-level cache.
pub(super) const KEYS: usize = 64;

/// Keys or values of one head, one after the other.
#[derive(Clone, Copy)]
pub(super) struct Head<'a, T = f32> {
    data: &'a [T],
    dim: usize,
    count: usize,
}

/// The work: queries are replaced by their results.
pub(super) struct Tile<'a> {
    pub shape: &'a AttentionShape,
    pub parts: Vec<Part<'a>>,
    pub keys: Kept<'a>,
    pub values: Kept<'a>,
}

/// Keys or values of one head in the format in which they are kept.
#[derive(Clone, Copy)]
pub(super) enum Kept<'a> {
    F32(Head<'a>),
    Bf16(Head<'a, bf16>),
}

/// Queries of one head, one after the other.
pub(super) struct Part<'a> {
    /// Position of the first.
    pub position: usize,
    /// One row of `head_dim` numbers per query.
    pub queries: Vec<&'a mut [f32]>,
    /// One number per query for the logarithm of its sum; empty when it is not wanted.
    pub log_sums: &'a mut [f32],
}

// === impl Head ===

impl<'a, T> Head<'a, T> {
    /// The head with this index.
    pub fn new(of: Heads<'a, T>, index: usize) -> Self {
        Self { data: &of.data[index * of.stride..][..of.count * of.dim], dim: of.dim, count: of.count }
    }

    /// Rows `first..first + count`.
    #[inline(always)]
    pub fn rows(&self, first: usize, count: usize) -> std::slice::ChunksExact<'a, T> {
        self.data[first * self.dim..(first + count) * self.dim].chunks_exact(self.dim)
    }

    #[inline(always)]
    pub fn row(&self, index: usize) -> &'a [T] {
        &self.data[index * self.dim..][..self.dim]
    }
}

// === impl Kept ===

impl Kept<'_> {
    fn count(&self) -> usize {
        match self {
            Self::F32(head) => head.count,
            Self::Bf16(head) => head.count,
        }
    }

    /// The rows from `first` on, at most [`KEYS`] of them, in f32: where they lie, or widened into `room`.
    #[inline(always)]
    fn block<'r>(&'r self, first: usize, room: &'r mut Vec<f32>) -> Head<'r> {
        match self {
            Self::F32(head) => {
                let count = KEYS.min(head.count - first);
                Head { data: &head.data[first * head.dim..][..count * head.dim], dim: head.dim, count }
            }
            Self::Bf16(head) => {
                let count = KEYS.min(head.count - first);
                room.resize(count * head.dim, 0.0);
                widen(&head.data[first * head.dim..][..count * head.dim], room);
                Head { data: room, dim: head.dim, count }
            }
        }
    }
}

// === impl Tile ===

impl WithSimd for Tile<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // Accumulators fill the registers: 6 x 4 of 32, 6 x 2 of 16, with room for the operands.
        if S::REGISTER_COUNT >= 32 { self.run::<S, 4>(simd) } else { self.run::<S, 2>(simd) }
    }
}

impl Tile<'_> {
    /// Works in strips of `V` vectors of queries.
    #[inline(always)]
    fn run<S: Simd, const V: usize>(mut self, simd: S) {
        let width = V * S::F32_LANES;
        let pieces = self.parts.iter_mut().flat_map(|part| {
            let log_sums = part.log_sums.chunks_mut(width).chain(std::iter::repeat_with(Default::default));
            (part.position..).step_by(width).zip(part.queries.chunks_mut(width)).zip(log_sums)
        });
        let mut strips: Vec<_> = pieces
            .map(|((position, queries), log_sums)| Strip::<S, V>::new(simd, self.shape, position, queries, log_sums))
            .collect();
        let mut scores = [[simd.splat_f32s(0.0); V]; KEYS];
        // Keys outside, strips inside: a block is fetched once for all strips.
        let first = strips.iter().map(|strip| strip.first_key).min().unwrap_or(0);
        let (mut key_room, mut value_room) = (Vec::new(), Vec::new());
        for key in (first..self.keys.count()).step_by(KEYS) {
            let (keys, values) = (self.keys.block(key, &mut key_room), self.values.block(key, &mut value_room));
            for strip in strips.iter_mut().filter(|strip| (strip.first_key..strip.end_key()).contains(&key)) {
                let block = &mut scores[..KEYS.min(strip.end_key() - key)];
                block::scores(simd, &strip.queries, keys, 0, block);
                hide::<S, V>(block, key, strip.position, strip.rows.len(), self.shape.window);
                let correction = block::softmax(simd, block, &mut strip.max, &mut strip.total);
                block::accumulate(simd, block, values, 0, correction, &mut strip.sums);
            }
        }
        strips.iter_mut().for_each(Strip::finish);
    }
}

/// The numbers in a row of vectors.
#[inline(always)]
pub(super) fn lanes_of<S: Simd, const V: usize>(vectors: &mut [S::f32s; V]) -> &mut [f32] {
    pulp::bytemuck::cast_slice_mut(vectors.as_mut_slice())
}

/// Hides the keys from `key` on that a query must not see; of the queries the first stands at `position`. Only blocks at
/// the diagonal and at the window's edge have any.
#[inline(always)]
pub(super) fn hide<S: Simd, const V: usize>(
    block: &mut [[S::f32s; V]],
    key: usize,
    position: usize,
    queries: usize,
    window: Option<usize>,
) {
    let width = V * S::F32_LANES;
    let diagonal = key + block.len() > position + 1;
    // The last query sees no key below this one.
    let edge = window.map_or(0, |window| (position + queries).saturating_sub(window));
    if !diagonal && key >= edge {
        return;
    }
    for (key, lanes) in (key..).zip(block.iter_mut()) {
        let lanes = lanes_of::<S, V>(lanes);
        // Query `i` stands at `position + i`: keys above it are its future, keys a window below it are forgotten.
        lanes[..key.saturating_sub(position).min(width)].fill(f32::NEG_INFINITY);
        if let Some(window) = window {
            lanes[(key + window).saturating_sub(position).min(width)..].fill(f32::NEG_INFINITY);
        }
    }
}

/// Rows side by side, one per lane, times `factor`: one row of vectors per dimension.
#[inline(always)]
pub(super) fn transposed<S: Simd, const V: usize>(
    simd: S,
    rows: &[impl Deref<Target = [f32]>],
    dim: usize,
    factor: f32,
) -> Vec<[S::f32s; V]> {
    let mut vectors = vec![[simd.splat_f32s(0.0); V]; dim];
    // Row by row: the rows lie far apart, and going down them would miss the cache at every number.
    let lanes: &mut [f32] = pulp::bytemuck::cast_slice_mut(vectors.as_flattened_mut());
    for (lane, row) in rows.iter().enumerate() {
        for (column, number) in lanes.chunks_exact_mut(V * S::F32_LANES).zip(row.iter()) {
            column[lane] = number * factor;
        }
    }
    vectors
}

/// Queries side by side, one per lane, and what is known of their results so far.
struct Strip<'r, 'q, S: Simd, const V: usize> {
    /// The rows that the queries came from and the results go to.
    rows: &'r mut [&'q mut [f32]],
    /// Where the logarithms of their sums go; empty when they are not wanted.
    log_sums: &'r mut [f32],
    /// Position of the first query.
    position: usize,
    /// First key of the first block, a multiple of [`KEYS`]: blocks must not depend on the tile.
    first_key: usize,
    /// Transposed queries, `(head_dim, width)`, times scale and log2(e).
    queries: Vec<[S::f32s; V]>,
    /// Transposed weighted sums of values, `(head_dim, width)`.
    sums: Vec<[S::f32s; V]>,
    /// Largest score so far, in units of ln 2.
    max: [S::f32s; V],
    /// Sum of the weights, relative to `max`.
    total: [S::f32s; V],
}

// === impl Strip ===

impl<'r, 'q, S: Simd, const V: usize> Strip<'r, 'q, S, V> {
    #[inline(always)]
    fn new(
        simd: S,
        shape: &AttentionShape,
        position: usize,
        rows: &'r mut [&'q mut [f32]],
        log_sums: &'r mut [f32],
    ) -> Self {
        let zero = [simd.splat_f32s(0.0); V];
        let factor = (shape.scale() * std::f64::consts::LOG2_E) as f32;
        let queries = transposed(simd, rows, shape.head_dim, factor);
        Self {
            rows,
            log_sums,
            position,
            first_key: shape.first_key(position) / KEYS * KEYS,
            queries,
            sums: vec![zero; shape.head_dim],
            max: [simd.splat_f32s(f32::NEG_INFINITY); V],
            total: zero,
        }
    }

    /// The key after the last one that any query sees.
    fn end_key(&self) -> usize {
        self.position + self.rows.len()
    }

    #[inline(always)]
    fn finish(&mut self) {
        let totals = lanes_of::<S, V>(&mut self.total);
        let sums: &[f32] = pulp::bytemuck::cast_slice(self.sums.as_flattened());
        for (lane, row) in self.rows.iter_mut().enumerate() {
            let inverse = 1.0 / totals[lane];
            for (column, out) in sums.chunks_exact(V * S::F32_LANES).zip(row.iter_mut()) {
                *out = column[lane] * inverse;
            }
        }
        let lanes = lanes_of::<S, V>(&mut self.max).iter().zip(totals);
        for (log_sum, (max, total)) in self.log_sums.iter_mut().zip(lanes) {
            *log_sum = max + total.log2();
        }
    }
}
