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
