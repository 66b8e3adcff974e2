//! Tensors of safetensors files, memory-mapped: one file, or shards with an index.

use super::LoadError;
use super::config::DecoderSpec;
use super::names::{LAYERS, LayerNames, layer_of};
use half::{bf16, f16};
use memmap2::{Mmap, UncheckedAdvice};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Component, Path, PathBuf};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Bytes of a tensor, or one row where that is more, that are decoded at a time.
const BLOCK_BYTES: usize = 256 << 10;
/// How the file begins that git-lfs keeps in the place of another.
const LFS_POINTER: &[u8] = b"version https://git-lfs";

/// The opened weight files of a model.
#[derive(Debug)]
pub struct WeightFiles {
    dir: PathBuf,
    files: Vec<WeightFile>,
    /// The file of every tensor.
    places: BTreeMap<String, usize>,
}

#[derive(Debug)]
struct WeightFile {
    path: PathBuf,
    map: Mmap,
    /// Where the tensors' data begins.
    data: usize,
    metadata: Metadata,
}

/// A tensor as it is stored.
#[derive(Clone, Debug)]
pub(crate) struct Stored<'a> {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: &'a [u8],
}

/// A tensor in the shape that it was looked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found<'a> {
    file: &'a WeightFile,
    name: &'a str,
    info: &'a TensorInfo,
}

/// The weight files of a folder in the order of their names: `model.safetensors`, or the shards of its index.
///
/// # Errors
/// [`LoadError::NoWeights`] when there are none, [`LoadError::Index`] when the index is unusable or names a file
/// outside the folder.
pub fn files_of(dir: &Path) -> Result<Vec<PathBuf>, LoadError> {
    Ok(listed(dir)?.0)
}

/// The same, and which file the index names for each tensor.
fn listed(dir: &Path) -> Result<(Vec<PathBuf>, BTreeMap<String, String>), LoadError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    if dir.join(SINGLE).exists() {
        return Ok((vec![dir.join(SINGLE)], BTreeMap::new()));
    }
    let path = dir.join(INDEX);
    if !path.exists() {
        return Err(LoadError::NoWeights { dir: dir.to_owned() });
    }
    let text = std::fs::read(&path).map_err(|source| LoadError::Io { path: path.clone(), source })?;
    let index: Index = serde_json::from_slice(&text)
        .map_err(|error| LoadError::Index { path: path.clone(), reason: format!("no usable weight_map: {error}") })?;
    let names: BTreeSet<&String> = index.weight_map.values().collect();
    if names.is_empty() {
        return Err(LoadError::Index { path, reason: "weight_map is empty".into() });
    }
    let paths = names.into_iter().map(|name| match inside(name) {
        true => Ok(dir.join(name)),
        false => {
            let reason = format!("weight_map names {name:?}, which is not a file of this folder");
            Err(LoadError::Index { path: path.clone(), reason })
        }
    });
    Ok((paths.collect::<Result<_, _>>()?, index.weight_map))
}

/// Whether a name from a downloaded file stays in its folder.
fn inside(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
    plain && !name.contains(['/', '\\'])
}

// === impl WeightFiles ===

impl WeightFiles {
    /// Maps the weight files of a model folder and reads their headers.
    ///
    /// # Errors
    /// Those of [`files_of`]; [`LoadError::Truncated`] and [`LoadError::Header`] for damaged files,
    /// [`LoadError::LfsPointer`] for those that were not fetched.
    pub fn open(dir: &Path) -> Result<Self, LoadError> {
        let (paths, map) = listed(dir)?;
        let files = paths.into_iter().map(WeightFile::open).collect::<Result<Vec<_>, _>>()?;
        let mut places = BTreeMap::new();
        for (index, file) in files.iter().enumerate() {
            for name in file.metadata.tensors().into_keys() {
                // Of those that stand in several files the index says which one counts.
                let named = map.get(&name).is_some_and(|named| file.path.ends_with(named));
                if named || !places.contains_key(&name) {
                    places.insert(name, index);
                }
            }
        }
        Ok(Self { dir: dir.to_owned(), files, places })
    }

