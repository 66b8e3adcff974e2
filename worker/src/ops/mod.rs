//! The operations of the decoder around attention.
//!
//! Each exists twice or more behind one function: as a kernel in f32 on the CPU, which works in place on buffers that the
//! caller reuses (candle allocates and clears a tensor per operation, which costs as much as the arithmetic at small
//! widths), in candle's operations for every other device, and as a kernel for NVIDIA GPUs. What takes them backwards, in
//! files of that name beside them, exists for f32 on the CPU alone.

use candle_core::{DType, Device};

pub(crate) mod add;
pub(crate) mod append;
pub(crate) mod bf16;
pub(crate) mod cross_entropy;
pub(crate) mod embedding;
pub(crate) mod linear;
pub(crate) mod losses;
pub(crate) mod rms_norm;
pub(crate) mod rotate;
pub(crate) mod silu_mul;
pub(crate) mod view;

/// Which implementation runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernels {
    /// This crate's, in f32 on the CPU (matrices of weights, and keys and values, may be kept in bf16). Arguments taken by
    /// value are overwritten.
    Cpu,
    /// Candle's operations, on any device and number format.
    Tensor,
    /// This crate's, for NVIDIA GPUs. Results are tensors of their own.
    #[cfg(feature = "cuda")]
    Cuda,
}

impl Kernels {
    /// The best there are on a device.
    pub fn of(device: &Device) -> Self {
        #[cfg(feature = "cuda")]
        if device.is_cuda() && crate::cuda::is_available(device) {
            return Self::Cuda;
        }
        if device.is_cpu() { Self::Cpu } else { Self::Tensor }
    }

    /// Their name, for people, in models of this format with heads of this size.
    #[cfg_attr(not(feature = "cuda"), expect(unused_variables, reason = "GPUs differ in what they have"))]
    pub fn name(self, device: &Device, dtype: DType, head_dim: usize) -> &'static str {
        match self {
            Self::Cpu => crate::simd::name(crate::simd::best()),
            Self::Tensor => "candle",
            #[cfg(feature = "cuda")]
            Self::Cuda => crate::cuda::name(device, dtype, head_dim),
        }
    }
}

/// Rows that one task of a parallel loop takes: enough work to be worth handing over.
pub(crate) fn rows_per_task(width: usize) -> usize {
    (16_384 / width.max(1)).max(1)
}
