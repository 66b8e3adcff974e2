//! The three steps of a block of keys, for a strip of `V` vectors of queries.

use super::tile::Head;
use crate::simd::exp2;
use pulp::Simd;

/// Rows of accumulators held in registers.
const ROWS: usize = 6;

/// `block[j] = queries · keys[key + j]`, transposed: one row per key, one lane per query.
#[inline(always)]
pub(super) fn scores<S: Simd, const V: usize>(
    simd: S,
    queries: &[[S::f32s; V]],
    keys: Head<'_>,
    mut key: usize,
    block: &mut [[S::f32s; V]],
) {
    let mut groups = block.chunks_exact_mut(ROWS);
    for out in &mut groups {
        score_rows::<S, V, ROWS>(simd, queries, keys, key, out);
        key += ROWS;
    }
    let rest = groups.into_remainder();
    match rest.len() {
        1 => score_rows::<S, V, 1>(simd, queries, keys, key, rest),
        2 => score_rows::<S, V, 2>(simd, queries, keys, key, rest),
        3 => score_rows::<S, V, 3>(simd, queries, keys, key, rest),
        4 => score_rows::<S, V, 4>(simd, queries, keys, key, rest),
        5 => score_rows::<S, V, 5>(simd, queries, keys, key, rest),
        _ => {}
    }
}

#[inline(always)]
fn score_rows<S: Simd, const V: usize, const R: usize>(
    simd: S,
    queries: &[[S::f32s; V]],
    keys: Head<'_>,
    key: usize,
    out: &mut [[S::f32s; V]],
) {
    let rows: [&[f32]; R] = std::array::from_fn(|r| &keys.row(key + r)[..queries.len()]);
    let mut sums = [[simd.splat_f32s(0.0); V]; R];
    for (d, query) in queries.iter().enumerate() {
        for r in 0..R {
            let number = simd.splat_f32s(rows[r][d]);
            for v in 0..V {
                sums[r][v] = simd.mul_add_e_f32s(query[v], number, sums[r][v]);
            }
        }
    }
    out.copy_from_slice(&sums);
}

/// Turns scores into weights relative to the new maximum, and returns what everything before must be multiplied by.
#[inline(always)]
pub(super) fn softmax<S: Simd, const V: usize>(
    simd: S,
    block: &mut [[S::f32s; V]],
    max: &mut [S::f32s; V],
    total: &mut [S::f32s; V],
) -> [S::f32s; V] {
    let mut new = *max;
    for row in block.iter() {
        for v in 0..V {
            new[v] = simd.max_f32s(row[v], new[v]);
        }
    }
    // A query that has seen no key yet has no maximum; any finite number serves, its weights are all 0.
    let lowest = simd.splat_f32s(f32::MIN);
    let mut correction = *max;
    for v in 0..V {
        new[v] = simd.max_f32s(new[v], lowest);
        correction[v] = exp2(simd, simd.sub_f32s(max[v], new[v]));
        total[v] = simd.mul_f32s(total[v], correction[v]);
    }
    for row in block.iter_mut() {
        for v in 0..V {
            row[v] = exp2(simd, simd.sub_f32s(row[v], new[v]));
            total[v] = simd.add_f32s(total[v], row[v]);
        }
    }
    *max = new;
    correction
}

/// `sums[d] = sums[d] * correction + sum_j block[j] * values[key + j][d]`
#[inline(always)]
pub(super) fn accumulate<S: Simd, const V: usize>(
    simd: S,
    block: &[[S::f32s; V]],
    values: Head<'_>,
    key: usize,
    correction: [S::f32s; V],
    sums: &mut [[S::f32s; V]],
) {
    let mut d = 0;
    let mut groups = sums.chunks_exact_mut(ROWS);
    for out in &mut groups {
        accumulate_rows::<S, V, ROWS>(simd, block, values, key, correction, d, out);
        d += ROWS;
    }
    let rest = groups.into_remainder();
    match rest.len() {
        1 => accumulate_rows::<S, V, 1>(simd, block, values, key, correction, d, rest),
        2 => accumulate_rows::<S, V, 2>(simd, block, values, key, correction, d, rest),
        3 => accumulate_rows::<S, V, 3>(simd, block, values, key, correction, d, rest),
        4 => accumulate_rows::<S, V, 4>(simd, block, values, key, correction, d, rest),
        5 => accumulate_rows::<S, V, 5>(simd, block, values, key, correction, d, rest),
        _ => {}
    }
}

#[inline(always)]
fn accumulate_rows<S: Simd, const V: usize, const R: usize>(
    simd: S,
    block: &[[S::f32s; V]],
    values: Head<'_>,
    key: usize,
    correction: [S::f32s; V],
    d: usize,
    out: &mut [[S::f32s; V]],
) {
    let mut sums = [correction; R];
    for r in 0..R {
        for v in 0..V {
            sums[r][v] = simd.mul_f32s(out[r][v], correction[v]);
        }
    }
    for (weights, row) in block.iter().zip(values.rows(key, block.len())) {
        let row = &row[d..d + R];
        for r in 0..R {
            let number = simd.splat_f32s(row[r]);
            for v in 0..V {
                sums[r][v] = simd.mul_add_e_f32s(weights[v], number, sums[r][v]);
            }
        }
    }
    out.copy_from_slice(&sums);
}
