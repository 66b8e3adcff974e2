//! Matrices laid out as a matrix unit reads its second factor.
//!
//! Columns come in strips of 16, inputs in steps of 32. A step of a strip is a tile of 1 KiB: 16 rows, one for each pair of
//! inputs, with that pair of numbers for each of the columns. What a matrix does not fill is 0.

use super::aligned::Aligned;
use super::{DEPTH, MAX_TERMS, STRIP, TILE};
use crate::ops::bf16::{narrow_times, rounded};
use half::bf16;

/// A second factor, zero until it is written. Split in two parts it holds `x = hi + lo`.
#[derive(Debug)]
pub(crate) struct Packed {
    steps: usize,
    /// One or two parts, each strip by strip and in a strip step by step.
    parts: Vec<Aligned<bf16>>,
}

impl Packed {
    /// Zeros, in one part or two.
    pub fn zeros(columns: usize, inputs: usize, parts: usize) -> Self {
        // Blocks take two strips at a time.
        let (strips, steps) = (columns.div_ceil(2 * STRIP) * 2, inputs.div_ceil(DEPTH));
        let parts = (0..parts).map(|_| Aligned::zeros(strips * steps * TILE)).collect();
        Self { steps, parts }
    }

    /// The rows of `weights`, `width` numbers each, as columns: so `x` times the result is `x W^T`.
    pub fn of_rows(weights: &[f32], width: usize, parts: usize) -> Self {
        let mut packed = Self::zeros(weights.len() / width, width, parts);
        for (column, row) in weights.chunks_exact(width).enumerate() {
            packed.write_column(column, row);
        }
        packed
    }

    /// Number of strips, those of zeros included.
    pub fn strips(&self) -> usize {
        self.parts[0].len() / (self.steps * TILE)
    }

    /// Bytes of all parts.
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(|part| size_of_val(&**part)).sum()
    }

    /// Steps of a strip.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// Number of parts.
    pub fn parts(&self) -> usize {
        self.parts.len()
    }

    /// The strip that begins with column `16 * index`, of one part, from a step on.
    pub fn strip(&self, part: usize, index: usize, step: usize) -> &[bf16] {
        &self.parts[part][index * self.steps * TILE..][..self.steps * TILE][step * TILE..]
    }

    /// Writes the first numbers of a column.
    pub fn write_column(&mut self, column: usize, numbers: &[f32]) {
        let base = column / STRIP * self.steps * TILE + column % STRIP * 2;
        for (input, number) in numbers.iter().enumerate() {
            let at = base + input / DEPTH * TILE + input % DEPTH / 2 * 2 * STRIP + input % 2;
            self.write(at, *number);
        }
    }

    /// Writes one input of the first columns.
    pub fn write_input(&mut self, input: usize, numbers: &[f32]) {
        let base = input / DEPTH * TILE + input % DEPTH / 2 * 2 * STRIP + input % 2;
        for (column, number) in numbers.iter().enumerate() {
            self.write(column / STRIP * self.steps * TILE + base + column % STRIP * 2, *number);
        }
    }

    fn write(&mut self, at: usize, number: f32) {
        let mut rest = number;
        for part in &mut self.parts {
            part[at] = rounded(rest);
            rest -= part[at].to_f32();
        }
    }
}

/// Rows of a first factor, split as [`Packed`] is: `parts` times `rows` times `stride` numbers.
#[derive(Default)]
pub(crate) struct Rows {
    data: Aligned<bf16>,
    stride: usize,
    size: usize,
}

impl Rows {
    /// Makes room for `rows` rows of `steps` steps in `parts` parts, all zero.
    pub fn clear(&mut self, parts: usize, rows: usize, steps: usize) {
        self.stride = steps * DEPTH;
        self.size = rows * self.stride;
        self.data.clear(parts * self.size);
    }

    /// Numbers from one row to the next.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Writes the first numbers of a row, times `factor`.
    #[inline(always)]
    pub fn write(&mut self, row: usize, numbers: &[f32], factor: f32) {
        let begin = row * self.stride;
        let (hi, lo) = self.data.split_at_mut(self.size);
        let hi = &mut hi[begin..][..numbers.len()];
        if lo.is_empty() {
            narrow_times(numbers, factor, hi);
        } else {
            for ((hi, lo), number) in hi.iter_mut().zip(&mut lo[begin..]).zip(numbers) {
                let number = number * factor;
                *hi = rounded(number);
                *lo = rounded(number - hi.to_f32());
            }
        }
    }

    /// The rows of one part from `row` on.
    pub fn from(&self, part: usize, row: usize) -> &[bf16] {
        &self.data[part * self.size..][..self.size][row * self.stride..]
    }
}

/// Which parts of the first and the second factor are multiplied: all but `lo lo`.
pub(super) fn pairs(parts: usize) -> &'static [(usize, usize)] {
    const PAIRS: [(usize, usize); MAX_TERMS] = [(0, 0), (0, 1), (1, 0)];
    if parts == 1 { &PAIRS[..1] } else { &PAIRS }
}
