//! Writing safetensors files.

use half::{bf16, f16};
use pulp::bytemuck::cast_slice;
use safetensors::SafeTensorError;
use safetensors::tensor::{Dtype, View};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::Path;

/// The nearest numbers of a format, ties to even, in little-endian order; the same memory where that is their own.
pub(crate) fn encode(numbers: &[f32], dtype: Dtype) -> Cow<'_, [u8]> {
    match dtype {
        Dtype::BF16 => numbers.iter().flat_map(|&number| bf16::from_f32(number).to_le_bytes()).collect(),
        Dtype::F16 => numbers.iter().flat_map(|&number| f16::from_f32(number).to_le_bytes()).collect(),
        _ if cfg!(target_endian = "little") => Cow::Borrowed(cast_slice(numbers)),
        _ => numbers.iter().flat_map(|number| number.to_le_bytes()).collect(),
    }
}

/// Writes tensors to a new file.
///
/// # Errors
/// When there is something at `path`, or it cannot be written.
pub(crate) fn write<V: View>(path: &Path, tensors: Vec<(String, V)>) -> io::Result<()> {
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    // The library makes files that no other user may read; this one is to be as readable as any.
    let made = File::create_new(path).and_then(|file| file.metadata())?;
    safetensors::serialize_to_file(tensors, Some(format), path).map_err(|error| match error {
        SafeTensorError::IoError(source) => source,
        other => io::Error::other(other),
    })?;
    fs::set_permissions(path, made.permissions())
}
