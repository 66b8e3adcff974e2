//! Numbers that are kept in bf16 and computed with in f32 on the CPU: widening is exact, narrowing rounds to the nearest
//! (ties to even).

use super::rows_per_task;
use super::view::{Number, rows_of, rows_of_mut};
use crate::simd;
use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor, bail};
use half::bf16;
use rayon::prelude::*;
use std::marker::PhantomData;

/// Writes `from` to `to`, which is as long.
#[inline(always)]
pub(crate) fn widen(from: &[bf16], to: &mut [f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = f32::from_bits(u32::from(from.to_bits()) << 16);
    }
}

/// Writes `from`, rounded, to `to`, which is as long.
#[inline(always)]
pub(crate) fn narrow(from: &[f32], to: &mut [bf16]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = rounded(*from);
    }
}

/// Without branches, so that a loop of it becomes vector instructions.
#[inline(always)]
pub(crate) fn rounded(number: f32) -> bf16 {
    let bits = number.to_bits();
    // Half of the last place that stays, less one where that place is even already.
    let nearest = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    // Adding to a NaN may carry over into an infinity or a zero; its upper half with the quiet bit is a NaN for sure.
    let quiet = (bits >> 16) | 0x40;
    bf16::from_bits(if bits & 0x7fff_ffff > 0x7f80_0000 { quiet } else { nearest } as u16)
}

/// Writes numbers times `factor`, rounded. Where the processor rounds by itself, what is closer to 0 than 2^-126 becomes 0.
#[inline(always)]
pub(crate) fn narrow_times(from: &[f32], factor: f32, to: &mut [bf16]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16") {
        // SAFETY: the processor has the instructions.
        unsafe { native::narrow_times(from, factor, to) };
        return;
    }
    to.iter_mut().zip(from).for_each(|(to, from)| *to = rounded(from * factor));
}

#[cfg(target_arch = "x86_64")]
mod native {
    use super::{bf16, rounded};
    use std::arch::x86_64::{
        __m512bh, __m512i, _mm512_cvtne2ps_pbh, _mm512_loadu_ps, _mm512_mul_ps, _mm512_set1_ps, _mm512_storeu_si512,
    };

    /// # Safety
    /// The processor must have AVX-512 with bf16.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) unsafe fn narrow_times(from: &[f32], factor: f32, to: &mut [bf16]) {
        let by = _mm512_set1_ps(factor);
        let (mut numbers, mut places) = (from.chunks_exact(32), to.chunks_exact_mut(32));
        for (from, to) in (&mut numbers).zip(&mut places) {
            // SAFETY: 16 numbers from the first and from the 17th of 32.
            let [low, high] = [0, 16].map(|first| unsafe { _mm512_loadu_ps(from.as_ptr().add(first)) });
            let both = _mm512_cvtne2ps_pbh(_mm512_mul_ps(high, by), _mm512_mul_ps(low, by));
            // SAFETY: both are 512 bits, and every pattern of bits is valid in either; 32 numbers of 16 bits are as many.
            unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), std::mem::transmute::<__m512bh, __m512i>(both)) };
        }
        let rest = numbers.remainder();
        places.into_remainder().iter_mut().zip(rest).for_each(|(to, from)| *to = rounded(from * factor));
    }
}

/// Writes the bf16 matrix `from` to the f32 matrix `to` of the same shape.
pub(crate) fn widen_rows(from: &Tensor, to: &Tensor) -> Result<()> {
    to.inplace_op2(from, &Convert { name: "widen", row: widen, numbers: PhantomData })
}

/// Writes the f32 matrix `from`, rounded, to the bf16 matrix `to` of the same shape.
pub(crate) fn narrow_rows(from: &Tensor, to: &Tensor) -> Result<()> {
    to.inplace_op2(from, &Convert { name: "narrow", row: narrow, numbers: PhantomData })
}

/// Writes every row of one format as `row` does to one of another.
struct Convert<F, A, B> {
    name: &'static str,
    row: F,
    numbers: PhantomData<(A, B)>,
}

