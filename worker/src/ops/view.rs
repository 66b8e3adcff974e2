//! Rows of numbers in a CPU tensor, which may be part of wider rows, and the rows of several heads. Numbers are f32 where
//! nothing else is said; what is only kept, and not computed with, may be bf16.

use candle_core::{CpuStorage, Layout, Result, Shape, Storage, WithDType, bail};
use half::bf16;

/// `count` rows of `width` numbers that start `stride` apart; `data` begins with the first and ends with the last.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a, T = f32> {
    pub data: &'a [T],
    pub stride: usize,
    pub width: usize,
    pub count: usize,
}

/// [`Rows`] that can be written.
pub(crate) struct RowsMut<'a, T = f32> {
    pub data: &'a mut [T],
    pub stride: usize,
    pub width: usize,
    pub count: usize,
}

/// Rows of `dim` numbers for each of several heads: `count` of them next to each other, heads `stride` apart.
#[derive(Clone, Copy)]
pub(crate) struct Heads<'a, T = f32> {
    pub data: &'a [T],
    pub stride: usize,
    pub heads: usize,
    pub count: usize,
    pub dim: usize,
}

/// [`Heads`] that can be written.
pub(crate) struct HeadsMut<'a, T = f32> {
    pub data: &'a mut [T],
    pub stride: usize,
    pub heads: usize,
    pub count: usize,
    pub dim: usize,
}

/// Numbers that rows are made of.
pub(crate) trait Number: WithDType {
    /// Those of a tensor, to be written; `None` when it holds others.
    fn slice_mut(storage: &mut CpuStorage) -> Option<&mut [Self]>;
}

impl Number for f32 {
    fn slice_mut(storage: &mut CpuStorage) -> Option<&mut [Self]> {
        if let CpuStorage::F32(data) = storage { Some(data) } else { None }
    }
}

impl Number for bf16 {
    fn slice_mut(storage: &mut CpuStorage) -> Option<&mut [Self]> {
        if let CpuStorage::BF16(data) = storage { Some(data) } else { None }
    }
}

/// The rows of a matrix.
///
/// # Errors
/// When it is not f32, has another rank than 2, or its rows are not contiguous.
pub(crate) fn rows<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<Rows<'a>> {
    rows_of(storage, layout)
}

/// The rows of a matrix of any [`Number`]s.
///
/// # Errors
/// As [`rows`].
pub(crate) fn rows_of<'a, T: Number>(storage: &'a CpuStorage, layout: &Layout) -> Result<Rows<'a, T>> {
    let (range, stride, count, width) = extent(layout)?;
    let data = &storage.as_slice::<T>()?[range];
    Ok(Rows { data, stride, width, count })
}

/// The rows of a matrix that is not an operand of candle's call.
///
/// # Errors
/// As [`rows`], and when it is not on the CPU.
pub(crate) fn cpu_rows<'a>(storage: &'a Storage, layout: &Layout) -> Result<Rows<'a>> {
    match storage {
        Storage::Cpu(storage) => rows(storage, layout),
        _ => bail!("a matrix on the CPU is needed here"),
    }
}

/// The rows of a matrix, to be written.
///
/// # Errors
/// As [`rows`].
pub(crate) fn rows_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<RowsMut<'a>> {
    rows_of_mut(storage, layout)
}

/// The rows of a matrix of any [`Number`]s, to be written.
///
/// # Errors
/// As [`rows`].
pub(crate) fn rows_of_mut<'a, T: Number>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<RowsMut<'a, T>> {
    let (range, stride, count, width) = extent(layout)?;
    match T::slice_mut(storage) {
        Some(data) => Ok(RowsMut { data: &mut data[range], stride, width, count }),
        None => bail!("a matrix of {:?} is needed here", T::DTYPE),
    }
}

