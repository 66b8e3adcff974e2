//! Projections: `y = x W^T + b`.

pub(crate) mod backward;
mod bf16;
pub(crate) mod gated;
pub(crate) mod tiled;
pub(crate) mod weights;

use super::Kernels;
use super::view::{Rows, RowsMut, contiguous, rows, rows_mut, rows_of};
use crate::ledger;
use crate::tiles::Unit;
use candle_core::{CpuStorage, DType, Device, InplaceOp2, InplaceOp3, Layout, Module, Result, Tensor, bail};
use candle_transformers::models::with_tracing;
use gemm::Parallelism;
use tiled::Tiled;

/// The weights of a projection, `(outputs, inputs)`, and its bias. On the CPU weights may be bf16; biases are f32.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
    /// The same tensors, for candle's operations.
    module: with_tracing::Linear,
    /// The weights as a matrix unit reads them; the tensor is empty then.
    tiled: Option<Tiled>,
}

impl Linear {
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Self {
        let module = with_tracing::Linear::from_weights(weight.clone(), bias.clone());
        Self { weight, bias, module, tiled: None }
    }

    /// A projection that a matrix unit computes.
    pub fn of_tiled(tiled: Tiled, bias: Option<Tensor>) -> Result<Self> {
        let empty = Tensor::zeros((0, tiled.inputs()), DType::F32, &Device::Cpu)?;
        Ok(Self { tiled: Some(tiled), ..Self::new(empty, bias) })
    }

    /// The same projection, computed by a matrix unit on weights split into so many parts.
    pub fn tiled(&self, unit: Unit, parts: usize) -> Result<Self> {
        Self::of_tiled(Tiled::of((unit, parts), &self.weight)?, self.bias.clone())
    }

    /// Bytes of weights and bias.
    pub fn bytes(&self) -> u64 {
        let tiled = self.tiled.as_ref().map_or(0, Tiled::bytes);
        ledger::bytes(&self.weight) + self.bias.as_ref().map_or(0, ledger::bytes) + tiled
    }

    /// `(outputs, inputs)`; empty where a matrix unit has them in its own layout.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// `(outputs)`, where there is one.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// `count` of the outputs from `first` on, as a projection of their own that shares the weights.
    pub fn outputs(&self, first: usize, count: usize) -> Result<Self> {
        let part = |all: &Tensor| all.narrow(0, first, count);
        let bias = self.bias.as_ref().map(part).transpose()?;
        Ok(match &self.tiled {
            Some(tiled) => Self { tiled: Some(tiled.outputs(first, count)), ..Self::new(self.weight.clone(), bias) },
            None => Self::new(part(&self.weight)?, bias),
        })
    }

    /// `x W^T + b` for `x` of `(rows, inputs)`.
    ///
    /// On the CPU the result is written to `out`, a view of `(rows, outputs)`, and that is returned.
    pub fn forward(&self, kernels: Kernels, x: &Tensor, out: Option<Tensor>) -> Result<Tensor> {
        match (kernels, out) {
            (Kernels::Cpu, Some(out)) => {
                if let Some(bias) = &self.bias {
                    out.inplace_op2(bias, &EveryRow { add: false })?;
                }
                self.multiply(x, &out, self.bias.is_some())?;
                Ok(out)
            }
            _ => self.module.forward(&x.contiguous()?),
        }
    }

    /// `sum + x W^T + b`; on the CPU `sum` is overwritten.
    pub fn add_to(&self, kernels: Kernels, sum: Tensor, x: &Tensor) -> Result<Tensor> {
        match kernels {
            Kernels::Cpu => {
                if let Some(bias) = &self.bias {
                    sum.inplace_op2(bias, &EveryRow { add: true })?;
                }
                self.multiply(x, &sum, true)?;
                Ok(sum)
            }
            #[cfg(feature = "cuda")]
            Kernels::Cuda => {
                let product = self.module.forward(&x.contiguous()?)?;
                crate::cuda::rows::add(&product, &sum.contiguous()?)?;
                Ok(product)
            }
            Kernels::Tensor => sum + self.module.forward(&x.contiguous()?)?,
        }
    }