    /// Name and shape of every tensor.
    pub fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        let shape = |name: &String| Some(self.place(name)?.1.shape.clone());
        self.places.keys().filter_map(|name| Some((name.clone(), shape(name)?))).collect()
    }

    /// The file that a tensor is taken from, and what its header says of it.
    fn place(&self, tensor: &str) -> Option<(&WeightFile, &TensorInfo)> {
        let file = &self.files[*self.places.get(tensor)?];
        Some((file, file.metadata.info(tensor)?))
    }

    /// Checks that no layer is there beside the `layers` that a decoder has: without its last layers a model is another.
    ///
    /// # Errors
    /// [`LoadError::SurplusLayer`].
    pub fn check_layers(&self, layers: usize) -> Result<(), LoadError> {
        let names = self.places.keys();
        let surplus = names.filter_map(|name| Some((layer_of(name).filter(|layer| *layer >= layers)?, name)));
        let surplus: BTreeSet<(usize, &String)> = surplus.collect();
        match (surplus.first(), surplus.last()) {
            (Some((_, tensor)), Some((last, _))) => Err(LoadError::SurplusLayer {
                tensor: (*tensor).clone(),
                dir: self.dir.clone(),
                layers,
                found: last.saturating_add(1),
            }),
            _ => Ok(()),
        }
    }

    /// Checks that the layers have no tensor that the decoder has no use for: without its biases a model is another.
    ///
    /// # Errors
    /// [`LoadError::UnusedTensor`].
    pub(crate) fn check_used(&self, spec: &DecoderSpec) -> Result<(), LoadError> {
        let used = |name: &str| layer_of(name).is_some_and(|layer| LayerNames::of(spec, layer).has(name));
        let unused: Vec<&String> = self.places.keys().filter(|name| name.starts_with(LAYERS) && !used(name)).collect();
        match unused.first() {
            Some(tensor) => Err(LoadError::UnusedTensor {
                tensor: (*tensor).clone(),
                dir: self.dir.clone(),
                others: unused.len() - 1,
            }),
            None => Ok(()),
        }
    }

    /// The files in order, and every tensor that is taken from each in the order of the names.
    pub(crate) fn stored(&self) -> impl Iterator<Item = (&Path, impl Iterator<Item = Stored<'_>>)> {
        self.files.iter().enumerate().map(move |(index, file)| {
            let taken = move |stored: &Stored<'_>| self.places.get(&stored.name) == Some(&index);
            (file.path.as_path(), file.stored().filter(taken))
        })
    }

    /// Looks for a tensor of this shape.
    ///
    /// # Errors
    /// [`LoadError::MissingTensor`] or [`LoadError::Shape`].
    pub(crate) fn find<'a>(&'a self, tensor: &'a str, shape: &[usize]) -> Result<Found<'a>, LoadError> {
        let Some((file, info)) = self.place(tensor) else {
            return Err(LoadError::MissingTensor { tensor: tensor.to_owned(), dir: self.dir.clone() });
        };
        if info.shape != shape {
            return Err(LoadError::Shape {
                path: file.path.clone(),
                tensor: tensor.to_owned(),
                expected: shape.to_vec(),
                got: info.shape.clone(),
            });
        }
        Ok(Found { file, name: tensor, info })
    }
}

// === impl Found ===

