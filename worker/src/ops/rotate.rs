//! Rotary embedding of queries and keys where they lie, side by side in the fused projection, with the normalisation
//! per head that some models put before it.
//!
//! Pair `i` of a head is its dimensions `i` and `i + pairs` ("rotate half"); dimensions from `2 * pairs` on stay:
//!
//! ```text
//! x'_i         = x_i cos_i         - x_{i+pairs} sin_i
//! x'_{i+pairs} = x_{i+pairs} cos_i + x_i         sin_i
//! ```

pub(crate) mod backward;

use super::rms_norm::normalise;
use super::view::{cpu_contiguous, rows, rows_mut};
use super::{Kernels, rows_per_task};
use crate::simd;
use candle_core::{CpuStorage, DType, InplaceOp3, Layout, Result, Tensor, bail};
use rayon::prelude::*;

/// Weights of the normalisation of every head before the rotation.
#[derive(Clone, Debug)]
pub(crate) struct HeadNorm {
    pub weight: Tensor,
    pub eps: f64,
}

/// Rotates the heads of `x`, `(rows, heads * head_dim)`, by `cos` and `sin`, `(rows, pairs)` in f32.
///
/// On the CPU `x`, which may be part of wider rows, is overwritten and returned.
pub(crate) fn rotate(
    kernels: Kernels,
    x: Tensor,
    head_dim: usize,
    (cos, sin): (&Tensor, &Tensor),
    norm: Option<&HeadNorm>,
) -> Result<Tensor> {
    match kernels {
        Kernels::Cpu => {
            x.inplace_op3(cos, sin, &Rotate { head_dim, norm })?;
            Ok(x)
        }
        #[cfg(feature = "cuda")]
        Kernels::Cuda => crate::cuda::rotate::rotate(&x, head_dim, (cos, sin), norm),
        Kernels::Tensor => rotate_tensor(&x, head_dim, cos, sin, norm),
    }
}

fn rotate_tensor(x: &Tensor, head_dim: usize, cos: &Tensor, sin: &Tensor, norm: Option<&HeadNorm>) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    let pairs = cos.dim(1)?;
    let mut heads = x.contiguous()?.reshape((rows, width / head_dim, head_dim))?;
    if let Some(norm) = norm {
        heads = candle_nn::ops::rms_norm(&heads, &norm.weight, norm.eps as f32)?;
    }
    // In f32 whatever the model's format: half-precision cosines are wrong beyond a few thousand positions.
    let heads = heads.to_dtype(DType::F32)?;
    let part = |start: usize, length: usize| heads.narrow(2, start, length);
    let (low, high, cos, sin) = (part(0, pairs)?, part(pairs, pairs)?, cos.unsqueeze(1)?, sin.unsqueeze(1)?);
    let mut parts = vec![
        (low.broadcast_mul(&cos)? - high.broadcast_mul(&sin)?)?,
        (high.broadcast_mul(&cos)? + low.broadcast_mul(&sin)?)?,
    ];
    if 2 * pairs < head_dim {
        parts.push(part(2 * pairs, head_dim - 2 * pairs)?);
    }
    Tensor::cat(&parts, 2)?.reshape((rows, width))?.to_dtype(x.dtype())
}

struct Rotate<'a> {
    head_dim: usize,
    norm: Option<&'a HeadNorm>,
}

impl InplaceOp3 for Rotate<'_> {
    fn name(&self) -> &'static str {
        "rotate"
    }

    fn cpu_fwd(
        &self,
        x: &mut CpuStorage,
        x_layout: &Layout,
        cos: &CpuStorage,
        cos_layout: &Layout,
        sin: &CpuStorage,
        sin_layout: &Layout,
    ) -> Result<()> {
        let (x, cos, sin) = (rows_mut(x, x_layout)?, rows(cos, cos_layout)?, rows(sin, sin_layout)?);
        let (width, stride, head_dim, pairs) = (x.width, x.stride, self.head_dim, cos.width);
        let fits = cos.count == x.count && sin.count == x.count && sin.width == pairs && sin.stride == cos.stride;
        if !fits || 2 * pairs > head_dim || width % head_dim != 0 {
            bail!("{pairs} pairs in {} rows do not fit {} rows of {width} by {head_dim}", cos.count, x.count);
        }
        let (arch, task, step) = (simd::best(), rows_per_task(width), cos.stride);
        let weight = self.norm.map(|norm| norm.weight.storage_and_layout());
        let norm = match (&weight, self.norm) {
            (Some((weight, layout)), Some(norm)) => Some((cpu_contiguous(weight, layout)?, norm.eps as f32)),
            _ => None,
        };
        if norm.is_some_and(|(weight, _)| weight.len() != head_dim) {
            bail!("heads of {head_dim} are normalised by other weights");
        }
        let angles = cos.data.par_chunks(step * task).zip(sin.data.par_chunks(step * task));
        x.data.par_chunks_mut(stride * task).zip(angles).for_each(|(rows, (cos, sin))| {
            for ((row, cos), sin) in rows.chunks_mut(stride).zip(cos.chunks(step)).zip(sin.chunks(step)) {
                arch.dispatch(|| {
                    for head in row[..width].chunks_exact_mut(head_dim) {
                        if let Some((weight, eps)) = norm {
                            normalise(head, weight, eps);
                        }
                        turn(head, &cos[..pairs], &sin[..pairs]);
                    }
                });
            }
        });
        Ok(())
    }
}

#[inline(always)]
fn turn(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (low, high) = head[..2 * cos.len()].split_at_mut(cos.len());
    for (((low, high), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
        (*low, *high) = (*low * cos - *high * sin, *high * cos + *low * sin);
    }
}

#[cfg(test)]
mod tests;