    /// `out = x W^T`, or added to what is there, on the CPU.
    fn multiply(&self, x: &Tensor, out: &Tensor, accumulate: bool) -> Result<()> {
        match &self.tiled {
            Some(tiled) => tiled.multiply(x, out, accumulate),
            None => out.inplace_op3(x, &self.weight, &Product { accumulate, side: Side::Outputs }),
        }
    }
}

/// Writes the same row everywhere, or adds it.
struct EveryRow {
    add: bool,
}

impl InplaceOp2 for EveryRow {
    fn name(&self) -> &'static str {
        "every-row"
    }

    fn cpu_fwd(&self, out: &mut CpuStorage, out_layout: &Layout, row: &CpuStorage, row_layout: &Layout) -> Result<()> {
        let (out, row) = (rows_mut(out, out_layout)?, contiguous(row, row_layout)?);
        if out.width != row.len() {
            bail!("a row of {} does not fill rows of {}", row.len(), out.width);
        }
        for out in out.data.chunks_mut(out.stride) {
            if self.add {
                out.iter_mut().zip(row).for_each(|(out, number)| *out += number);
            } else {
                out[..row.len()].copy_from_slice(row);
            }
        }
        Ok(())
    }
}

/// `out = x W^T` or `out = x W`, or added to what is there.
struct Product {
    accumulate: bool,
    side: Side,
}

/// What the columns of a product are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    /// The projection's outputs: `x W^T`.
    Outputs,
    /// Its inputs: `x W`.
    Inputs,
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
        let (mut out, x) = (rows_mut(out, out_layout)?, rows(x, x_layout)?);
        match weight {
            CpuStorage::BF16(_) if self.side == Side::Outputs => {
                let weight = rows_of(weight, weight_layout)?;
                self.check(&out, &x, &weight)?;
                bf16::multiply_widened(&mut out, x, weight, self.accumulate);
            }
            _ => {
                let weight = rows(weight, weight_layout)?;
                self.check(&out, &x, &weight)?;
                multiply(out, x, weight, self);
            }
        }
        Ok(())
    }
}

impl Product {
    fn check<T>(&self, out: &RowsMut<'_>, x: &Rows<'_>, weight: &Rows<'_, T>) -> Result<()> {
        if out.count != x.count || (x.width, out.width) != self.side.widths(weight) {
            let shapes = [(out.count, out.width), (x.count, x.width), (weight.count, weight.width)];
            bail!("shapes do not fit a projection (out, x, weight): {shapes:?}");
        }
        Ok(())
    }
}

impl Side {
    /// Numbers in a row of `x` and of the product.
    fn widths<T>(self, weight: &Rows<'_, T>) -> (usize, usize) {
        match self {
            Self::Outputs => (weight.width, weight.count),
            Self::Inputs => (weight.count, weight.width),
        }
    }
}

/// The product, on all threads of the current pool. The order of additions does not depend on their number.
fn multiply(out: RowsMut<'_>, x: Rows<'_>, weight: Rows<'_>, product: &Product) {
    let parallelism = match rayon::current_num_threads() {
        1 => Parallelism::None,
        threads => Parallelism::Rayon(threads),
    };
    let side = product.side;
    assert!(out.count == x.count && (x.width, out.width) == side.widths(&weight), "checked by the caller");
    // How far apart the weights of two columns of the product are, and of two rows of its right factor.
    let (column, row) = match side {
        Side::Outputs => (weight.stride as isize, 1),
        Side::Inputs => (1, weight.stride as isize),
    };
    // SAFETY: `Rows` guarantees that element (i, j) lies at `i * stride + j` inside its slice for all i < count and
    // j < width, the dimensions fit each other on either side, and `out` is borrowed mutably, so it overlaps neither operand.
    unsafe {
        gemm::gemm(
            out.count,
            out.width,
            x.width,
            out.data.as_mut_ptr(),
            1,
            out.stride as isize,
            product.accumulate,
            x.data.as_ptr(),
            1,
            x.stride as isize,
            weight.data.as_ptr(),
            column,
            row,
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