impl Found<'_> {
    /// How many numbers it has. They are there: headers are checked against the files.
    pub fn count(&self) -> usize {
        self.info.shape.iter().product()
    }

    /// Hands its numbers to `take`, some rows at a time.
    ///
    /// # Errors
    /// [`LoadError::TensorFormat`].
    pub fn read(&self, mut take: impl FnMut(&[f32])) -> Result<(), LoadError> {
        let Self { file, info, .. } = self;
        let (begin, end) = file.extent(info);
        let row_bytes = ((end - begin) / info.shape.first().map_or(1, |rows| *rows).max(1)).max(1);
        let step = (BLOCK_BYTES / row_bytes).max(1) * row_bytes;
        let mut numbers = Vec::new();
        for at in (begin..end).step_by(step) {
            let bytes = &file.map[at..end.min(at + step)];
            numbers.clear();
            if !decode(bytes, info.dtype, &mut numbers) {
                let (path, got) = (file.path.clone(), format!("{:?}", info.dtype).to_lowercase());
                return Err(LoadError::TensorFormat { path, tensor: self.name.to_owned(), got });
            }
            // Mapped pages count as memory of this process until they are given back.
            // SAFETY: the map is of a file and never written, so its pages can be read again at any time.
            let _ = unsafe { file.map.unchecked_advise_range(UncheckedAdvice::DontNeed, at, bytes.len()) };
            take(&numbers);
        }
        Ok(())
    }
}

// === impl WeightFile ===

impl WeightFile {
    fn open(path: PathBuf) -> Result<Self, LoadError> {
        let io = |source| LoadError::Io { path: path.clone(), source };
        let file = File::open(&path).map_err(io)?;
        // SAFETY: the map is only read, as bytes, and every value of a byte is valid. Who changes a model's file while
        // it is being loaded gets other weights, and who cuts it off a bus error: the price of mapping files at all.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        if map.starts_with(LFS_POINTER) {
            return Err(LoadError::LfsPointer { path });
        }
        if let Some(expected) = announced_bytes(&map).filter(|expected| *expected > map.len() as u64) {
            return Err(LoadError::Truncated { path, expected, got: map.len() as u64 });
        }
        match SafeTensors::read_metadata(&map) {
            Ok((header, metadata)) => Ok(Self { path, data: 8 + header, metadata, map }),
            Err(error) => Err(LoadError::Header { path, reason: error.to_string() }),
        }
    }

    fn stored(&self) -> impl Iterator<Item = Stored<'_>> {
        let tensors: BTreeMap<String, &TensorInfo> = self.metadata.tensors().into_iter().collect();
        tensors.into_iter().map(|(name, info)| {
            let (begin, end) = self.extent(info);
            Stored { name, dtype: info.dtype, shape: info.shape.clone(), bytes: &self.map[begin..end] }
        })
    }

    /// Where a tensor's bytes are; in bounds, since the library has checked the offsets against shape, format and file.
    fn extent(&self, info: &TensorInfo) -> (usize, usize) {
        (self.data + info.data_offsets.0, self.data + info.data_offsets.1)
    }
}

/// Adds the numbers that `bytes` hold in a format to `out`; whether it is one of those that models are read in.
pub(crate) fn decode(bytes: &[u8], dtype: Dtype, out: &mut Vec<f32>) -> bool {
    let (pairs, quads) = (bytes.as_chunks::<2>().0, bytes.as_chunks::<4>().0);
    match dtype {
        Dtype::F32 => out.extend(quads.iter().map(|bytes| f32::from_le_bytes(*bytes))),
        Dtype::BF16 => out.extend(pairs.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32())),
        Dtype::F16 => out.extend(pairs.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32())),
        _ => return false,
    }
    true
}

/// Size that a file must have by its own header; `None` when that cannot be read.
fn announced_bytes(bytes: &[u8]) -> Option<u64> {
    let header = u64::from_le_bytes(*bytes.first_chunk()?);
    let Some(text) = bytes.get(8..).and_then(|rest| rest.get(..usize::try_from(header).ok()?)) else {
        // Not even the header is whole. A size beyond any sensible header is no safetensors file at all.
        return (header < 1 << 27).then_some(8 + header);
    };
    let tensors: BTreeMap<String, serde_json::Value> = serde_json::from_slice(text).ok()?;
    let ends = tensors.values().filter_map(|tensor| tensor.get("data_offsets")?.get(1)?.as_u64());
    (8 + header).checked_add(ends.max().unwrap_or(0))
}

#[cfg(test)]
mod tests;
