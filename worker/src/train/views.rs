//! Numbers as tensors of a safetensors file: as they lie in memory, or made ready one tensor at a time.

use super::TrainError;
use crate::model::written::{self, encode};
use crate::ops::view::cpu_contiguous;
use candle_core::Tensor;
use safetensors::tensor::{Dtype, View};
use std::borrow::Cow;
use std::path::Path;

/// A tensor to be written.
pub(super) enum Written<'a> {
    /// f32 numbers as they are.
    Numbers(&'a [f32], Vec<usize>),
    /// Rows of a weight in this format, from the first on.
    Rows { weight: &'a Tensor, first: usize, shape: Vec<usize>, dtype: Dtype },
    /// Bytes of another file.
    Bytes { bytes: &'a [u8], shape: Vec<usize>, dtype: Dtype },
}

impl View for Written<'_> {
    fn dtype(&self) -> Dtype {
        match self {
            Self::Numbers(..) => Dtype::F32,
            Self::Rows { dtype, .. } | Self::Bytes { dtype, .. } => *dtype,
        }
    }

    fn shape(&self) -> &[usize] {
        match self {
            Self::Numbers(_, shape) | Self::Rows { shape, .. } | Self::Bytes { shape, .. } => shape,
        }
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match self {
            Self::Numbers(numbers, _) => encode(numbers, Dtype::F32),
            Self::Bytes { bytes, .. } => Cow::Borrowed(bytes),
            Self::Rows { weight, first, shape, dtype } => {
                // A weight on the CPU whose rows were counted when it was read: this cannot fail.
                let encoded = weight.narrow(0, *first, shape[0]).and_then(|rows| {
                    let (storage, layout) = rows.storage_and_layout();
                    Ok(encode(cpu_contiguous(&storage, layout)?, *dtype).into_owned())
                });
                Cow::Owned(encoded.unwrap_or_default())
            }
        }
    }

    fn data_len(&self) -> usize {
        match self {
            Self::Bytes { bytes, .. } => bytes.len(),
            _ => self.shape().iter().product::<usize>() * if self.dtype() == Dtype::F32 { 4 } else { 2 },
        }
    }
}

/// Writes tensors to a new file.
pub(super) fn write(path: &Path, tensors: Vec<(String, Written<'_>)>) -> Result<(), TrainError> {
    written::write(path, tensors).map_err(TrainError::io("write", path))
}
