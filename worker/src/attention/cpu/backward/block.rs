//! The steps of a block of keys that the forward pass does not have, for a strip of `V` vectors of queries.

use crate::simd::exp2;
use pulp::Simd;

/// Rows of accumulators held in registers.
const ROWS: usize = 6;

/// Turns scores into weights: `2^(score - log_sum)`.
#[inline(always)]
pub(super) fn weights<S: Simd, const V: usize>(simd: S, block: &mut [[S::f32s; V]], log_sums: &[S::f32s; V]) {
    for row in block {
        for v in 0..V {
            row[v] = exp2(simd, simd.sub_f32s(row[v], log_sums[v]));
        }
    }
}

/// Turns weights into gradients of the scores: `weight * (grad - dot)`, with the gradients of the weights.
#[inline(always)]
pub(super) fn score_grads<S: Simd, const V: usize>(
    simd: S,
    weights: &mut [[S::f32s; V]],
    grads: &[[S::f32s; V]],
    dots: &[S::f32s; V],
) {
    for (weights, grads) in weights.iter_mut().zip(grads) {
        for v in 0..V {
            weights[v] = simd.mul_f32s(weights[v], simd.sub_f32s(grads[v], dots[v]));
        }
    }
}

/// `out[j] += sum_q block[j][q] * rows[q]`, where rows and `out` have `stride` vectors a row.
#[inline(always)]
pub(super) fn add_keys<S: Simd, const V: usize>(
    simd: S,
    block: &[[S::f32s; V]],
    rows: &[S::f32s],
    out: &mut [S::f32s],
    stride: usize,
) {
    let mut column = 0;
    while column + V <= stride {
        columns::<S, V, V>(simd, block, rows, out, stride, column);
        column += V;
    }
    while column < stride {
        columns::<S, V, 1>(simd, block, rows, out, stride, column);
        column += 1;
    }
}

/// `C` columns of vectors from `column` on, for all keys.
#[inline(always)]
fn columns<S: Simd, const V: usize, const C: usize>(
    simd: S,
    block: &[[S::f32s; V]],
    rows: &[S::f32s],
    out: &mut [S::f32s],
    stride: usize,
    column: usize,
) {
    let mut groups = block.chunks_exact(ROWS);
    let mut outs = out.chunks_exact_mut(ROWS * stride);
    for (weights, out) in (&mut groups).zip(&mut outs) {
        add_rows::<S, V, C, ROWS>(simd, weights, rows, out, stride, column);
    }
    let (weights, out) = (groups.remainder(), outs.into_remainder());
    match weights.len() {
        1 => add_rows::<S, V, C, 1>(simd, weights, rows, out, stride, column),
        2 => add_rows::<S, V, C, 2>(simd, weights, rows, out, stride, column),
        3 => add_rows::<S, V, C, 3>(simd, weights, rows, out, stride, column),
        4 => add_rows::<S, V, C, 4>(simd, weights, rows, out, stride, column),
        5 => add_rows::<S, V, C, 5>(simd, weights, rows, out, stride, column),
        _ => {}
    }
}

#[inline(always)]
fn add_rows<S: Simd, const V: usize, const C: usize, const R: usize>(
    simd: S,
    weights: &[[S::f32s; V]],
    rows: &[S::f32s],
    out: &mut [S::f32s],
    stride: usize,
    column: usize,
) {
    let queries = rows.len() / stride;
    let weights: [&[f32]; R] = std::array::from_fn(|r| &pulp::bytemuck::cast_slice(weights[r].as_slice())[..queries]);
    let mut sums = [[simd.splat_f32s(0.0); C]; R];
    for r in 0..R {
        sums[r].copy_from_slice(&out[r * stride + column..][..C]);
    }
    for (query, row) in rows.chunks_exact(stride).enumerate() {
        let row = &row[column..column + C];
        for r in 0..R {
            let weight = simd.splat_f32s(weights[r][query]);
            for c in 0..C {
                sums[r][c] = simd.mul_add_e_f32s(row[c], weight, sums[r][c]);
            }
        }
    }
    for r in 0..R {
        out[r * stride + column..][..C].copy_from_slice(&sums[r]);
    }
}
