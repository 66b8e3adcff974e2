//! Queries of the heads that read the same keys, against all the keys they see, 32 queries at a time.

use super::super::tile::Part;
use crate::attention::AttentionShape;
use crate::simd::{Arch, exp2};
use crate::tiles::aligned::Aligned;
use crate::tiles::packed::{Packed, Rows};
use crate::tiles::{BLOCK, DEPTH, STRIP, Session, Target, Unit};
use pulp::{Simd, WithSimd};

/// Keys per block of scores. Scores, weights and sums of a strip then stay in a core's own cache.
const KEYS: usize = 128;

/// The work: queries are replaced by their results.
pub(super) struct Tile<'a> {
    pub shape: &'a AttentionShape,
    pub parts: Vec<Part<'a>>,
    pub keys: &'a Packed,
    pub values: &'a Packed,
}

/// [`BLOCK`] queries at most, and what is known of their results so far.
struct Strip<'r, 'q> {
    rows: &'r mut [&'q mut [f32]],
    /// Position of the first query.
    position: usize,
    /// First key of the first block, a multiple of [`KEYS`].
    first_key: usize,
    /// Times scale and log2(e).
    queries: Rows,
    /// Weighted sums of values, `(BLOCK, columns)`.
    sums: Aligned<f32>,
    /// Largest score so far, in units of ln 2.
    max: [f32; BLOCK],
    /// Sum of the weights, relative to `max`.
    total: [f32; BLOCK],
}

/// Scratch of one strip and one block of keys.
struct Room {
    /// `(BLOCK, KEYS)`
    scores: Aligned<f32>,
    weights: Rows,
}

// === impl Tile ===

impl Tile<'_> {
    /// Computes products on `unit` and everything else on these instructions.
    pub fn run(mut self, arch: Arch, unit: Unit) {
        let (shape, keys, values) = (self.shape, self.keys, self.values);
        let pieces =
            self.parts.iter_mut().flat_map(|part| (part.position..).step_by(BLOCK).zip(part.queries.chunks_mut(BLOCK)));
        let mut strips: Vec<_> =
            pieces.map(|(position, rows)| Strip::new(arch, shape, position, rows, keys, values)).collect();
        let mut room = Room { scores: Aligned::zeros(BLOCK * KEYS), weights: Rows::default() };
        room.weights.clear(keys.parts(), BLOCK, KEYS / DEPTH);
        let first = strips.iter().map(|strip| strip.first_key).min().unwrap_or(0);
        let end = strips.iter().map(Strip::end_key).max().unwrap_or(0);
        unit.session(|session| {
            // Keys outside, strips inside: a block is fetched once for all strips.
            for key in (first..end).step_by(KEYS) {
                for strip in strips.iter_mut().filter(|strip| (strip.first_key..strip.end_key()).contains(&key)) {
                    strip.step(arch, session, shape, (keys, values), key, &mut room);
                }
            }
        });
        strips.iter_mut().for_each(|strip| strip.finish(shape.head_dim));
    }
}

// === impl Strip ===

