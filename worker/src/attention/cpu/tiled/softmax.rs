//! The softmax between the two products, streamed over blocks of keys.
//!
//! Weights are `2^(score - base)`. The base of a query is its largest score at the time when it was last moved, and it is
//! moved when a score exceeds it by more than [`HEADROOM`]: so what is summed already is rarely scaled anew, and no weight
//! exceeds `2^HEADROOM`.

use super::strip::KEYS;
use crate::simd::{Arch, exp2};
use crate::tiles::aligned::Aligned;
use crate::tiles::packed::Rows;
use crate::tiles::{BLOCK, DEPTH};
use pulp::{Simd, WithSimd};

/// In units of ln 2: sums of weights this large are far from overflowing, and as precise as any.
const HEADROOM: f32 = 8.0;
/// Partial sums of the weights of a query.
const PARTIAL: usize = 16;

/// What is known of the weights of [`BLOCK`] queries so far.
pub(super) struct State {
    base: [f32; BLOCK],
    /// `(BLOCK, PARTIAL)`, relative to the bases.
    totals: Aligned<f32>,
    /// Weighted sums of values, `(BLOCK, columns)`, relative to the bases.
    pub sums: Aligned<f32>,
}

/// Scratch for one block of keys.
pub(super) struct Room {
    /// `(BLOCK, KEYS)`, times log2(e).
    pub scores: Aligned<f32>,
    pub weights: Rows,
}

// === impl Room ===

impl Room {
    /// For weights in so many parts.
    pub fn new(parts: usize) -> Self {
        let mut weights = Rows::default();
        weights.clear(parts, BLOCK, KEYS / DEPTH);
        Self { scores: Aligned::zeros(BLOCK * KEYS), weights }
    }
}

// === impl State ===

impl State {
    /// Nothing seen yet.
    pub fn new(columns: usize) -> Self {
        // The lowest number, not minus infinity: the weights of scores that are hidden must be 0 relative to it.
        let base = [f32::MIN; BLOCK];
        Self { base, totals: Aligned::zeros(BLOCK * PARTIAL), sums: Aligned::zeros(BLOCK * columns) }
    }

    /// Turns the first `count` scores of every row, a multiple of [`DEPTH`], into weights.
    pub fn take(&mut self, arch: Arch, room: &mut Room, count: usize) {
        assert!(count <= KEYS && count.is_multiple_of(DEPTH), "scores of whole steps");
        #[cfg(target_arch = "x86_64")]
        if crate::tiles::split::native::is_there() {
            // SAFETY: the processor has the instructions.
            unsafe { native::take(self, room, count) };
            return;
        }
        arch.dispatch(Take { state: self, room, count });
    }

    /// Moves the base of a query to this score.
    fn move_base(&mut self, row: usize, to: f32) {
        let by = (self.base[row] - to).exp2();
        self.base[row] = to;
        let columns = self.sums.len() / BLOCK;
        self.sums[row * columns..][..columns].iter_mut().for_each(|sum| *sum *= by);
        self.totals[row * PARTIAL..][..PARTIAL].iter_mut().for_each(|sum| *sum *= by);
    }

    /// The weighted sums of values of a query, and the sum of its weights.
    pub fn row(&self, row: usize) -> (&[f32], f32) {
        let columns = self.sums.len() / BLOCK;
        (&self.sums[row * columns..][..columns], self.totals[row * PARTIAL..][..PARTIAL].iter().sum())
    }
}

/// [`State::take`] on any instructions.
struct Take<'a> {
    state: &'a mut State,
    room: &'a mut Room,
    count: usize,
}

