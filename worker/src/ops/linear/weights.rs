//! The gradient of a projection with respect to its weights and bias: `dW += dy^T x`, `db += sum of dy`.
//!
//! Both are added to what is there, chunk after chunk, so that no gradient of a part of a document is ever kept.

use super::Linear;
use crate::ops::view::{Rows, RowsMut, contiguous_mut, rows, rows_mut};
use candle_core::{CpuStorage, InplaceOp2, InplaceOp3, Layout, Result, Tensor, bail};
use gemm::Parallelism;

/// Adds `grad^T x` to `out`, `(outputs, inputs)`, for views of f32 on the CPU of `(rows, outputs)` and `(rows, inputs)`.
pub(crate) fn weight_backward(grad: &Tensor, x: &Tensor, out: &Tensor) -> Result<()> {
    out.inplace_op3(grad, x, &WeightBackward)
}

/// Adds the sum of the rows of `grad`, `(rows, outputs)`, to `out`, `(outputs)`.
pub(crate) fn bias_backward(grad: &Tensor, out: &Tensor) -> Result<()> {
    out.inplace_op2(grad, &BiasBackward)
}

impl Linear {
    /// Adds the gradients of weights and bias to those that `of` finds, if it does, given what went in and the gradient of
    /// what came out.
    pub fn weights_backward<'g>(
        &self,
        grad: &Tensor,
        x: &Tensor,
        of: impl Fn(&Tensor) -> Option<&'g Tensor>,
    ) -> Result<()> {
        if let Some(sum) = self.bias().and_then(&of) {
            bias_backward(grad, sum)?;
        }
        of(self.weight()).map_or(Ok(()), |sum| weight_backward(grad, x, sum))
    }
}

struct WeightBackward;

impl InplaceOp3 for WeightBackward {
    fn name(&self) -> &'static str {
        "linear-weights-backward"
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
        let (out, grad, x) = (rows_mut(out, out_layout)?, rows(grad, grad_layout)?, rows(x, x_layout)?);
        if grad.count != x.count || (out.count, out.width) != (grad.width, x.width) {
            let shapes = [(out.count, out.width), (grad.count, grad.width), (x.count, x.width)];
            bail!("shapes do not fit a projection's gradient (weights, gradient, x): {shapes:?}");
        }
        add_product(out, grad, x);
        Ok(())
    }
}

/// The product, on all threads of the current pool. The order of additions does not depend on their number.
fn add_product(out: RowsMut<'_>, grad: Rows<'_>, x: Rows<'_>) {
    let parallelism = match rayon::current_num_threads() {
        1 => Parallelism::None,
        threads => Parallelism::Rayon(threads),
    };
    assert!(grad.count == x.count && (out.count, out.width) == (grad.width, x.width), "checked by the caller");
    // SAFETY: `Rows` guarantees that element (i, j) lies at `i * stride + j` inside its slice for all i < count and
    // j < width; the left factor is read transposed, so its element (i, j) is (j, i) of `grad`. The dimensions fit each
    // other, and `out` is borrowed mutably, so it overlaps neither operand.
    unsafe {
        gemm::gemm(
            out.count,
            out.width,
            x.count,
            out.data.as_mut_ptr(),
            1,
            out.stride as isize,
            true,
            grad.data.as_ptr(),
            grad.stride as isize,
            1,
            x.data.as_ptr(),
            1,
            x.stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

struct BiasBackward;

impl InplaceOp2 for BiasBackward {
    fn name(&self) -> &'static str {
        "bias-backward"
    }

    fn cpu_fwd(&self, out: &mut CpuStorage, out_layout: &Layout, grad: &CpuStorage, layout: &Layout) -> Result<()> {
        let (out, grad) = (contiguous_mut(out, out_layout)?, rows(grad, layout)?);
        if out.len() != grad.width {
            bail!("gradients of {} columns for a bias of {}", grad.width, out.len());
        }
        for row in grad.data.chunks(grad.stride) {
            out.iter_mut().zip(row).for_each(|(sum, grad)| *sum += grad);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    fn tensor(count: usize, width: usize, seed: usize) -> Tensor {
        let data = (0..count * width).map(|i| (((i + seed) * 7919 % 1013) as f32 - 506.0) / 500.0).collect();
        Tensor::from_vec::<_, f32>(data, (count, width), &Device::Cpu).unwrap()
    }

    fn double(x: &Tensor) -> Tensor {
        x.to_dtype(DType::F64).unwrap().contiguous().unwrap()
    }

    #[test]
    fn gradients_are_added_to_what_is_there() {
        for (rows, outputs, inputs) in [(1, 1, 1), (3, 17, 5), (70, 96, 33), (130, 64, 256)] {
            let (grad, x) = (tensor(rows, outputs + 3, 1), tensor(rows, inputs + 2, 2));
            let (grad, x) = (grad.narrow(1, 2, outputs).unwrap(), x.narrow(1, 1, inputs).unwrap());
            let (out, bias) = (tensor(outputs, inputs, 3), tensor(1, outputs, 4).flatten_all().unwrap());
            let want = (double(&grad).t().unwrap().matmul(&double(&x)).unwrap() + double(&out)).unwrap();
            let want_bias = (double(&grad).sum(0).unwrap() + double(&bias)).unwrap();
            weight_backward(&grad, &x, &out).unwrap();
            bias_backward(&grad, &bias).unwrap();
            for (got, want) in [(out, want), (bias, want_bias)] {
                let error =
                    (double(&got) - want).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
                assert!(error < 1e-4, "{rows}x{outputs}x{inputs}: off by {error}");
            }
        }
        assert!(weight_backward(&tensor(3, 4, 0), &tensor(3, 5, 0), &tensor(5, 4, 0)).is_err());
        assert!(weight_backward(&tensor(2, 4, 0), &tensor(3, 5, 0), &tensor(4, 5, 0)).is_err());
        assert!(bias_backward(&tensor(3, 4, 0), &tensor(1, 5, 0).flatten_all().unwrap()).is_err());
    }

    #[test]
    fn threads_change_no_bit() {
        let (grad, x) = (tensor(700, 130, 1), tensor(700, 257, 2));
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let out = tensor(130, 257, 3);
            pool.install(|| weight_backward(&grad, &x, &out)).unwrap();
            out.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        assert!((2..5).all(|threads| on(threads) == on(1)));
    }
}