impl<'r, 'q> Strip<'r, 'q> {
    fn new(
        arch: Arch,
        shape: &AttentionShape,
        position: usize,
        rows: &'r mut [&'q mut [f32]],
        keys: &Packed,
        values: &Packed,
    ) -> Self {
        let factor = (shape.scale() * std::f64::consts::LOG2_E) as f32;
        let mut queries = Rows::default();
        queries.clear(keys.parts(), BLOCK, keys.steps());
        arch.dispatch(|| rows.iter().enumerate().for_each(|(row, query)| queries.write(row, query, factor)));
        Self {
            rows,
            position,
            first_key: shape.first_key(position) / KEYS * KEYS,
            queries,
            sums: Aligned::zeros(BLOCK * values.strips() * STRIP),
            max: [f32::NEG_INFINITY; BLOCK],
            total: [0.0; BLOCK],
        }
    }

    /// The key after the last one that any query sees.
    fn end_key(&self) -> usize {
        self.position + self.rows.len()
    }

    /// Takes in the keys and values of the block that begins with `key`.
    fn step(
        &mut self,
        arch: Arch,
        session: &Session,
        shape: &AttentionShape,
        (keys, values): (&Packed, &Packed),
        key: usize,
        room: &mut Room,
    ) {
        // Keys past the last that is seen fill up the blocks, and are hidden.
        let count = (self.end_key() - key).min(KEYS).next_multiple_of(BLOCK);
        for column in (0..count).step_by(BLOCK) {
            let strip = (key + column) / STRIP;
            let mut target = Target { data: &mut room.scores[column..], stride: KEYS, add: false };
            session.multiply((&self.queries, 0), (keys, [strip, strip + 1], 0), keys.steps(), &mut target);
        }
        self.hide(shape.window, key, count, &mut room.scores);
        let correction = arch.dispatch(Softmax {
            scores: &mut room.scores,
            count,
            weights: &mut room.weights,
            max: &mut self.max,
            total: &mut self.total,
        });
        let columns = values.strips() * STRIP;
        // The largest score rarely changes after the first blocks.
        if correction.iter().any(|correction| *correction != 1.0) {
            arch.dispatch(|| {
                for (sums, correction) in self.sums.chunks_exact_mut(columns).zip(correction) {
                    sums.iter_mut().for_each(|sum| *sum *= correction);
                }
            });
        }
        for column in (0..columns).step_by(BLOCK) {
            let strip = column / STRIP;
            let mut target = Target { data: &mut self.sums[column..], stride: columns, add: true };
            let right = (values, [strip, strip + 1], key / DEPTH);
            session.multiply((&room.weights, 0), right, count / DEPTH, &mut target);
        }
    }

    /// Hides what a query must not see: keys above its position, and keys a window below it.
    fn hide(&self, window: Option<usize>, key: usize, count: usize, scores: &mut [f32]) {
        for (row, scores) in scores.chunks_exact_mut(KEYS).enumerate() {
            let position = self.position + row;
            let end = (position + 1).saturating_sub(key).min(count);
            let begin = window.map_or(0, |window| (position + 1).saturating_sub(window + key)).min(count);
            scores[end..count].fill(f32::NEG_INFINITY);
            scores[..begin].fill(f32::NEG_INFINITY);
        }
    }

    fn finish(&mut self, dim: usize) {
        let columns = self.sums.len() / BLOCK;
        for ((row, sums), total) in self.rows.iter_mut().zip(self.sums.chunks_exact(columns)).zip(self.total) {
            let inverse = 1.0 / total;
            row.iter_mut().zip(&sums[..dim]).for_each(|(out, sum)| *out = sum * inverse);
        }
    }
}

/// Turns the first `count` scores of every row into weights relative to the new maximum, and returns what everything
/// before must be multiplied by.
struct Softmax<'a> {
    scores: &'a mut [f32],
    count: usize,
    weights: &'a mut Rows,
    max: &'a mut [f32; BLOCK],
    total: &'a mut [f32; BLOCK],
}

impl WithSimd for Softmax<'_> {
    type Output = [f32; BLOCK];

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> [f32; BLOCK] {
        let mut correction = [0.0; BLOCK];
        for (row, scores) in self.scores.chunks_exact_mut(KEYS).enumerate() {
            // Whole vectors: a multiple of 32 numbers.
            let (vectors, _) = S::as_mut_simd_f32s(&mut scores[..self.count]);
            let mut max = simd.splat_f32s(f32::NEG_INFINITY);
            for x in vectors.iter() {
                max = simd.max_f32s(*x, max);
            }
            let (old, highest) = (self.max[row], simd.reduce_max_f32s(max));
            // A query that has seen no key yet has no maximum; any finite number serves, its weights are all 0.
            let new = if highest > old { highest } else { old }.max(f32::MIN);
            let shift = simd.splat_f32s(new);
            let mut sum = simd.splat_f32s(0.0);
            for x in vectors.iter_mut() {
                *x = exp2(simd, simd.sub_f32s(*x, shift));
                sum = simd.add_f32s(sum, *x);
            }
            correction[row] = simd.reduce_max_f32s(exp2(simd, simd.splat_f32s(old - new)));
            self.total[row] = self.total[row] * correction[row] + simd.reduce_sum_f32s(sum);
            self.max[row] = new;
            self.weights.write(row, &scores[..self.count], 1.0);
        }
        correction
    }
}
