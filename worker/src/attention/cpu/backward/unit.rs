//! One unit: a range of the queries of every head that reads the same keys, against all the keys they see.

use super::super::block as forward;
use super::super::tile::{Head, KEYS, hide};
use super::strip::Strip;
use super::{Input, Wanted, block, padded};
use pulp::{Simd, WithSimd};
use std::ops::Range;

/// The work: rows of the gradient of the result are replaced by those of the queries.
pub(super) struct Unit<'a> {
    pub input: &'a Input<'a>,
    pub keys: Head<'a>,
    pub values: Head<'a>,
    /// The keys that any of its queries sees.
    pub key_range: Range<usize>,
    /// One part for each head of the group.
    pub tiles: Vec<Vec<Part<'a>>>,
}

/// Queries of one head, one after the other.
pub(super) struct Part<'a> {
    /// Index of the first.
    pub first: usize,
    pub head: usize,
    pub grads: Vec<&'a mut [f32]>,
}

/// The gradients of a unit's keys and values: rows of [`padded`] numbers, values absent if not wanted.
#[derive(Debug)]
pub(super) struct UnitGradients {
    pub key_range: Range<usize>,
    /// Still to be multiplied by the scale of the scores.
    pub keys: Vec<f32>,
    pub values: Vec<f32>,
}

impl<'a> Part<'a> {
    pub fn with_capacity(queries: usize) -> Self {
        Self { first: 0, head: 0, grads: Vec::with_capacity(queries) }
    }

    pub fn push(&mut self, query: usize, head: usize, grad: &'a mut [f32]) {
        if self.grads.is_empty() {
            (self.first, self.head) = (query, head);
        }
        self.grads.push(grad);
    }
}

impl WithSimd for Unit<'_> {
    type Output = UnitGradients;

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) -> UnitGradients {
        let stride = padded(self.input.shape.head_dim);
        let numbers = self.key_range.len() * stride;
        let values = if self.input.wanted == Wanted::KeysAndValues { numbers } else { 0 };
        let mut out =
            UnitGradients { key_range: self.key_range.clone(), keys: vec![0.0; numbers], values: vec![0.0; values] };
        for mut tile in std::mem::take(&mut self.tiles) {
            if self.input.cancel.is_cancelled() {
                break;
            }
            // As many accumulators as there are registers for, as in the forward pass.
            if S::REGISTER_COUNT >= 32 {
                self.tile::<S, 4>(simd, &mut tile, &mut out);
            } else {
                self.tile::<S, 2>(simd, &mut tile, &mut out);
            }
        }
        out
    }
}

impl Unit<'_> {
    /// Works in strips of `V` vectors of queries.
    #[inline(always)]
    fn tile<S: Simd, const V: usize>(&self, simd: S, parts: &mut [Part<'_>], out: &mut UnitGradients) {
        let (input, width) = (self.input, V * S::F32_LANES);
        // Loops, not closures: those are not compiled for these instructions.
        let mut strips = Vec::new();
        for part in parts {
            for (first, rows) in (part.first..).step_by(width).zip(part.grads.chunks_mut(width)) {
                strips.push(Strip::<S, V>::new(simd, input, first, part.head, rows));
            }
        }
        let stride = padded(input.shape.head_dim) / S::F32_LANES;
        let (key_grads, _) = S::as_mut_simd_f32s(&mut out.keys);
        let (value_grads, _) = S::as_mut_simd_f32s(&mut out.values);
        let mut weights = [[simd.splat_f32s(0.0); V]; KEYS];
        let mut grads = weights;
        // Keys outside, strips inside: a block and its gradients are fetched once for all strips.
        let first = strips.iter().map(|strip| strip.first_key).min().unwrap_or(0);
        for key in (first..self.key_range.end).step_by(KEYS) {
            for strip in strips.iter_mut().filter(|strip| (strip.first_key..strip.end_key()).contains(&key)) {
                let count = KEYS.min(strip.end_key() - key);
                let (weights, grads) = (&mut weights[..count], &mut grads[..count]);
                let rows = (key - out.key_range.start) * stride..(key + count - out.key_range.start) * stride;

                forward::scores(simd, &strip.queries, self.keys, key, weights);
                hide::<S, V>(weights, key, strip.position, strip.rows.len(), input.shape.window);
                block::weights(simd, weights, &strip.log_sums);
                if let Some(value_grads) = value_grads.get_mut(rows.clone()) {
                    block::add_keys(simd, weights, &strip.grad_rows, value_grads, stride);
                }
                forward::scores(simd, &strip.grads, self.values, key, grads);
                block::score_grads(simd, weights, grads, &strip.dots);
                let one = [simd.splat_f32s(1.0); V];
                forward::accumulate(simd, weights, self.keys, key, one, &mut strip.sums);
                block::add_keys(simd, weights, &strip.query_rows, &mut key_grads[rows], stride);
            }
        }
        for strip in &mut strips {
            strip.finish(input.shape.scale() as f32);
        }
    }
}