impl<A: Number, B: Number, F: Fn(&[A], &mut [B]) + Sync> InplaceOp2 for Convert<F, A, B> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, to: &mut CpuStorage, to_layout: &Layout, from: &CpuStorage, from_layout: &Layout) -> Result<()> {
        let (to, from) = (rows_of_mut::<B>(to, to_layout)?, rows_of::<A>(from, from_layout)?);
        if (to.count, to.width) != (from.count, from.width) {
            bail!("{}: {}x{} numbers do not fill {}x{}", self.name, from.count, from.width, to.count, to.width);
        }
        let (arch, task, width, row) = (simd::best(), rows_per_task(to.width), to.width, &self.row);
        let tasks = to.data.par_chunks_mut(to.stride * task).zip(from.data.par_chunks(from.stride * task));
        tasks.for_each(|(to_rows, from_rows)| {
            for (to, from) in to_rows.chunks_mut(to.stride).zip(from_rows.chunks(from.stride)) {
                arch.dispatch(|| row(&from[..width], &mut to[..width]));
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn rounding_is_that_of_the_half_crate() {
        // All upper halves, with lower halves around the middle where rounding is decided.
        let lower = [0u32, 1, 0x7fff, 0x8000, 0x8001, 0xffff];
        let all: Vec<f32> =
            (0..=0xffffu32).flat_map(|high| lower.map(|low| f32::from_bits(high << 16 | low))).collect();
        for arch in simd::available() {
            let mut got = vec![bf16::ZERO; all.len()];
            arch.dispatch(|| narrow(&all, &mut got));
            for (got, from) in got.iter().zip(&all) {
                let want = bf16::from_f32(*from);
                let same = got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan());
                assert!(same, "{from:e} became {got:?}, not {want:?}");
            }
            let mut back = vec![0.0; got.len()];
            arch.dispatch(|| widen(&got, &mut back));
            assert!(back.iter().zip(&got).all(|(back, got)| back.to_bits() == got.to_f32().to_bits() || got.is_nan()));
        }
    }

    #[test]
    fn the_processors_own_rounding_is_that_of_the_half_crate() {
        let lower = [0u32, 1, 0x7fff, 0x8000, 0x8001, 0xffff];
        let all: Vec<f32> =
            (0..=0xffffu32).flat_map(|high| lower.map(|low| f32::from_bits(high << 16 | low))).collect();
        // A number at a time is left over, too.
        for (from, factor) in [(&all[..], 1.0), (&all[5..all.len() - 2], 0.5)] {
            let mut got = vec![bf16::ONE; from.len()];
            narrow_times(from, factor, &mut got);
            for (got, from) in got.iter().zip(from) {
                let (exact, want) = (from * factor, bf16::from_f32(from * factor));
                let tiny = exact.abs() < f32::MIN_POSITIVE && got.to_f32() == 0.0;
                let same = got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan());
                assert!(same || tiny, "{from:e} times {factor} became {got:?}, not {want:?}");
            }
        }
    }

    #[test]
    fn parts_of_wider_rows_go_there_and_back() {
        let device = Device::Cpu;
        let wide = Tensor::from_vec((0..700 * 40).map(|i| i as f32 * 0.37).collect::<Vec<_>>(), (700, 40), &device);
        let x = wide.unwrap().narrow(1, 3, 31).unwrap();
        let kept = Tensor::zeros((700, 31), DType::BF16, &device).unwrap();
        narrow_rows(&x, &kept).unwrap();
        let back = Tensor::zeros((800, 50), DType::F32, &device).unwrap();
        let part = back.narrow(0, 10, 700).unwrap().narrow(1, 5, 31).unwrap();
        widen_rows(&kept, &part).unwrap();
        let want = x.to_dtype(DType::BF16).unwrap().to_dtype(DType::F32).unwrap();
        assert_eq!(part.to_vec2::<f32>().unwrap(), want.to_vec2::<f32>().unwrap());
        let outside: f32 = back.narrow(0, 0, 10).unwrap().sum_all().unwrap().to_scalar().unwrap();
        assert_eq!(outside, 0.0);
        assert!(widen_rows(&kept, &x.narrow(0, 0, 5).unwrap()).is_err());
        assert!(narrow_rows(&kept, &x).is_err());
    }
}