impl WithSimd for Take<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { state, room, count } = self;
        for (row, scores) in room.scores.chunks_exact_mut(KEYS).enumerate() {
            let scores = &mut scores[..count];
            // Whole vectors: a multiple of 32 numbers.
            let (vectors, _) = S::as_mut_simd_f32s(scores);
            let mut max = simd.splat_f32s(f32::NEG_INFINITY);
            for x in vectors.iter() {
                max = simd.max_f32s(*x, max);
            }
            let highest = simd.reduce_max_f32s(max);
            if highest > state.base[row] + HEADROOM {
                state.move_base(row, highest);
            }
            let base = simd.splat_f32s(state.base[row]);
            let mut sum = simd.splat_f32s(0.0);
            for x in vectors.iter_mut() {
                *x = exp2(simd, simd.sub_f32s(*x, base));
                sum = simd.add_f32s(sum, *x);
            }
            state.totals[row * PARTIAL] += simd.reduce_sum_f32s(sum);
            room.weights.write(row, scores, 1.0);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod native {
    use super::{BLOCK, DEPTH, HEADROOM, KEYS, PARTIAL, Room, State};
    use crate::simd::EXP2;
    use crate::tiles::TILE;
    use crate::tiles::split::native::{rest, rounded, store, two_vectors};
    use std::arch::x86_64::{
        __m512, _CMP_GT_OQ, _MM_FROUND_NO_EXC, _MM_FROUND_TO_NEAREST_INT, _MM_FROUND_TO_NEG_INF, _mm512_add_ps,
        _mm512_cmp_ps_mask, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_max_ps, _mm512_reduce_max_ps, _mm512_reduce_ps,
        _mm512_scalef_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps, _mm512_sub_ps,
    };

    /// [`State::take`] with AVX-512 and its numbers of 16 bits.
    ///
    /// # Safety
    /// The processor must have what `split::native::is_there` asks for.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
    pub(super) unsafe fn take(state: &mut State, room: &mut Room, count: usize) {
        for row in 0..BLOCK {
            let scores = &room.scores[row * KEYS..][..count];
            let mut highest = [_mm512_set1_ps(f32::NEG_INFINITY); 2];
            for pair in scores.chunks_exact(DEPTH) {
                let [low, high] = two_vectors(pair);
                highest = [_mm512_max_ps(highest[0], low), _mm512_max_ps(highest[1], high)];
            }
            let highest = _mm512_max_ps(highest[0], highest[1]);
            if _mm512_cmp_ps_mask::<_CMP_GT_OQ>(highest, _mm512_set1_ps(state.base[row] + HEADROOM)) != 0 {
                let highest = _mm512_reduce_max_ps(highest);
                if highest > state.base[row] {
                    state.move_base(row, highest);
                }
            }
            let base = _mm512_set1_ps(state.base[row]);
            let totals = &mut state.totals[row * PARTIAL..][..PARTIAL];
            // SAFETY: 16 numbers.
            let mut sums = [unsafe { _mm512_loadu_ps(totals.as_ptr()) }, _mm512_setzero_ps()];
            let [hi, lo] = room.weights.row_mut(row);
            for (step, pair) in scores.chunks_exact(DEPTH).enumerate() {
                let scores = two_vectors(pair).map(|scores| _mm512_sub_ps(scores, base));
                let weights = if lo.is_empty() { scores.map(|x| rough_exp2(x)) } else { scores.map(|x| exp2(x)) };
                sums = [_mm512_add_ps(sums[0], weights[0]), _mm512_add_ps(sums[1], weights[1])];
                let high = rounded(weights);
                store(high, &mut hi[step * TILE..]);
                if !lo.is_empty() {
                    store(rounded(rest(weights, high)), &mut lo[step * TILE..]);
                }
            }
            // SAFETY: 16 numbers.
            unsafe { _mm512_storeu_ps(totals.as_mut_ptr(), _mm512_add_ps(sums[0], sums[1])) }
        }
    }

    /// `2^x` to 8e-5 relative, a fiftieth of what rounding to bf16 takes at most; exactly 0 for minus infinity, NaN for NaN.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq")]
    fn rough_exp2(x: __m512) -> __m512 {
        // The cubic with the smallest relative error between 0 and 1.
        const P: [f32; 4] = [0.078_024_5, 0.226_067_2, 0.695_833_5, 0.999_925_2];
        let fraction = _mm512_reduce_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(x);
        // Scaling rounds its exponent down by itself.
        _mm512_scalef_ps(polynomial(&P, fraction), x)
    }

    /// `2^x` to about 2e-7 relative, as [`crate::simd::exp2`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq")]
    fn exp2(x: __m512) -> __m512 {
        let fraction = _mm512_reduce_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x);
        _mm512_scalef_ps(polynomial(&EXP2, fraction), _mm512_sub_ps(x, fraction))
    }

    /// The highest power comes first.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn polynomial(coefficients: &[f32], x: __m512) -> __m512 {
        let mut sum = _mm512_set1_ps(coefficients[0]);
        for coefficient in &coefficients[1..] {
            sum = _mm512_fmadd_ps(sum, x, _mm512_set1_ps(*coefficient));
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd;
    use half::bf16;

    /// Weights times `2^base`, row by row, and their totals, after blocks of these scores.
    fn weights(blocks: &[Vec<f32>], parts: usize, take: impl Fn(&mut State, &mut Room)) -> (Vec<f64>, Vec<f64>) {
        let (mut state, mut room) = (State::new(2), Room::new(parts));
        for scores in blocks {
            room.scores.copy_from_slice(scores);
            take(&mut state, &mut room);
        }
        let mut weights = Vec::new();
        for row in 0..BLOCK {
            let base = f64::from(state.base[row]).exp2();
            let [hi, lo] = room.weights.row_mut(row);
            for key in 0..KEYS {
                let at = key / DEPTH * crate::tiles::TILE + key % DEPTH;
                let whole = hi[at].to_f64() + lo.get(at).map_or(0.0, |lo: &bf16| lo.to_f64());
                weights.push(whole * base);
            }
        }
        (weights, (0..BLOCK).map(|row| f64::from(state.row(row).1) * f64::from(state.base[row]).exp2()).collect())
    }

    #[test]
    fn weights_and_totals_are_exponentials() {
        let scores = |seed: usize| (0..BLOCK * KEYS).map(move |i| ((i * 7919 + seed) % 2003) as f32 * 0.02 - 20.0);
        let mut blocks: Vec<Vec<f32>> = (1..4).map(|seed| scores(seed).collect()).collect();
        // One row sees nothing in the first block, another a much larger score in the last.
        blocks[0][KEYS..2 * KEYS].fill(f32::NEG_INFINITY);
        blocks[2][5 * KEYS + 3] = 60.0;
        for (parts, tolerance) in [(1, 5e-3), (2, 4e-5)] {
            for arch in simd::available().into_iter().map(Some).chain([None]) {
                let name = arch.map_or("best", simd::name);
                let take = |state: &mut State, room: &mut Room| match arch {
                    Some(arch) => arch.dispatch(Take { state, room, count: KEYS }),
                    None => state.take(simd::best(), room, KEYS),
                };
                let (weights, totals) = weights(&blocks, parts, take);
                for (i, (got, score)) in weights.iter().zip(&blocks[2]).enumerate() {
                    let want = f64::from(*score).exp2();
                    // What is far below the largest of its row may be 0.
                    let least = if i / KEYS == 5 { 1e-20 } else { 0.0 };
                    assert!((got - want).abs() <= tolerance * want.max(least), "{name}: {got} for {want} at {i}");
                }
                for (row, got) in totals.iter().enumerate() {
                    let of = |scores: &[f32]| scores.iter().map(|score| f64::from(*score).exp2()).sum::<f64>();
                    let want: f64 = blocks.iter().map(|block| of(&block[row * KEYS..][..KEYS])).sum();
                    assert!((got / want - 1.0).abs() < 1e-4, "{name}: {got} for {want} in row {row}");
                }
            }
        }
    }

    #[test]
    fn what_is_hidden_weighs_nothing_and_what_is_no_number_stays_so() {
        for (parts, arch) in [1, 2]
            .into_iter()
            .flat_map(|parts| simd::available().into_iter().map(Some).chain([None]).map(move |arch| (parts, arch)))
        {
            let (mut state, mut room) = (State::new(2), Room::new(parts));
            state.sums.fill(1.0);
            room.scores.fill(f32::NEG_INFINITY);
            room.scores[..KEYS].fill(f32::NAN);
            room.scores[KEYS + 7] = f32::INFINITY;
            room.scores[2 * KEYS + 1] = -3.0;
            match arch {
                Some(arch) => arch.dispatch(Take { state: &mut state, room: &mut room, count: KEYS }),
                None => state.take(simd::best(), &mut room, KEYS),
            }
            assert!(state.row(0).1.is_nan() && state.row(1).1.is_nan());
            assert_eq!(room.weights.row_mut(2)[0][..2], [bf16::ZERO, bf16::ONE]);
            // What was summed relative to the lowest base is nothing relative to another; where nothing was seen it stays.
            assert_eq!((state.row(2).0, state.row(3).0), (&[0.0; 2][..], &[1.0; 2][..]));
            room.scores.fill(f32::NEG_INFINITY);
            room.scores[2 * KEYS + 1] = 7.0;
            state.sums.fill(1.0);
            state.take(simd::best(), &mut room, KEYS);
            assert_eq!(state.row(2).0, [2f32.powi(-10); 2], "moved from -3 to 7");
            assert_eq!((3..BLOCK).map(|row| state.row(row).1).collect::<Vec<_>>(), vec![0.0; BLOCK - 3]);
        }
    }
}
