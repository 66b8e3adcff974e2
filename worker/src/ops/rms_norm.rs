//! Root-mean-square normalisation: `y = x / sqrt(mean(x^2) + eps) * weight`.

pub(crate) mod backward;
pub(crate) mod weights;

use super::view::{contiguous, rows, rows_mut};
use super::{Kernels, rows_per_task};
use crate::simd;
use candle_core::{CpuStorage, InplaceOp3, Layout, Result, Tensor, bail};
use rayon::prelude::*;

/// Normalises the rows of `x`, `(rows, width)`, with a `weight` of `(width)`.
///
/// On the CPU the result is written to `out` and that is returned.
pub(crate) fn rms_norm(kernels: Kernels, x: &Tensor, weight: &Tensor, eps: f64, out: Option<Tensor>) -> Result<Tensor> {
    match (kernels, out) {
        (Kernels::Cpu, Some(out)) => {
            out.inplace_op3(x, weight, &RmsNorm { eps: eps as f32 })?;
            Ok(out)
        }
        #[cfg(feature = "cuda")]
        (Kernels::Cuda, _) => crate::cuda::rows::rms_norm(x, weight, eps),
        _ => candle_nn::ops::rms_norm(&x.contiguous()?, weight, eps as f32),
    }
}

struct RmsNorm {
    eps: f32,
}

impl InplaceOp3 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(
        &self,
        out: &mut CpuStorage,
        out_layout: &Layout,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<()> {
        let (out, x, weight) = (rows_mut(out, out_layout)?, rows(x, x_layout)?, contiguous(weight, weight_layout)?);
        let (width, to, from) = (weight.len(), out.stride, x.stride);
        if out.width != width || x.width != width || out.count != x.count {
            bail!("rms-norm of {} columns into {} with {width} weights", x.width, out.width);
        }
        let (arch, task) = (simd::best(), rows_per_task(width));
        let tasks = out.data.par_chunks_mut(to * task).zip(x.data.par_chunks(from * task));
        tasks.for_each(|(out, x)| {
            for (out, x) in out.chunks_mut(to).zip(x.chunks(from)) {
                out[..width].copy_from_slice(&x[..width]);
                arch.dispatch(|| normalise(&mut out[..width], weight, self.eps));
            }
        });
        Ok(())
    }
}

/// Normalises one row in place.
#[inline(always)]
pub(super) fn normalise(row: &mut [f32], weight: &[f32], eps: f32) {
    // Sixteen partial sums: the compiler may not reorder additions by itself, and so would not vectorise one.
    let mut partial = [0.0f32; 16];
    let mut chunks = row.chunks_exact(16);
    for chunk in &mut chunks {
        for (sum, x) in partial.iter_mut().zip(chunk) {
            *sum += x * x;
        }
    }
    let rest: f32 = chunks.remainder().iter().map(|x| x * x).sum();
    let mean = (partial.iter().sum::<f32>() + rest) / row.len() as f32;
    let factor = 1.0 / (mean + eps).sqrt();
    for (x, weight) in row.iter_mut().zip(weight) {
        *x = *x * factor * weight;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use proptest::prelude::*;

    /// Candle's operation, the kernel, and the kernel on every instruction set, against the definition.
    fn check(rows: usize, width: usize, seed: usize) {
        let x: Vec<f32> = (0..rows * width).map(|i| (((i + seed) * 37 % 101) as f32 - 50.0) * 0.03).collect();
        let w: Vec<f32> = (0..width).map(|i| 1.0 + ((i + seed) % 7) as f32 * 0.1).collect();
        let tensor = |data: &[f32], shape: &[usize]| Tensor::from_slice(data, shape, &Device::Cpu).unwrap();
        let (xt, wt) = (tensor(&x, &[rows, width]), tensor(&w, &[width]));
        let out = Tensor::zeros_like(&xt).unwrap();
        let cpu = rms_norm(Kernels::Cpu, &xt, &wt, 1e-5, Some(out)).unwrap().to_vec2::<f32>().unwrap();
        let candle = rms_norm(Kernels::Tensor, &xt, &wt, 1e-5, None).unwrap().to_vec2::<f32>().unwrap();
        for (r, row) in x.chunks(width).enumerate() {
            let everywhere = simd::available().into_iter().map(|arch| {
                let mut out = row.to_vec();
                arch.dispatch(|| normalise(&mut out, &w, 1e-5));
                (simd::name(arch), out)
            });
            let all = everywhere.chain([("cpu", cpu[r].clone()), ("candle", candle[r].clone())]);
            let mean = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / width as f64;
            for (name, got) in all {
                for ((got, x), weight) in got.iter().zip(row).zip(&w) {
                    let want = f64::from(*x) / (mean + 1e-5).sqrt() * f64::from(*weight);
                    assert!((f64::from(*got) - want).abs() < 1e-5, "{name} {rows}x{width}: {got} for {want}");
                }
            }
        }
    }

    #[test]
    fn rows_are_normalised_like_the_definition() {
        for (rows, width) in [(1, 1), (3, 15), (5, 16), (70, 256), (2, 1000)] {
            check(rows, width, 0);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn rows_of_any_width_are_normalised(rows in 1usize..40, width in 1usize..700, seed in 0usize..1000) {
            check(rows, width, seed);
        }
    }
}
