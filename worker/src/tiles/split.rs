//! Numbers in parts of bf16, `x = hi` or `x = hi + lo`, written to where tiles have them.
//!
//! Where `lo` is empty there is one part. By the processor's own rounding, what is closer to 0 than 2^-126 becomes 0.

use super::{DEPTH, STRIP, TILE};
use crate::ops::bf16::rounded;
use half::bf16;

/// Writes a row of a first factor, times `factor`: [`DEPTH`] numbers into each tile.
#[inline(always)]
pub(super) fn write_row(numbers: &[f32], factor: f32, hi: &mut [bf16], lo: &mut [bf16]) {
    #[cfg(target_arch = "x86_64")]
    if native::is_there() {
        // SAFETY: the processor has the instructions.
        unsafe { native::write_row(numbers, factor, hi, lo) };
        return;
    }
    for (step, numbers) in numbers.chunks(DEPTH).enumerate() {
        for (at, number) in (step * TILE..).zip(numbers) {
            write(number * factor, at, hi, lo);
        }
    }
}

/// Writes [`DEPTH`] numbers of each of several rows of a first factor, one step of them; 16 rows and the next lie `apart`.
#[inline(always)]
pub(super) fn write_step(numbers: &[f32], apart: usize, hi: &mut [bf16], lo: &mut [bf16]) {
    #[cfg(target_arch = "x86_64")]
    if native::is_there() {
        // SAFETY: the processor has the instructions.
        unsafe { native::write_step(numbers, apart, hi, lo) };
        return;
    }
    for (row, numbers) in numbers.chunks_exact(DEPTH).enumerate() {
        for (at, number) in (row / STRIP * apart + row % STRIP * DEPTH..).zip(numbers) {
            write(*number, at, hi, lo);
        }
    }
}

/// Writes a column of a strip of a second factor; the parts begin with its first number.
#[inline(always)]
pub(super) fn write_column(numbers: &[f32], hi: &mut [bf16], lo: &mut [bf16]) {
    let mut first = 0;
    #[cfg(target_arch = "x86_64")]
    if native::is_there() {
        first = numbers.len() / DEPTH * DEPTH;
        // SAFETY: the processor has the instructions.
        unsafe { native::write_column(&numbers[..first], hi, lo) };
    }
    for (input, number) in numbers.iter().enumerate().skip(first) {
        write(*number, input / 2 * 2 * STRIP + input % 2, hi, lo);
    }
}

/// Writes a pair of inputs of the columns of a second factor, whose strips lie `apart` numbers apart; the parts begin with
/// the pair of its first column. Both rows are as long.
#[inline(always)]
pub(super) fn write_pair(rows: [&[f32]; 2], apart: usize, hi: &mut [bf16], lo: &mut [bf16]) {
    let mut first = 0;
    #[cfg(target_arch = "x86_64")]
    if native::is_there() {
        first = rows[0].len() / STRIP * STRIP;
        // SAFETY: the processor has the instructions.
        unsafe { native::write_pair(rows.map(|row| &row[..first]), apart, hi, lo) };
    }
    for (side, row) in rows.into_iter().enumerate() {
        for (column, number) in row.iter().enumerate().skip(first) {
            write(*number, column / STRIP * apart + column % STRIP * 2 + side, hi, lo);
        }
    }
}

/// Writes a number to place `at` of its parts.
#[inline(always)]
pub(super) fn write(number: f32, at: usize, hi: &mut [bf16], lo: &mut [bf16]) {
    hi[at] = rounded(number);
    if !lo.is_empty() {
        lo[at] = rounded(number - hi[at].to_f32());
    }
}

/// The same with AVX-512 and its numbers of 16 bits.
#[cfg(target_arch = "x86_64")]
pub(crate) mod native {
    use super::super::{DEPTH, STRIP, TILE};
    use super::{bf16, write};
    use std::arch::x86_64::{
        __m512, __m512bh, __m512i, _mm512_castsi512_ps, _mm512_castsi512_si256, _mm512_cvtepu16_epi32,
        _mm512_cvtne2ps_pbh, _mm512_extracti64x4_epi64, _mm512_i32scatter_epi32, _mm512_loadu_ps, _mm512_loadu_si512,
        _mm512_mul_ps, _mm512_permutexvar_epi16, _mm512_set1_ps, _mm512_slli_epi32, _mm512_storeu_si512, _mm512_sub_ps,
    };
    use std::sync::OnceLock;

