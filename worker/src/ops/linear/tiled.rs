//! Products with weights laid out for a matrix unit.

use crate::ops::view::{Rows, RowsMut, rows, rows_mut};
use crate::simd;
use crate::tiles::aligned::Aligned;
use crate::tiles::packed::{self, Packed};
use crate::tiles::{BLOCK, DEPTH, STRIP, Session, Target, Unit};
use candle_core::{CpuStorage, DType, InplaceOp2, Layout, Result, Tensor, bail};
use rayon::prelude::*;
use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;

/// Rows of `x` that a thread multiplies by all weights at most: so often is a strip of weights used once it has come into the
/// cache.
const ROWS: usize = 16 * BLOCK;
/// Numbers of `x` that a core's own cache holds beside weights.
const ROOM_NUMBERS: usize = 1 << 19;
/// Numbers of a row, in all parts, that are multiplied at a time: [`ROOM_NUMBERS`] of fewer than 128 rows would read the weights too often.
const INPUTS: usize = 4096;
/// Numbers of a tensor, or one row where that is more, that are laid out at a time.
const BLOCK_NUMBERS: usize = 1 << 15;

thread_local! {
    /// Room for rows of `x`. Taken, not borrowed: while a thread waits for the others it may begin another product.
    static ROOM: Cell<packed::Rows> = Cell::default();
}

/// Some of the outputs of weights that a matrix unit multiplies.
#[derive(Clone, Debug)]
pub(crate) struct Tiled {
    pub(super) unit: Unit,
    pub(super) weights: Arc<Packed>,
    inputs: usize,
    first: usize,
    count: usize,
}

impl Tiled {
    /// Lays out weights of `(outputs, inputs)`, split into so many parts. `read` hands over their rows in order, some at a
    /// time: all of them in another form beside this one may be more than there is memory for.
    pub fn new<E>(
        (unit, parts): (Unit, usize),
        (count, inputs): (usize, usize),
        read: impl FnOnce(&mut dyn FnMut(&[f32])) -> std::result::Result<(), E>,
    ) -> std::result::Result<Self, E> {
        let (mut weights, mut output) = (Packed::zeros(count, inputs, parts), 0);
        read(&mut |rows| {
            for row in rows.chunks_exact(inputs) {
                weights.write_column(output, row);
                output += 1;
            }
        })?;
        Ok(Self { unit, weights: Arc::new(weights), inputs, first: 0, count })
    }

    /// The same of a tensor.
    pub fn of(tiles: (Unit, usize), weight: &Tensor) -> Result<Self> {
        let (count, inputs) = weight.dims2()?;
        let rows = (BLOCK_NUMBERS / inputs.max(1)).max(1);
        Self::new(tiles, (count, inputs), |take| {
            for first in (0..count).step_by(rows) {
                let block = weight.narrow(0, first, rows.min(count - first))?.to_dtype(DType::F32)?;
                take(&block.flatten_all()?.to_vec1::<f32>()?);
            }
            Ok(())
        })
    }

    /// Inputs of each output.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Number of outputs.
    pub fn count(&self) -> usize {
        self.count
    }

    /// `count` of the outputs from `first` on.
    pub fn outputs(&self, first: usize, count: usize) -> Self {
        assert!(first + count <= self.count, "outputs {first} to {} of {}", first + count, self.count);
        Self { first: self.first + first, count, ..self.clone() }
    }

    /// Bytes of all the weights that this is a part of.
    pub fn bytes(&self) -> u64 {
        self.weights.bytes() as u64
    }

    /// `out = x W^T`, or added to what is there; `out` is `(rows, outputs)`.
    pub fn multiply(&self, x: &Tensor, out: &Tensor, accumulate: bool) -> Result<()> {
        out.inplace_op2(x, &Product { tiled: self, accumulate })
    }

    /// Rows of so many inputs that a thread takes at a time.
    pub(super) fn rows_at_a_time(&self) -> usize {
        let numbers = self.inputs.min(INPUTS) * self.weights.parts();
        (ROOM_NUMBERS / numbers.max(1) / BLOCK * BLOCK).clamp(4 * BLOCK, ROWS)
    }

    /// Multiplies rows of `x` into as many of `out`.
    fn rows(&self, out: &mut RowsMut<'_>, x: Rows<'_>, accumulate: bool) {
        let inputs = INPUTS / self.weights.parts();
        let mut room = ROOM.take();
        self.unit.session(|session| {
            for first in (0..self.inputs).step_by(inputs) {
                let end = (first + inputs).min(self.inputs);
                room.clear(self.weights.parts(), x.count, (end - first).div_ceil(DEPTH));
                for (row, x) in x.data.chunks(x.stride).enumerate() {
                    simd::best().dispatch(|| room.write(row, &x[first..end], 1.0));
                }
                self.product(session, &room, first / DEPTH, out, accumulate || first > 0);
            }
        });
        ROOM.set(room);
    }

