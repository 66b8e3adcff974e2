//! The decoder's operations as kernels of this crate for NVIDIA GPUs.
//!
//! `kernels/` holds their text. It is compiled at run time, once per process, by NVRTC, which needs no header and no tool
//! kit. The same text is compiled as C++ and run on the processor by the tests.

#[cfg(feature = "cuda")]
mod flash;
#[cfg(feature = "cuda")]
mod hopper;
#[cfg(feature = "cuda")]
mod launch;
#[cfg(feature = "cuda")]
pub(crate) mod losses;
#[cfg(feature = "cuda")]
mod on_device;
#[cfg(feature = "cuda")]
pub(crate) mod rotate;
#[cfg(feature = "cuda")]
pub(crate) mod rows;
mod source;
#[cfg(feature = "cuda")]
mod streaming;
#[cfg(test)]
mod tests;

#[cfg(feature = "cuda")]
use crate::attention::{
    AttentionShape,
    choice::{Choice, Flash, choose},
};
#[cfg(feature = "cuda")]
use candle_core::{DType, Device, Result, Tensor};

/// Whether the kernels can be had on a device; says why in the log where not.
#[cfg(feature = "cuda")]
pub(crate) fn is_available(device: &Device) -> bool {
    // Loading one tells what compiling does not: whether the driver takes what this NVRTC writes.
    let loaded = device.as_cuda_device().and_then(|device| launch::Kernel::load(device, "add_f32"));
    if let Err(error) = &loaded {
        tracing::warn!(%error, "the GPU kernels cannot be had here: candle's operations are used, which are slower");
    }
    loaded.is_ok()
}

/// Attention of `q` over `k` and `v`, laid out as [`AttentionShape`] says.
#[cfg(feature = "cuda")]
pub(crate) fn attention(shape: AttentionShape, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    let device = q.device().as_cuda_device()?;
    let hopper = hopper::present(device, q.dtype(), shape.head_dim);
    match choose(&shape, q.dtype(), hopper, || flash::present(device)) {
        Choice::Hopper => hopper::attention(shape, q, k, v),
        Choice::Flash { left } => flash::attention(shape, left, q, k, v),
        Choice::Streaming => streaming::attention(shape, q, k, v),
    }
}

/// The kernels by name, for people, of models in this format with heads of this size.
#[cfg(feature = "cuda")]
pub(crate) fn name(device: &Device, dtype: DType, head_dim: usize) -> &'static str {
    let Ok(device) = device.as_cuda_device() else { return "cuda" };
    let shape = AttentionShape { heads: 1, kv_heads: 1, head_dim, window: None };
    let (hopper, flash) = (hopper::present(device, dtype, head_dim), || flash::present(device));
    match choose(&shape, dtype, hopper, flash) {
        Choice::Hopper => "cuda, own attention for Hopper",
        Choice::Flash { .. } if flash() == Flash::WithoutWindows => "cuda, flash attention without windows",
        Choice::Flash { .. } => "cuda, flash attention",
        Choice::Streaming => "cuda, streaming attention",
    }
}
