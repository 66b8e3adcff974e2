//! Losses of a whole pass, chunk by chunk. On a GPU they stay there until they are asked for, once, at the end: to ask is to
//! wait for the device.

use super::Kernels;
use super::cross_entropy::CrossEntropy;
#[cfg(feature = "cuda")]
use crate::cuda::losses as cuda;
use candle_core::{Device, Result, Tensor};

/// The losses so far.
pub(crate) enum Losses {
    /// Sum in nats, and how many targets no other token of the vocabulary exceeds.
    Host { nll: f64, correct: u64 },
    #[cfg(feature = "cuda")]
    Device(cuda::Losses),
}

/// What is known of the rows of a chunk, whose logits arrive a part of the vocabulary at a time.
pub(crate) enum RowLosses<'a> {
    Host(CrossEntropy<'a>),
    #[cfg(feature = "cuda")]
    Device(Box<cuda::RowLosses>),
}

impl Losses {
    /// None yet, of at most so many chunks.
    #[cfg_attr(not(feature = "cuda"), expect(unused_variables, reason = "they say where the sums are kept on a GPU"))]
    pub fn new(kernels: Kernels, device: &Device, chunks: usize) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if kernels == Kernels::Cuda {
            return Ok(Self::Device(cuda::Losses::new(device, chunks)?));
        }
        Ok(Self::Host { nll: 0.0, correct: 0 })
    }

    /// Starts the rows of a chunk.
    pub fn rows<'a>(&self, targets: &'a [u32]) -> Result<RowLosses<'a>> {
        match self {
            Self::Host { .. } => Ok(RowLosses::Host(CrossEntropy::new(targets))),
            #[cfg(feature = "cuda")]
            Self::Device(losses) => Ok(RowLosses::Device(Box::new(losses.rows(targets)?))),
        }
    }

    /// Adds the rows of a chunk, after all parts of the vocabulary.
    pub fn take(&mut self, rows: RowLosses<'_>) -> Result<()> {
        match (self, rows) {
            (Self::Host { nll, correct }, RowLosses::Host(rows)) => {
                *correct += rows.correct();
                *nll += rows.finish();
                Ok(())
            }
            #[cfg(feature = "cuda")]
            (Self::Device(losses), RowLosses::Device(rows)) => losses.take(&rows),
            #[cfg(feature = "cuda")]
            _ => candle_core::bail!("rows and sums are on different devices"),
        }
    }

    /// Sum of the negative log-likelihoods, in nats, and how many targets have the highest likelihood of their row.
    pub fn total(&self) -> Result<(f64, u64)> {
        match self {
            Self::Host { nll, correct } => Ok((*nll, *correct)),
            #[cfg(feature = "cuda")]
            Self::Device(losses) => losses.total(),
        }
    }
}

impl RowLosses<'_> {
    /// Takes in the logits of the vocabulary from `first` on, `(rows, part of the vocabulary)`; those from 0 on come first.
    pub fn add(&mut self, kernels: Kernels, logits: &Tensor, first: usize) -> Result<()> {
        match self {
            Self::Host(rows) => rows.add(kernels, logits, first),
            #[cfg(feature = "cuda")]
            Self::Device(rows) => rows.add(logits, first),
        }
    }
}
