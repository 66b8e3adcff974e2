//! Matrices laid out as a matrix unit reads them, in tiles of 1 KiB that it loads with one instruction.
//!
//! [`Packed`] is a second factor: columns come in strips of 16, inputs in steps of 32. A step of a strip is a tile: 16 rows,
//! one for each pair of inputs, with that pair of numbers for each of the columns. [`Rows`] is a first factor: a step of 16
//! rows is a tile of these rows. What a matrix does not fill is 0.

use super::aligned::Aligned;
use super::{BLOCK, DEPTH, STRIP, TILE, split};
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
    #[inline(always)]
    pub fn strip(&self, part: usize, index: usize, step: usize) -> &[bf16] {
        &self.parts[part][index * self.steps * TILE..][..self.steps * TILE][step * TILE..]
    }

    /// Writes the first numbers of a column.
    #[inline(always)]
    pub fn write_column(&mut self, column: usize, numbers: &[f32]) {
        let [hi, lo] = self.from(column / STRIP * self.steps * TILE + column % STRIP * 2);
        split::write_column(numbers, hi, lo);
    }

    /// Writes one input of the first columns.
    #[inline(always)]
    pub fn write_input(&mut self, input: usize, numbers: &[f32]) {
        let (apart, side) = (self.steps * TILE, input % 2);
        let [hi, lo] = self.from(input / 2 * 2 * STRIP);
        for (column, number) in numbers.iter().enumerate() {
            split::write(*number, column / STRIP * apart + column % STRIP * 2 + side, hi, lo);
        }
    }

    /// Writes two inputs, `input`, which is even, and the next, of the first columns.
    #[inline(always)]
    pub fn write_two_inputs(&mut self, input: usize, rows: [&[f32]; 2]) {
        let apart = self.steps * TILE;
        let [hi, lo] = self.from(input / 2 * 2 * STRIP);
        split::write_pair(rows, apart, hi, lo);
    }

    /// Both parts from place `at` on; the second is empty where there is one.
    fn from(&mut self, at: usize) -> [&mut [bf16]; 2] {
        let (hi, lo) = self.parts.split_at_mut(1);
        [&mut hi[0][at..], lo.first_mut().map(|lo| &mut lo[at..]).unwrap_or_default()]
    }
}

/// A first factor, zero until it is written, split as [`Packed`] is. Each part lies 16 rows by 16 rows, and of these step by
/// step.
#[derive(Default)]
pub(crate) struct Rows {
    data: Aligned<bf16>,
    steps: usize,
    /// Numbers of a part.
    size: usize,
}

impl Rows {
    /// Makes room for so many rows, or a few more up to a whole block, of `steps` steps in `parts` parts, all zero.
    pub fn clear(&mut self, parts: usize, rows: usize, steps: usize) {
        self.steps = steps;
        self.size = rows.next_multiple_of(BLOCK) * steps * DEPTH;
        self.data.clear(parts * self.size);
    }

    /// Steps of a row.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// Writes one step of the first rows, `(rows, DEPTH)`.
    #[inline(always)]
    pub fn write_step(&mut self, step: usize, numbers: &[f32]) {
        let apart = self.steps * TILE;
        let (hi, lo) = self.data.split_at_mut(self.size);
        split::write_step(numbers, apart, &mut hi[step * TILE..], lo.get_mut(step * TILE..).unwrap_or_default());
    }

    /// Writes the first numbers of a row, times `factor`.
    #[inline(always)]
    pub fn write(&mut self, row: usize, numbers: &[f32], factor: f32) {
        let [hi, lo] = self.row_mut(row);
        split::write_row(numbers, factor, hi, lo);
    }

    /// Both parts from a row on, of which [`DEPTH`] numbers lie in each tile; the second is empty where there is one.
    #[inline(always)]
    pub fn row_mut(&mut self, row: usize) -> [&mut [bf16]; 2] {
        let begin = row / STRIP * self.steps * TILE + row % STRIP * DEPTH;
        let (hi, lo) = self.data.split_at_mut(self.size);
        [&mut hi[begin..], lo.get_mut(begin..).unwrap_or_default()]
    }

    /// The tiles of one part of 16 rows from `row` on, a multiple of that.
    #[inline(always)]
    pub fn half(&self, part: usize, row: usize) -> &[bf16] {
        assert!(row.is_multiple_of(STRIP), "16 rows begin with a multiple of it");
        let part = &self.data[part * self.size..][..self.size];
        &part[row / STRIP * self.steps * TILE..][..self.steps * TILE]
    }
}