    /// Multiplies rows by the weights from a step of their inputs on.
    pub(super) fn product(
        &self,
        session: &Session,
        x: &packed::Rows,
        step: usize,
        out: &mut RowsMut<'_>,
        accumulate: bool,
    ) {
        let mut block = Aligned::zeros(BLOCK * BLOCK);
        for column in (self.first / STRIP * STRIP..self.first + self.count).step_by(BLOCK) {
            for row in (0..out.count).step_by(BLOCK) {
                let whole =
                    row + BLOCK <= out.count && column >= self.first && column + BLOCK <= self.first + self.count;
                if whole {
                    let data = &mut out.data[row * out.stride + column - self.first..];
                    let mut target = Target { data, stride: out.stride, add: accumulate };
                    self.block(session, x, (row, column), step, &mut target);
                } else {
                    // As a whole block is: what is there comes first in the sum.
                    if accumulate {
                        self.places(row, column, out).for_each(|(at, place)| block[at].copy_from_slice(place));
                    }
                    let mut target = Target { data: &mut block, stride: BLOCK, add: accumulate };
                    self.block(session, x, (row, column), step, &mut target);
                    self.places(row, column, out).for_each(|(at, place)| place.copy_from_slice(&block[at]));
                }
            }
        }
    }

    /// Writes [`BLOCK`] of the outputs from `column` on, a multiple of 16, of so many rows to `panel`, `(rows, BLOCK)`; whole
    /// blocks of rows are written.
    pub(super) fn panel(&self, session: &Session, x: &packed::Rows, column: usize, panel: &mut [f32]) {
        for (block, data) in panel.chunks_exact_mut(BLOCK * BLOCK).enumerate() {
            let mut target = Target { data, stride: BLOCK, add: false };
            self.block(session, x, (block * BLOCK, self.first + column), 0, &mut target);
        }
    }

    fn block(
        &self,
        session: &Session,
        x: &packed::Rows,
        (row, column): (usize, usize),
        step: usize,
        target: &mut Target<'_>,
    ) {
        let (weights, left) = (&*self.weights, column / STRIP);
        // The last strip may stand alone; what its neighbour would give is not used.
        let right = (left + 1).min(weights.strips() - 1);
        session.multiply((x, row), (weights, [left, right], step), x.steps(), target);
    }

    /// The numbers of a block that are there, row by row: where they stand in the block, and their places in `out`.
    fn places<'o>(
        &self,
        row: usize,
        column: usize,
        out: &'o mut RowsMut<'_>,
    ) -> impl Iterator<Item = (Range<usize>, &'o mut [f32])> {
        let skip = self.first.saturating_sub(column);
        let begin = column + skip - self.first;
        let width = (BLOCK - skip).min(self.count - begin);
        let rows = out.data.chunks_mut(out.stride).skip(row).take(BLOCK).enumerate();
        rows.map(move |(index, out)| (index * BLOCK + skip..index * BLOCK + skip + width, &mut out[begin..][..width]))
    }
}

/// Rows of so many that a task takes: as many as this, or fewer so that all threads have some.
pub(super) fn share(rows: usize, most: usize) -> usize {
    rows.div_ceil(rayon::current_num_threads()).next_multiple_of(BLOCK).min(most)
}

struct Product<'a> {
    tiled: &'a Tiled,
    accumulate: bool,
}

impl InplaceOp2 for Product<'_> {
    fn name(&self) -> &'static str {
        "tiled-linear"
    }

    fn cpu_fwd(&self, out: &mut CpuStorage, out_layout: &Layout, x: &CpuStorage, x_layout: &Layout) -> Result<()> {
        let (out, x, tiled) = (rows_mut(out, out_layout)?, rows(x, x_layout)?, self.tiled);
        if (out.count, out.width, x.width) != (x.count, tiled.count, tiled.inputs) {
            let shapes = [(out.count, out.width), (x.count, x.width), (tiled.count, tiled.inputs)];
            bail!("shapes do not fit a projection (out, x, weight): {shapes:?}");
        }
        // What is computed for a row does not depend on the rows beside it.
        let share = share(x.count, tiled.rows_at_a_time());
        let tasks = out.data.par_chunks_mut(out.stride * share).zip(x.data.par_chunks(x.stride * share));
        tasks.for_each(|(to, from)| {
            let count = from.len().div_ceil(x.stride);
            let mut to = RowsMut { data: to, stride: out.stride, width: out.width, count };
            tiled.rows(&mut to, Rows { data: from, stride: x.stride, width: x.width, count }, self.accumulate);
        });
        Ok(())
    }
}
