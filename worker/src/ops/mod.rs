//! The operations of the decoder around attention.
//!
//! Each exists twice behind one function: as a kernel in f32 on the CPU, which works in place on buffers that the
//! caller reuses (candle allocates and clears a tensor per operation, which costs as much as the arithmetic at small
//! widths), and in candle's operations for every other device. What takes them backwards, in files of that name beside
//! them, exists for f32 on the CPU alone.

pub(crate) mod add;
pub(crate) mod append;
pub(crate) mod bf16;
pub(crate) mod cross_entropy;
pub(crate) mod embedding;
pub(crate) mod linear;
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
}

/// Rows that one task of a parallel loop takes: enough work to be worth handing over.
pub(crate) fn rows_per_task(width: usize) -> usize {
    (16_384 / width.max(1)).max(1)
}
