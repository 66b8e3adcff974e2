//! Normalisation, gate, and adding to a layer's keys and values: what is done to each row by itself.

use super::launch::{Format, Kernel, Operand, a_block_per_row, by_format, int};
use super::on_device::{OperandMut, in_place};
use crate::ops::view::{contiguous_range, extent, heads_extent};
use candle_core::backend::BackendStorage as _;
use candle_core::cuda_backend::WrapErr as _;
use candle_core::cuda_backend::cudarc::driver::PushKernelArg as _;
use candle_core::{CpuStorage, CudaStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};

/// Rows of `x`, `(rows, width)`, which may be part of wider ones, divided by their root mean square and times `weight`.
pub(crate) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    x.apply_op2_no_bwd(weight, &RmsNorm { eps: eps as f32 })
}

/// From rows of `gate | up`, `(rows, 2 * width)`, to `silu(gate) * up`, `(rows, width)`.
pub(crate) fn silu_mul(gate_up: &Tensor) -> Result<Tensor> {
    gate_up.apply_op1_no_bwd(&SiluMul)
}

/// Copies rows of heads into `cache`, `(heads, capacity, head_dim)`, from `position` on.
pub(crate) fn append(cache: &Tensor, x: &Tensor, position: usize) -> Result<()> {
    let append = Append { position };
    let run = |cache: OperandMut<'_>, x: Operand<'_>| by_format!(x.0.dtype(), append.run(cache, x));
    cache.inplace_op2(x, &in_place("append", run))
}

/// `sums += x`, both `(rows, width)`.
pub(crate) fn add(sums: &Tensor, x: &Tensor) -> Result<()> {
    let run = |sums: OperandMut<'_>, x: Operand<'_>| by_format!(x.0.dtype(), Add.run(sums, x));
    sums.inplace_op2(x, &in_place("add", run))
}

struct RmsNorm {
    eps: f32,
}

struct Add;

struct SiluMul;

struct Append {
    position: usize,
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("this rms-norm is for CUDA devices")
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        xl: &Layout,
        weight: &CudaStorage,
        wl: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        by_format!(x.dtype(), self.run(x, xl, weight, wl))
    }
}

impl RmsNorm {
    fn run<T: Format>(
        &self,
        x: &CudaStorage,
        xl: &Layout,
        weight: &CudaStorage,
        wl: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (range, stride, rows, width) = extent(xl)?;
        let weights = contiguous_range(wl)?;
        if weights.len() != width {
            bail!("rms-norm of {width} columns with {} weights", weights.len());
        }
        let device = x.device();
        // SAFETY: the kernel writes every number of the result.
        let mut out = unsafe { device.alloc::<T>(rows * width)? };
        let function = Kernel::load(device, &format!("rms_norm_{}", T::NAME))?;
        let (x, weight) = (x.as_cuda_slice::<T>()?.slice(range), weight.as_cuda_slice::<T>()?.slice(weights));
        let (stride, columns) = (stride as i64, int(width)?);
        let mut launch = function.builder();
        launch.arg(&x).arg(&weight).arg(&mut out).arg(&stride).arg(&columns).arg(&self.eps);
        // SAFETY: the arguments are those of the kernel, and a block reads `width` numbers from `stride` times its row
        // on, which `extent` found to lie inside `x`, and writes one of the rows of `out`.
        unsafe { launch.launch(a_block_per_row(rows, width)?) }.w()?;
        Ok((CudaStorage::wrap_cuda_slice(out, device.clone()), Shape::from((rows, width))))
    }
}

impl CustomOp1 for SiluMul {
    fn name(&self) -> &'static str {
        "silu-mul"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("this silu-mul is for CUDA devices")
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        by_format!(x.dtype(), self.run(x, layout))
    }
}

impl SiluMul {
    fn run<T: Format>(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (range, stride, rows, both) = extent(layout)?;
        if both % 2 != 0 {
            bail!("gate and up have {both} columns together, which is odd");
        }
        let (device, width) = (x.device(), both / 2);
        // SAFETY: the kernel writes every number of the result.
        let mut out = unsafe { device.alloc::<T>(rows * width)? };
        let function = Kernel::load(device, &format!("silu_mul_{}", T::NAME))?;
        let (x, stride, columns) = (x.as_cuda_slice::<T>()?.slice(range), stride as i64, int(width)?);
        let mut launch = function.builder();
        launch.arg(&x).arg(&mut out).arg(&stride).arg(&columns);
        // SAFETY: the arguments are those of the kernel, and a block reads `2 * width` numbers from `stride` times its
        // row on, which `extent` found to lie inside `x`, and writes one of the rows of `out`.
        unsafe { launch.launch(a_block_per_row(rows, width)?) }.w()?;
        Ok((CudaStorage::wrap_cuda_slice(out, device.clone()), Shape::from((rows, width))))
    }
}

impl Add {
    fn run<T: Format>(&self, (sums, sl): OperandMut<'_>, (x, xl): Operand<'_>) -> Result<()> {
        let ((rows, width), place) = (sl.shape().dims2()?, contiguous_range(sl)?);
        if sl.dims() != xl.dims() {
            bail!("{:?} cannot be added to {:?}", xl.dims(), sl.dims());
        }
        let function = Kernel::load(x.device(), &format!("add_{}", T::NAME))?;
        let x = x.as_cuda_slice::<T>()?.slice(contiguous_range(xl)?);
        let mut sums = sums.as_cuda_slice_mut::<T>()?.slice_mut(place);
        let columns = int(width)?;
        let mut launch = function.builder();
        launch.arg(&mut sums).arg(&x).arg(&columns);
        // SAFETY: the arguments are those of the kernel; a block reads and writes one of `rows` rows of `width` numbers, which
        // lie next to each other in both.
        unsafe { launch.launch(a_block_per_row(rows, width)?) }.w()?;
        Ok(())
    }
}

impl Append {
    fn run<T: Format>(&self, (cache, cl): OperandMut<'_>, (x, xl): Operand<'_>) -> Result<()> {
        let (range, stride, rows, width) = extent(xl)?;
        let (place, capacity, [heads, count, dim]) = heads_extent(cl)?;
        // Heads of a part of a cache would need a stride of their own.
        if capacity != count * dim || width != heads * dim || self.position + rows > count {
            let position = self.position;
            bail!("{rows} rows of {width} do not fit {heads} heads of {count} rows of {dim} at {position}");
        }
        let function = Kernel::load(x.device(), &format!("append_{}", T::NAME))?;
        let x = x.as_cuda_slice::<T>()?.slice(range);
        let mut cache = cache.as_cuda_slice_mut::<T>()?.slice_mut(place);
        let [stride, count, position] = [stride, count, self.position].map(|x| x as i64);
        let (heads, dim) = (int(heads)?, int(dim)?);
        let mut launch = function.builder();
        launch.arg(&x).arg(&mut cache).arg(&stride).arg(&count).arg(&position).arg(&heads).arg(&dim);
        // SAFETY: the arguments are those of the kernel; a block reads a row of `x` as `extent` found it and writes row
        // `position` plus its own of every head, which was found to be below `count`.
        unsafe { launch.launch(a_block_per_row(rows, width)?) }.w()?;
        Ok(())
    }
}
