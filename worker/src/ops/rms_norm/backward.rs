//! The gradient of root-mean-square normalisation.
//!
//! With `f = 1 / sqrt(mean(x^2) + eps)` and `y = f x w`:
//!
//! ```text
//! dx = f w dy - x f^3 mean(w dy x)
//! ```

use super::super::rows_per_task;
use super::super::view::{contiguous, rows, rows_mut};
use crate::simd;
use candle_core::{CpuStorage, InplaceOp3, Layout, Result, Tensor, bail};
use rayon::prelude::*;

/// Replaces `grad`, the gradient with respect to the norm's result, by that with respect to its input `x`.
///
/// Both are views of f32 on the CPU, `(rows, n * width)` for weights of `(width)`: each of the `n` parts of a row was
/// normalised by itself.
pub(crate) fn rms_norm_backward(grad: &Tensor, x: &Tensor, weight: &Tensor, eps: f64) -> Result<()> {
    grad.inplace_op3(x, weight, &RmsNormBackward { eps: eps as f32 })
}

struct RmsNormBackward {
    eps: f32,
}

impl InplaceOp3 for RmsNormBackward {
    fn name(&self) -> &'static str {
        "rms-norm-backward"
    }

    fn cpu_fwd(
        &self,
        grad: &mut CpuStorage,
        grad_layout: &Layout,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<()> {
        let (grad, x, weight) = (rows_mut(grad, grad_layout)?, rows(x, x_layout)?, contiguous(weight, weight_layout)?);
        let (width, to, from) = (grad.width, grad.stride, x.stride);
        if x.width != width || x.count != grad.count || width % weight.len() != 0 {
            bail!("gradients of {width} columns of the norm of {} with {} weights", x.width, weight.len());
        }
        let (arch, task) = (simd::best(), rows_per_task(width));
        let tasks = grad.data.par_chunks_mut(to * task).zip(x.data.par_chunks(from * task));
        tasks.for_each(|(grad, x)| {
            for (grad, x) in grad.chunks_mut(to).zip(x.chunks(from)) {
                let parts = grad[..width].chunks_exact_mut(weight.len()).zip(x.chunks_exact(weight.len()));
                parts.for_each(|(grad, x)| arch.dispatch(|| backward(grad, x, weight, self.eps)));
            }
        });
        Ok(())
    }
}

#[inline(always)]
fn backward(grad: &mut [f32], x: &[f32], weight: &[f32], eps: f32) {
    // Sixteen partial sums each, as in the forward pass.
    let (mut squares, mut products) = ([0.0f32; 16], [0.0f32; 16]);
    let rows = grad.chunks(16).zip(x.chunks(16)).zip(weight.chunks(16));
    for ((grad, x), weight) in rows {
        for (i, ((grad, x), weight)) in grad.iter().zip(x).zip(weight).enumerate() {
            squares[i] += x * x;
            products[i] += weight * grad * x;
        }
    }
    let mean = |sums: [f32; 16]| sums.iter().sum::<f32>() / x.len() as f32;
    let square = 1.0 / (mean(squares) + eps);
    let factor = square.sqrt();
    let shift = square * mean(products);
    for ((grad, x), weight) in grad.iter_mut().zip(x).zip(weight) {
        *grad = factor * (weight * *grad - x * shift);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn gradients_are_those_of_the_definition() {
        for (rows, parts, width) in [(1, 1, 1), (3, 1, 15), (5, 3, 16), (70, 1, 256), (2, 2, 1000)] {
            let numbers = |count: usize, seed: usize| -> Vec<f32> {
                (0..count).map(|i| (((i + seed) * 7919 % 1013) as f32 - 506.0) / 400.0).collect()
            };
            let (x, dy, w) = (numbers(rows * parts * width, 1), numbers(rows * parts * width, 2), numbers(width, 3));
            let tensor = |data: &[f32], shape: &[usize]| Tensor::from_slice(data, shape, &Device::Cpu).unwrap();
            let grad = tensor(&dy, &[rows, parts * width]);
            rms_norm_backward(&grad, &tensor(&x, &[rows, parts * width]), &tensor(&w, &[width]), 1e-3).unwrap();
            let got: Vec<f32> = grad.flatten_all().unwrap().to_vec1().unwrap();
            for ((got, x), dy) in got.chunks(width).zip(x.chunks(width)).zip(dy.chunks(width)) {
                let double = |x: &f32| f64::from(*x);
                let mean = x.iter().map(|x| double(x).powi(2)).sum::<f64>() / width as f64 + 1e-3;
                let product: f64 =
                    x.iter().zip(dy).zip(&w).map(|((x, dy), w)| double(x) * double(dy) * double(w)).sum();
                for (i, got) in got.iter().enumerate() {
                    let shift = double(&x[i]) * product / width as f64 / mean;
                    let want = (double(&w[i]) * double(&dy[i]) - shift) / mean.sqrt();
                    assert!(
                        (double(got) - want).abs() < 1e-5 * want.abs().max(1.0),
                        "{rows}x{width}: {got} for {want}"
                    );
                }
            }
        }
    }
}
