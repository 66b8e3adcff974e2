//! Numbers as tensors of a safetensors file, made ready one tensor at a time.

use super::TrainError;
use candle_core::Tensor;
use half::{bf16, f16};
use safetensors::SafeTensorError;
use safetensors::tensor::{Dtype, View};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
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
            Self::Numbers(numbers, _) => Cow::Owned(encode(numbers, Dtype::F32)),
            Self::Bytes { bytes, .. } => Cow::Borrowed(bytes),
            Self::Rows { weight, first, shape, dtype } => {
                // A weight on the CPU whose rows were counted when it was read: this cannot fail.
                let rows = weight.narrow(0, *first, shape[0]).and_then(|rows| rows.flatten_all()?.to_vec1::<f32>());
                Cow::Owned(encode(&rows.unwrap_or_default(), *dtype))
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

/// The nearest numbers of a format, ties to even, in little-endian order.
fn encode(numbers: &[f32], dtype: Dtype) -> Vec<u8> {
    match dtype {
        Dtype::BF16 => numbers.iter().flat_map(|&number| bf16::from_f32(number).to_le_bytes()).collect(),
        Dtype::F16 => numbers.iter().flat_map(|&number| f16::from_f32(number).to_le_bytes()).collect(),
        _ => numbers.iter().flat_map(|number| number.to_le_bytes()).collect(),
    }
}

/// Writes tensors to a new file.
pub(super) fn write(path: &Path, tensors: Vec<(String, Written<'_>)>) -> Result<(), TrainError> {
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    // The library makes files that no other user may read; this one is to be as readable as any.
    let made = File::create_new(path).and_then(|file| file.metadata()).map_err(TrainError::io("write", path))?;
    safetensors::serialize_to_file(tensors, Some(format), path).map_err(|error| {
        let source = match error {
            SafeTensorError::IoError(source) => source,
            other => io::Error::other(other),
        };
        TrainError::io("write", path)(source)
    })?;
    fs::set_permissions(path, made.permissions()).map_err(TrainError::io("write", path))
}