/// The heads of a tensor `(heads, rows, head_dim)`.
///
/// # Errors
/// When it holds other numbers, has another rank, or the rows of a head do not lie next to each other.
pub(crate) fn heads<'a, T: Number>(storage: &'a CpuStorage, layout: &Layout) -> Result<Heads<'a, T>> {
    let (range, stride, [heads, count, dim]) = heads_extent(layout)?;
    let data = &storage.as_slice::<T>()?[range];
    Ok(Heads { data, stride, heads, count, dim })
}

/// The heads of a tensor, to be written.
///
/// # Errors
/// As [`heads`].
pub(crate) fn heads_mut<'a, T: Number>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<HeadsMut<'a, T>> {
    let (range, stride, [heads, count, dim]) = heads_extent(layout)?;
    match T::slice_mut(storage) {
        Some(data) => Ok(HeadsMut { data: &mut data[range], stride, heads, count, dim }),
        None => bail!("a tensor of {:?} is needed here", T::DTYPE),
    }
}

/// All numbers of a contiguous tensor.
///
/// # Errors
/// When it is not f32 or not contiguous.
pub(crate) fn contiguous<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    Ok(&storage.as_slice::<f32>()?[contiguous_range(layout)?])
}

/// All numbers of a contiguous tensor that is not an operand of candle's call.
///
/// # Errors
/// As [`contiguous`], and when it is not on the CPU.
pub(crate) fn cpu_contiguous<'a>(storage: &'a Storage, layout: &Layout) -> Result<&'a [f32]> {
    match storage {
        Storage::Cpu(storage) => contiguous(storage, layout),
        _ => bail!("a tensor on the CPU is needed here"),
    }
}

/// All numbers of a contiguous tensor, to be written.
///
/// # Errors
/// As [`contiguous`].
pub(crate) fn contiguous_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    match (layout.contiguous_offsets(), storage) {
        (Some((begin, end)), CpuStorage::F32(data)) => Ok(&mut data[begin..end]),
        _ => bail!("a contiguous f32 tensor is needed here, got {layout:?}"),
    }
}

/// Where a contiguous tensor lies in its storage.
///
/// # Errors
/// When it is not contiguous.
pub(crate) fn contiguous_range(layout: &Layout) -> Result<std::ops::Range<usize>> {
    match layout.contiguous_offsets() {
        Some((begin, end)) => Ok(begin..end),
        None => bail!("a contiguous tensor is needed here, got {layout:?}"),
    }
}

/// Where the rows of a matrix lie in its storage: the range from the first number to the last, the stride, rows, columns.
///
/// # Errors
/// When it has another rank than 2, is empty, or its rows are not contiguous.
pub(crate) fn extent(layout: &Layout) -> Result<(std::ops::Range<usize>, usize, usize, usize)> {
    let (&[count, width], &[stride, 1]) = (layout.dims(), layout.stride()) else {
        bail!("rows are needed here, got {layout:?}");
    };
    if count == 0 || width == 0 || (count > 1 && stride < width) {
        bail!("rows must not be empty or overlap, got {:?}", Shape::from(layout.dims()));
    }
    let begin = layout.start_offset();
    Ok((begin..begin + (count - 1) * stride + width, stride.max(width), count, width))
}

/// The same of a tensor `(heads, rows, head_dim)`: range, stride of the heads, and the three sizes.
///
/// # Errors
/// When it has another rank, is empty, or the rows of a head do not lie next to each other.
pub(crate) fn heads_extent(layout: &Layout) -> Result<(std::ops::Range<usize>, usize, [usize; 3])> {
    let (&[heads, count, dim], &[stride, row, 1]) = (layout.dims(), layout.stride()) else {
        bail!("heads are needed here, got {layout:?}");
    };
    let size = count * dim;
    if heads == 0 || size == 0 || row != dim || (heads > 1 && stride < size) {
        bail!("heads must not be empty or overlap, got {layout:?}");
    }
    let begin = layout.start_offset();
    Ok((begin..begin + (heads - 1) * stride + size, stride.max(size), [heads, count, dim]))
}
