//! Candle's operations of several operands, for what is computed on CUDA devices alone.

use super::launch::Operand;
use candle_core::{CpuStorage, CudaStorage, CustomOp3, InplaceOp2, Layout, Result, Shape, bail};

/// An operation that the processor has not.
pub(super) struct OnDevice<F> {
    name: &'static str,
    run: F,
}

/// An operand that is written over.
pub(super) type OperandMut<'a> = (&'a mut CudaStorage, &'a Layout);

/// A new tensor from three.
pub(super) fn of_three<F>(name: &'static str, run: F) -> OnDevice<F>
where
    F: Fn(Operand<'_>, Operand<'_>, Operand<'_>) -> Result<(CudaStorage, Shape)>,
{
    OnDevice { name, run }
}

/// A change of the first tensor by the second.
pub(super) fn in_place<F>(name: &'static str, run: F) -> OnDevice<F>
where
    F: Fn(OperandMut<'_>, Operand<'_>) -> Result<()>,
{
    OnDevice { name, run }
}

impl<F> CustomOp3 for OnDevice<F>
where
    F: Fn(Operand<'_>, Operand<'_>, Operand<'_>) -> Result<(CudaStorage, Shape)>,
{
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        bail!("this {} is for CUDA devices", self.name)
    }

    fn cuda_fwd(
        &self,
        a: &CudaStorage,
        al: &Layout,
        b: &CudaStorage,
        bl: &Layout,
        c: &CudaStorage,
        cl: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        (self.run)((a, al), (b, bl), (c, cl))
    }
}

impl<F> InplaceOp2 for OnDevice<F>
where
    F: Fn(OperandMut<'_>, Operand<'_>) -> Result<()>,
{
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<()> {
        bail!("this {} is for CUDA devices", self.name)
    }

    fn cuda_fwd(&self, a: &mut CudaStorage, al: &Layout, b: &CudaStorage, bl: &Layout) -> Result<()> {
        (self.run)((a, al), (b, bl))
    }
}
