//! The gradient of root-mean-square normalisation with respect to its weights: `dw += sum over rows of f x dy`, with
//! `f = 1 / sqrt(mean(x^2) + eps)`.

use super::super::rows_per_task;
use super::super::view::{Rows, contiguous_mut, rows};
use candle_core::{CpuStorage, InplaceOp3, Layout, Result, Tensor, bail};
use rayon::prelude::*;

/// Adds to `out`, `(width)`, the gradient of the weights, given the norm's input `x` and the gradient of its result.
///
/// Both are views of f32 on the CPU, `(rows, n * width)`: each of the `n` parts of a row was normalised by itself.
pub(crate) fn rms_norm_weights_backward(grad: &Tensor, x: &Tensor, out: &Tensor, eps: f64) -> Result<()> {
    out.inplace_op3(grad, x, &WeightsBackward { eps: eps as f32 })
}

struct WeightsBackward {
    eps: f32,
}

impl InplaceOp3 for WeightsBackward {
    fn name(&self) -> &'static str {
        "rms-norm-weights-backward"
    }

    fn cpu_fwd(
        &self,
        out: &mut CpuStorage,
        out_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
        x: &CpuStorage,
        x_layout: &Layout,
    ) -> Result<()> {
        let (out, grad, x) = (contiguous_mut(out, out_layout)?, rows(grad, grad_layout)?, rows(x, x_layout)?);
        if (grad.count, grad.width) != (x.count, x.width) || grad.width % out.len() != 0 {
            bail!("gradients of {} columns of a norm with {} weights", grad.width, out.len());
        }
        // Tasks are always the same rows, and added in order.
        let task = rows_per_task(grad.width);
        let tasks = grad.data.par_chunks(grad.stride * task).zip(x.data.par_chunks(x.stride * task));
        let sums: Vec<Vec<f32>> = tasks
            .map(|(grads, xs)| {
                let mut sum = vec![0.0; out.len()];
                self.add(&mut sum, Rows { data: grads, ..grad }, Rows { data: xs, ..x });
                sum
            })
            .collect();
        for sum in sums {
            out.iter_mut().zip(sum).for_each(|(out, sum)| *out += sum);
        }
        Ok(())
    }
}

impl WeightsBackward {
    fn add(&self, sum: &mut [f32], grad: Rows<'_>, x: Rows<'_>) {
        let (width, columns) = (sum.len(), grad.width);
        for (grad, x) in grad.data.chunks(grad.stride).zip(x.data.chunks(x.stride)) {
            for (x, grad) in x[..columns].chunks_exact(width).zip(grad[..columns].chunks_exact(width)) {
                // Sixteen partial sums, as in the forward pass.
                let mut squares = [0.0f32; 16];
                for x in x.chunks(16) {
                    squares.iter_mut().zip(x).for_each(|(sum, x)| *sum += x * x);
                }
                let factor = 1.0 / (squares.iter().sum::<f32>() / width as f32 + self.eps).sqrt();
                for ((sum, x), grad) in sum.iter_mut().zip(x).zip(grad) {
                    *sum += factor * x * grad;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn gradients_are_sums_of_the_definition() {
        for (rows, parts, width) in [(1, 1, 1), (3, 1, 15), (5, 3, 16), (170, 1, 256), (2, 2, 1000)] {
            let numbers = |count: usize, seed: usize| -> Vec<f32> {
                (0..count).map(|i| (((i + seed) * 7919 % 1013) as f32 - 506.0) / 400.0).collect()
            };
            // A column on either side that belongs to others.
            let columns = parts * width + 2;
            let (x, dy, start) = (numbers(rows * columns, 1), numbers(rows * columns, 2), numbers(width, 3));
            let tensor = |data: &[f32]| Tensor::from_slice(data, (rows, columns), &Device::Cpu).unwrap();
            let inside = |all: &Tensor| all.narrow(1, 1, parts * width).unwrap();
            let out = Tensor::from_slice(&start, width, &Device::Cpu).unwrap();
            rms_norm_weights_backward(&inside(&tensor(&dy)), &inside(&tensor(&x)), &out, 1e-3).unwrap();

            let mut want: Vec<f64> = start.iter().copied().map(f64::from).collect();
            for (x, dy) in x.chunks(columns).zip(dy.chunks(columns)) {
                for (x, dy) in x[1..columns - 1].chunks(width).zip(dy[1..columns - 1].chunks(width)) {
                    let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / width as f64 + 1e-3;
                    let terms = x.iter().zip(dy).map(|(x, dy)| f64::from(*x) * f64::from(*dy) / mean.sqrt());
                    want.iter_mut().zip(terms).for_each(|(want, term)| *want += term);
                }
            }
            for (got, want) in out.to_vec1::<f32>().unwrap().iter().zip(want) {
                assert!((f64::from(*got) - want).abs() < 2e-5 * want.abs().max(1.0), "{rows}x{width}: {got}, {want}");
            }
        }
    }
}
