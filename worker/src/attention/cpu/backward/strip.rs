//! A strip: queries side by side, one per lane, with all that is known of them.

use super::super::tile::{KEYS, lanes_of, transposed};
use super::{Input, padded};
use pulp::Simd;
use std::ops::Deref;

/// As many queries as `V` vectors have lanes; the last strip of a tile may have fewer rows.
pub(super) struct Strip<'r, 'g, S: Simd, const V: usize> {
    /// The rows that the gradients came from and those of the queries go to.
    pub rows: &'r mut [&'g mut [f32]],
    /// Position of the first query.
    pub position: usize,
    /// First key of the first block, a multiple of [`KEYS`].
    pub first_key: usize,
    /// Transposed queries, `(head_dim, width)`, times scale and log2(e).
    pub queries: Vec<[S::f32s; V]>,
    /// Transposed gradients of the result, `(head_dim, width)`.
    pub grads: Vec<[S::f32s; V]>,
    /// Queries as they are, rows of [`padded`] numbers.
    pub query_rows: Vec<S::f32s>,
    /// Gradients as they are, rows of [`padded`] numbers.
    pub grad_rows: Vec<S::f32s>,
    /// Logarithms of the sums of weights; infinite, so that all weights are 0, where there is no row.
    pub log_sums: [S::f32s; V],
    /// Products of results and gradients.
    pub dots: [S::f32s; V],
    /// Transposed gradients of the queries so far, `(head_dim, width)`, without the scale.
    pub sums: Vec<[S::f32s; V]>,
}

impl<'r, 'g, S: Simd, const V: usize> Strip<'r, 'g, S, V> {
    /// The strip of query `first` of a head and those after it, one for each of `rows`.
    #[inline(always)]
    pub fn new(simd: S, input: &Input<'_>, first: usize, head: usize, rows: &'r mut [&'g mut [f32]]) -> Self {
        let (shape, q) = (input.shape, input.q);
        let (dim, count) = (shape.head_dim, rows.len());
        let query = |row: usize| &q.data[row * q.stride + head * dim..][..dim];
        let queries: Vec<&[f32]> = (first..first + count).map(query).collect();
        let scale = (shape.scale() * std::f64::consts::LOG2_E) as f32;
        let position = input.k.count - q.count + first;
        let lanes = |numbers: &[f32], rest| {
            let mut vectors = [simd.splat_f32s(rest); V];
            lanes_of::<S, V>(&mut vectors)[..count].copy_from_slice(&numbers[head * q.count + first..][..count]);
            vectors
        };
        Self {
            position,
            first_key: shape.first_key(position) / KEYS * KEYS,
            queries: transposed(simd, &queries, dim, scale),
            grads: transposed(simd, rows, dim, 1.0),
            query_rows: padded_rows(simd, &queries, dim),
            grad_rows: padded_rows(simd, rows, dim),
            log_sums: lanes(input.saved.log_sums, f32::INFINITY),
            dots: lanes(input.saved.dots, 0.0),
            sums: vec![[simd.splat_f32s(0.0); V]; dim],
            rows,
        }
    }

    /// The key after the last one that any query sees.
    pub fn end_key(&self) -> usize {
        self.position + self.rows.len()
    }

    /// Replaces the rows by the gradients of the queries.
    #[inline(always)]
    pub fn finish(&mut self, scale: f32) {
        let sums: &[f32] = pulp::bytemuck::cast_slice(self.sums.as_flattened());
        for (lane, row) in self.rows.iter_mut().enumerate() {
            for (column, out) in sums.chunks_exact(V * S::F32_LANES).zip(row.iter_mut()) {
                *out = column[lane] * scale;
            }
        }
    }
}

/// Rows of `dim` numbers, each filled up with zeros to whole vectors.
#[inline(always)]
fn padded_rows<S: Simd>(simd: S, rows: &[impl Deref<Target = [f32]>], dim: usize) -> Vec<S::f32s> {
    let stride = padded(dim);
    let mut vectors = vec![simd.splat_f32s(0.0); rows.len() * stride / S::F32_LANES];
    let numbers: &mut [f32] = pulp::bytemuck::cast_slice_mut(&mut vectors);
    for (out, row) in numbers.chunks_exact_mut(stride).zip(rows) {
        out[..dim].copy_from_slice(row);
    }
    vectors
}
