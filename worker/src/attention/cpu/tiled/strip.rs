//! Queries of the heads that read the same keys, against all the keys they see, 32 queries at a time.

use super::super::tile::Part;
use super::softmax::{Room, State};
use crate::attention::AttentionShape;
use crate::simd::Arch;
use crate::tiles::packed::{Packed, Rows};
use crate::tiles::{BLOCK, DEPTH, STRIP, Session, Target, Unit};

/// Keys per block of scores. Scores, weights and sums of a strip then stay in a core's own cache.
pub(super) const KEYS: usize = 128;

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
    state: State,
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
        let mut room = Room::new(keys.parts());
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
            state: State::new(values.strips() * STRIP),
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
        self.state.take(arch, room, count);
        let columns = values.strips() * STRIP;
        for column in (0..columns).step_by(BLOCK) {
            let strip = column / STRIP;
            let mut target = Target { data: &mut self.state.sums[column..], stride: columns, add: true };
            let right = (values, [strip, strip + 1], key / DEPTH);
            session.multiply((&room.weights, 0), right, count / DEPTH, &mut target);
        }
    }

    /// Hides what a query must not see: keys above its position, and keys a window below it.
    fn hide(&self, window: Option<usize>, key: usize, count: usize, scores: &mut [f32]) {
        // The first query sees the fewest keys above a place, the last the fewest below it.
        let edge = window.map_or(0, |window| (self.position + BLOCK).saturating_sub(window));
        if key + count <= self.position + 1 && key >= edge {
            return;
        }
        for (row, scores) in scores.chunks_exact_mut(KEYS).enumerate() {
            let position = self.position + row;
            let end = (position + 1).saturating_sub(key).min(count);
            let begin = window.map_or(0, |window| (position + 1).saturating_sub(window + key)).min(count);
            scores[end..count].fill(f32::NEG_INFINITY);
            scores[..begin].fill(f32::NEG_INFINITY);
        }
    }

    fn finish(&mut self, dim: usize) {
        for (index, row) in self.rows.iter_mut().enumerate() {
            let (sums, total) = self.state.row(index);
            let inverse = 1.0 / total;
            row.iter_mut().zip(&sums[..dim]).for_each(|(out, sum)| *out = sum * inverse);
        }
    }
}
