//! Projections: `y = x W^T + b`.

use super::Kernels;
use super::view::{Rows, RowsMut, contiguous, rows, rows_mut};
use candle_core::{CpuStorage, InplaceOp2, InplaceOp3, Layout, Module, Result, Tensor, bail};
use candle_transformers::models::with_tracing;
use gemm::Parallelism;

/// The weights of a projection, `(outputs, inputs)`, and its bias.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
    /// The same tensors, for candle's operations.
    module: with_tracing::Linear,
}

impl Linear {
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Self {
        let module = with_tracing::Linear::from_weights(weight.clone(), bias.clone());
        Self { weight, bias, module }
    }

    /// `x W^T + b` for `x` of `(rows, inputs)`.
    ///
    /// On the CPU the result is written to `out`, a view of `(rows, outputs)`, and that is returned.
    pub fn forward(&self, kernels: Kernels, x: &Tensor, out: Option<Tensor>) -> Result<Tensor> {
        match (kernels, out) {
            (Kernels::Cpu, Some(out)) => {
                if let Some(bias) = &self.bias {
                    out.inplace_op2(bias, &FillRows)?;
                }
                out.inplace_op3(x, &self.weight, &Product { accumulate: self.bias.is_some() })?;
                Ok(out)
            }
            _ => self.module.forward(&x.contiguous()?),
        }
    }

    /// `sum + x W^T + b`; on the CPU `sum` is overwritten.
    pub fn add_to(&self, kernels: Kernels, sum: Tensor, x: &Tensor) -> Result<Tensor> {
        match (kernels, &self.bias) {
            (Kernels::Cpu, None) => {
                sum.inplace_op3(x, &self.weight, &Product { accumulate: true })?;
                Ok(sum)
            }
            _ => sum + self.module.forward(&x.contiguous()?)?,
        }
    }
}

/// `x W^T` with candle's shapes for weights that are not a whole projection, such as a part of the vocabulary.
pub(crate) fn product(kernels: Kernels, x: &Tensor, weight: &Tensor, out: Option<Tensor>) -> Result<Tensor> {
    match (kernels, out) {
        (Kernels::Cpu, Some(out)) => {
            out.inplace_op3(x, weight, &Product { accumulate: false })?;
            Ok(out)
        }
        _ => x.matmul(&weight.t()?),
    }
}

/// Writes the same row everywhere.
struct FillRows;

impl InplaceOp2 for FillRows {
    fn name(&self) -> &'static str {
        "fill-rows"
    }

    fn cpu_fwd(&self, out: &mut CpuStorage, out_layout: &Layout, row: &CpuStorage, row_layout: &Layout) -> Result<()> {
        let (out, row) = (rows_mut(out, out_layout)?, contiguous(row, row_layout)?);
        if out.width != row.len() {
            bail!("a row of {} does not fill rows of {}", row.len(), out.width);
        }
        out.data.chunks_mut(out.stride).for_each(|out| out[..row.len()].copy_from_slice(row));
        Ok(())
    }
}

/// `out = x W^T`, or `out += x W^T`.
struct Product {
    accumulate: bool,
}

impl InplaceOp3 for Product {
    fn name(&self) -> &'static str {
        "linear"
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
        let (out, x, weight) = (rows_mut(out, out_layout)?, rows(x, x_layout)?, rows(weight, weight_layout)?);
        if out.count != x.count || x.width != weight.width || out.width != weight.count {
            let shapes = [(out.count, out.width), (x.count, x.width), (weight.count, weight.width)];
            bail!("shapes do not fit a projection (out, x, weight): {shapes:?}");
        }
        multiply(out, x, weight, self.accumulate);
        Ok(())
    }
}

/// `out = x W^T` or `out += x W^T`, on all threads of the current pool. The order of additions does not depend on
/// their number.
fn multiply(out: RowsMut<'_>, x: Rows<'_>, weight: Rows<'_>, accumulate: bool) {
    let parallelism = match rayon::current_num_threads() {
        1 => Parallelism::None,
        threads => Parallelism::Rayon(threads),
    };
    assert!(out.count == x.count && x.width == weight.width && out.width == weight.count, "checked by the caller");
    // SAFETY: `Rows` guarantees that element (i, j) lies at `i * stride + j` inside its slice for all i < count and
    // j < width, the dimensions fit each other, and `out` is borrowed mutably, so it overlaps neither operand.
    unsafe {
        gemm::gemm(
            out.count,
            out.width,
            x.width,
            out.data.as_mut_ptr(),
            1,
            out.stride as isize,
            accumulate,
            x.data.as_ptr(),
            1,
            x.stride as isize,
            weight.data.as_ptr(),
            weight.stride as isize,
            1,
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests;
