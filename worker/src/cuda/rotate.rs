//! Rotary embedding of heads, with the normalisation per head that some models put before it.

use super::launch::{Format, Kernel, Operand, a_block_per_row, by_format, int};
use super::on_device::of_three;
use crate::ops::rotate::HeadNorm;
use crate::ops::view::{contiguous_range, extent};
use candle_core::backend::BackendStorage as _;
use candle_core::cuda_backend::WrapErr as _;
use candle_core::cuda_backend::cudarc::driver::{LaunchConfig, PushKernelArg as _};
use candle_core::{CudaStorage, Result, Shape, Storage, Tensor, bail};

/// Warps of a block: each takes one head after another.
const WARPS: u32 = 8;

/// Rotates the heads of `x`, `(rows, heads * head_dim)`, which may be part of wider rows, by `cos` and `sin`, `(rows, pairs)`
/// in f32. The result is a tensor of its own.
pub(crate) fn rotate(
    x: &Tensor,
    head_dim: usize,
    (cos, sin): (&Tensor, &Tensor),
    norm: Option<&HeadNorm>,
) -> Result<Tensor> {
    let rotate = Rotate { head_dim, norm };
    let run = |x: Operand<'_>, cos: Operand<'_>, sin: Operand<'_>| by_format!(x.0.dtype(), rotate.run(x, cos, sin));
    x.apply_op3_no_bwd(cos, sin, &of_three("rotate", run))
}

struct Rotate<'a> {
    head_dim: usize,
    norm: Option<&'a HeadNorm>,
}

impl Rotate<'_> {
    fn run<T: Format>(&self, (x, xl): Operand<'_>, cos: Operand<'_>, sin: Operand<'_>) -> Result<(CudaStorage, Shape)> {
        let (range, stride, rows, width) = extent(xl)?;
        let (head_dim, pairs) = (self.head_dim, cos.1.shape().dims2()?.1);
        let fits = cos.1.dims() == [rows, pairs] && sin.1.dims() == cos.1.dims();
        if !fits || 2 * pairs > head_dim || width % head_dim != 0 {
            bail!("{:?} angles do not fit {rows} rows of {width} by {head_dim}", cos.1.dims());
        }
        let device = x.device();
        // SAFETY: the kernel writes every number of the result.
        let mut out = unsafe { device.alloc::<T>(rows * width)? };
        let function = Kernel::load(device, &format!("rotate_{}", T::NAME))?;
        let x = x.as_cuda_slice::<T>()?.slice(range);
        let cos = cos.0.as_cuda_slice::<f32>()?.slice(contiguous_range(cos.1)?);
        let sin = sin.0.as_cuda_slice::<f32>()?.slice(contiguous_range(sin.1)?);
        let weight = self.norm.map(|norm| norm.weight.storage_and_layout());
        let weight = match &weight {
            Some((storage, layout)) => match &**storage {
                Storage::Cuda(storage) => Some(storage.as_cuda_slice::<T>()?.slice(contiguous_range(layout)?)),
                _ => bail!("the weights of the heads' normalisation are on another device"),
            },
            None => None,
        };
        if weight.as_ref().is_some_and(|weight| weight.len() != head_dim) {
            bail!("heads of {head_dim} are normalised by other weights");
        }
        let eps = self.norm.map_or(0.0, |norm| norm.eps as f32);
        let (stride, null) = (stride as i64, 0_u64);
        let (heads, head_dim, pairs) = (int(width / head_dim)?, int(head_dim)?, int(pairs)?);
        let config = LaunchConfig { block_dim: (32 * WARPS.min(heads as u32), 1, 1), ..a_block_per_row(rows, width)? };
        let mut launch = function.builder();
        launch.arg(&x).arg(&cos).arg(&sin);
        match &weight {
            Some(weight) => launch.arg(weight),
            None => launch.arg(&null),
        };
        launch.arg(&mut out).arg(&stride).arg(&heads).arg(&head_dim).arg(&pairs).arg(&eps);
        // SAFETY: the arguments are those of the kernel; a block reads a row of `x` as `extent` found it, a row of each
        // table and `head_dim` weights, all checked above, and writes one of the rows of `out`.
        unsafe { launch.launch(config) }.w()?;
        Ok((CudaStorage::wrap_cuda_slice(out, device.clone()), Shape::from((rows, width))))
    }
}
