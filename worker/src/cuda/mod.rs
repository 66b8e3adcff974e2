//! The decoder's operations as kernels of this crate for NVIDIA GPUs.
//!
//! `kernels/` holds their text. It is compiled at run time, once per process, by NVRTC, which needs no header and no tool
//! kit. The same text is compiled as C++ and run on the processor by the tests.

#[cfg(feature = "cuda")]
mod flash;
#[cfg(feature = "cuda")]
mod launch;
#[cfg(feature = "cuda")]
pub(crate) mod losses;
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
use candle_core::{Device, Result, Tensor};

/// Whether the kernels can be had in this process; says why in the log where not.
#[cfg(feature = "cuda")]
pub(crate) fn is_available() -> bool {
    let program = launch::program();
    if let Err(error) = program {
        tracing::warn!(%error, "NVRTC does not compile the GPU kernels: candle's operations are used, which are slower");
    }
    program.is_ok()
}

/// Attention of `q` over `k` and `v`, laid out as [`AttentionShape`] says.
#[cfg(feature = "cuda")]
pub(crate) fn attention(shape: AttentionShape, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    match choose(&shape, q.dtype(), flash::present(q.device().as_cuda_device()?)) {
        Choice::Flash { left } => flash::attention(shape, left, q, k, v),
        Choice::Streaming => streaming::attention(shape, q, k, v),
    }
}

/// The kernels by name, for people.
#[cfg(feature = "cuda")]
pub(crate) fn name(device: &Device) -> &'static str {
    match device.as_cuda_device().map(flash::present) {
        Ok(Flash::Whole) => "cuda, flash attention",
        Ok(Flash::WithoutWindows) => "cuda, flash attention without windows",
        _ => "cuda, streaming attention",
    }
}