    /// Whether the processor has these instructions.
    #[inline]
    pub(crate) fn is_there() -> bool {
        static THERE: OnceLock<bool> = OnceLock::new();
        *THERE.get_or_init(|| {
            is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512bf16")
        })
    }

    /// 32 numbers rounded, in order.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(crate) fn rounded([low, high]: [__m512; 2]) -> __m512i {
        // SAFETY: both are 512 bits, and every pattern of bits is valid in either.
        unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) }
    }

    /// What is left of numbers, in order, beside these of bf16.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(crate) fn rest([low, high]: [__m512; 2], hi: __m512i) -> [__m512; 2] {
        let halves = [_mm512_castsi512_si256(hi), _mm512_extracti64x4_epi64::<1>(hi)];
        let [l, h] = halves.map(|half| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half))));
        [_mm512_sub_ps(low, l), _mm512_sub_ps(high, h)]
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(crate) fn two_vectors(numbers: &[f32]) -> [__m512; 2] {
        let numbers = &numbers[..DEPTH];
        // SAFETY: 16 numbers from the first and from the 17th of 32.
        [0, STRIP].map(|first| unsafe { _mm512_loadu_ps(numbers.as_ptr().add(first)) })
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(crate) fn store(numbers: __m512i, to: &mut [bf16]) {
        let to = &mut to[..DEPTH];
        // SAFETY: 32 numbers of 16 bits.
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), numbers) }
    }

    /// Hands 32 numbers in parts to `put`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn parts(numbers: [__m512; 2], [hi, lo]: [&mut [bf16]; 2], put: impl Fn(__m512i, &mut [bf16])) {
        let high = rounded(numbers);
        put(high, hi);
        if !lo.is_empty() {
            put(rounded(rest(numbers, high)), lo);
        }
    }

    /// # Safety
    /// The processor must have what [`is_there`] asks for.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
    pub(super) unsafe fn write_row(numbers: &[f32], factor: f32, hi: &mut [bf16], lo: &mut [bf16]) {
        let by = _mm512_set1_ps(factor);
        let whole = numbers.chunks_exact(DEPTH);
        for (at, number) in (numbers.len() / DEPTH * TILE..).zip(whole.remainder()) {
            write(number * factor, at, hi, lo);
        }
        for (step, numbers) in whole.enumerate() {
            let numbers = two_vectors(numbers).map(|numbers| _mm512_mul_ps(numbers, by));
            let lo = lo.get_mut(step * TILE..).unwrap_or_default();
            parts(numbers, [&mut hi[step * TILE..], lo], |numbers, to| store(numbers, to));
        }
    }

    /// # Safety
    /// As [`write_row`].
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
    pub(super) unsafe fn write_step(numbers: &[f32], apart: usize, hi: &mut [bf16], lo: &mut [bf16]) {
        for (row, numbers) in numbers.chunks_exact(DEPTH).enumerate() {
            let at = row / STRIP * apart + row % STRIP * DEPTH;
            let lo = lo.get_mut(at..).unwrap_or_default();
            parts(two_vectors(numbers), [&mut hi[at..], lo], |numbers, to| store(numbers, to));
        }
    }

    /// # Safety
    /// As [`write_row`]; what is left of whole vectors is not written.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
    pub(super) unsafe fn write_column(numbers: &[f32], hi: &mut [bf16], lo: &mut [bf16]) {
        // A row of a tile is 16 pairs.
        let places: [i32; STRIP] = std::array::from_fn(|pair| (pair * STRIP) as i32);
        // SAFETY: 16 numbers of 32 bits.
        let places = unsafe { _mm512_loadu_si512(places.as_ptr().cast()) };
        for (step, numbers) in numbers.chunks_exact(DEPTH).enumerate() {
            let lo = lo.get_mut(step * TILE..).unwrap_or_default();
            parts(two_vectors(numbers), [&mut hi[step * TILE..], lo], |pairs, to| {
                // The pair of a column in the last row of a tile ends no earlier than this.
                let to = &mut to[..TILE - 2 * STRIP + 2];
                // SAFETY: the last of the places is that of the pair that `to` ends with.
                unsafe { _mm512_i32scatter_epi32::<4>(to.as_mut_ptr().cast(), places, pairs) }
            });
        }
    }

    /// # Safety
    /// As [`write_column`].
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
    pub(super) unsafe fn write_pair(rows: [&[f32]; 2], apart: usize, hi: &mut [bf16], lo: &mut [bf16]) {
        // Numbers of the first and of the second row in turn.
        let order: [i16; DEPTH] = std::array::from_fn(|word| (word / 2 + word % 2 * STRIP) as i16);
        // SAFETY: 32 numbers of 16 bits.
        let order = unsafe { _mm512_loadu_si512(order.as_ptr().cast()) };
        for (strip, (even, odd)) in rows[0].chunks_exact(STRIP).zip(rows[1].chunks_exact(STRIP)).enumerate() {
            // SAFETY: 16 numbers each.
            let numbers = [even, odd].map(|row| unsafe { _mm512_loadu_ps(row.as_ptr()) });
            let lo = lo.get_mut(strip * apart..).unwrap_or_default();
            parts(numbers, [&mut hi[strip * apart..], lo], |numbers, to| {
                store(_mm512_permutexvar_epi16(order, numbers), to);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of all upper halves, with lower halves around the middle where rounding is decided.
    fn all() -> Vec<f32> {
        let lower = [0u32, 1, 0x7fff, 0x8000, 0x8001, 0xffff];
        (0..=0xffffu32).flat_map(|high| lower.map(|low| f32::from_bits(high << 16 | low))).collect()
    }

    /// Checks parts of a number, the rounding of which is that of the half crate.
    fn check(number: f32, hi: bf16, lo: Option<bf16>) {
        let same = |got: bf16, number: f32| {
            let want = bf16::from_f32(number);
            let tiny = number.abs() < f32::MIN_POSITIVE && got.to_f32() == 0.0;
            got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan()) || tiny
        };
        assert!(same(hi, number), "{number:e} became {hi:?}");
        if let Some(lo) = lo {
            assert!(same(lo, number - hi.to_f32()), "{number:e} became {hi:?} and {lo:?}");
        }
    }

    #[test]
    fn rows_are_rounded_like_the_half_crate() {
        let all = all();
        // A number at a time is left over, too.
        for (numbers, factor, two) in [(&all[..], 1.0, false), (&all[5..all.len() - 2], 0.5, true)] {
            let size = numbers.len().div_ceil(DEPTH) * TILE;
            let (mut hi, mut lo) = (vec![bf16::ONE; size], vec![bf16::ONE; if two { size } else { 0 }]);
            write_row(numbers, factor, &mut hi, &mut lo);
            for (i, number) in numbers.iter().enumerate() {
                let at = i / DEPTH * TILE + i % DEPTH;
                check(number * factor, hi[at], lo.get(at).copied());
            }
        }
    }

    #[test]
    fn steps_of_rows_are_rounded_like_the_half_crate() {
        let all: Vec<f32> = all().into_iter().step_by(29).take(40 * DEPTH).collect();
        for two in [false, true] {
            let (apart, room) = (3 * TILE, || vec![bf16::ONE; 9 * TILE]);
            let (mut hi, mut lo) = (room(), if two { room() } else { Vec::new() });
            write_step(&all, apart, &mut hi, &mut lo);
            for (i, number) in all.iter().enumerate() {
                let (row, at) = (i / DEPTH, i % DEPTH);
                let at = row / STRIP * apart + row % STRIP * DEPTH + at;
                check(*number, hi[at], lo.get(at).copied());
            }
            assert_eq!(hi[TILE], bf16::ONE, "the next step");
        }
    }

    #[test]
    fn columns_and_pairs_are_rounded_like_the_half_crate() {
        let all: Vec<f32> = all().into_iter().step_by(37).take(3 * DEPTH + 7).collect();
        for two in [false, true] {
            let room = || vec![bf16::ONE; 8 * TILE];
            let (mut hi, mut lo) = (room(), if two { room() } else { Vec::new() });
            write_column(&all, &mut hi, &mut lo);
            for (i, number) in all.iter().enumerate() {
                let at = i / 2 * 2 * STRIP + i % 2;
                check(*number, hi[at], lo.get(at).copied());
            }
            assert_eq!(hi[2], bf16::ONE, "the next column");
            let (even, odd) = all.split_at(all.len() / 2);
            let (rows, apart) = ([even, &odd[..even.len()]], TILE);
            write_pair(rows, apart, &mut hi, &mut lo);
            for (side, row) in rows.iter().enumerate() {
                for (i, number) in row.iter().enumerate() {
                    let at = i / STRIP * apart + i % STRIP * 2 + side;
                    check(*number, hi[at], lo.get(at).copied());
                }
            }
        }
    }
}
