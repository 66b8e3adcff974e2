//! The feed-forward block on a matrix unit: `x + down(silu(gate) * up)`.
//!
//! Gate and up of 32 columns at a time never leave the cache: what comes of them is rounded to the parts that the last product
//! takes, and that product is added up over parts of its inputs that a core's own cache holds.

use super::tiled::{Tiled, share};
use super::{EveryRow, Linear};
use crate::model::config::DecoderSpec;
use crate::ops::silu_mul::Gate;
use crate::ops::view::{Rows, RowsMut, rows, rows_mut};
use crate::simd;
use crate::tiles::aligned::Aligned;
use crate::tiles::packed;
use crate::tiles::{BLOCK, DEPTH};
use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor, bail};
use half::bf16;
use rayon::prelude::*;
use std::cell::Cell;

/// Numbers of the rows and of what comes of them that a core's own cache holds beside weights.
const ROOM_NUMBERS: usize = 3 << 18;

thread_local! {
    static ROOM: Cell<Room> = Cell::default();
}

/// Scratch of a thread.
#[derive(Default)]
struct Room {
    x: packed::Rows,
    /// `silu(gate) * up`.
    gated: packed::Rows,
    /// `(rows, BLOCK)` each.
    gate: Aligned<f32>,
    up: Aligned<f32>,
}

/// Both projections of a block.
pub(crate) struct Gated<'a> {
    /// Outputs: gate, up.
    gate_up: &'a Tiled,
    down: &'a Tiled,
}

/// Whether the blocks of a model are computed so, where a matrix unit computes its projections.
pub(crate) fn applies(spec: &DecoderSpec) -> bool {
    fits(spec.intermediate, spec.mlp_bias)
}

fn fits(intermediate: usize, bias: bool) -> bool {
    !bias && intermediate.is_multiple_of(BLOCK)
}

/// Bytes of the scratch of all threads together, where each has 32 tokens of a chunk or more, in so many parts: their rows, what comes of them (less
/// where that is more than a core's cache holds), and a panel of each of gate and up.
pub(crate) fn scratch_bytes(spec: &DecoderSpec, tokens: usize, parts: usize) -> usize {
    tokens * (size_of::<bf16>() * parts * (spec.hidden + spec.intermediate) + 2 * size_of::<f32>() * BLOCK)
}

/// `sum + down(silu(gate(x)) * up(x))`, where a matrix unit computes both projections; `sum` is overwritten and returned. None
/// where it does not, or the block is another than [`applies`] says.
pub(crate) fn add_gated(gate_up: &Linear, down: &Linear, sum: &Tensor, x: &Tensor) -> Result<Option<Tensor>> {
    let (Some(gates), Some(tiled)) = (&gate_up.tiled, &down.tiled) else { return Ok(None) };
    if !fits(tiled.inputs(), gate_up.bias.is_some()) {
        return Ok(None);
    }
    if let Some(bias) = &down.bias {
        sum.inplace_op2(bias, &EveryRow { add: true })?;
    }
    sum.inplace_op2(x, &Gated { gate_up: gates, down: tiled })?;
    Ok(Some(sum.clone()))
}

impl Gated<'_> {
    /// Adds what becomes of rows of `x` to as many of `out`.
    fn rows(&self, out: &mut RowsMut<'_>, x: Rows<'_>) {
        let (gate_up, down) = (self.gate_up, self.down);
        let (parts, width) = (gate_up.weights.parts(), down.inputs());
        let whole = x.count.next_multiple_of(BLOCK);
        let columns = self.columns_at_a_time();
        let Room { x: mut packed, mut gated, mut gate, mut up } = ROOM.take();
        packed.clear(parts, x.count, gate_up.weights.steps());
        for (row, x) in x.data.chunks(x.stride).enumerate() {
            simd::best().dispatch(|| packed.write(row, &x[..gate_up.inputs()], 1.0));
        }
        gate.clear(whole * BLOCK);
        up.clear(whole * BLOCK);
        gate_up.unit.session(|session| {
            for first in (0..width).step_by(columns) {
                let end = (first + columns).min(width);
                gated.clear(parts, x.count, (end - first) / DEPTH);
                for column in (first..end).step_by(BLOCK) {
                    gate_up.panel(session, &packed, column, &mut gate);
                    gate_up.panel(session, &packed, width + column, &mut up);
                    simd::best().dispatch(Gate(&mut gate, &up));
                    gated.write_step((column - first) / DEPTH, &gate);
                }
                down.product(session, &gated, first / DEPTH, out, true);
            }
        });
        ROOM.set(Room { x: packed, gated, gate, up });
    }

    /// Columns of the block that are taken at a time: a multiple of [`BLOCK`], and the same however rows are shared out, since
    /// it says in which order they are added up.
    fn columns_at_a_time(&self) -> usize {
        let all = ROOM_NUMBERS / (self.gate_up.rows_at_a_time() * self.gate_up.weights.parts());
        (all.saturating_sub(self.gate_up.inputs()) / BLOCK * BLOCK).max(8 * BLOCK)
    }
}

impl InplaceOp2 for Gated<'_> {
    fn name(&self) -> &'static str {
        "gated"
    }

    fn cpu_fwd(&self, out: &mut CpuStorage, out_layout: &Layout, x: &CpuStorage, x_layout: &Layout) -> Result<()> {
        let (out, x) = (rows_mut(out, out_layout)?, rows(x, x_layout)?);
        let alike = self.gate_up.unit == self.down.unit && self.gate_up.weights.parts() == self.down.weights.parts();
        let fits = alike && self.gate_up.count() == 2 * self.down.inputs() && x.width == self.gate_up.inputs();
        if !fits || out.width != self.down.count() || out.count != x.count {
            let shapes = [(out.count, out.width), (x.count, x.width), (self.gate_up.count(), self.down.inputs())];
            bail!("shapes do not fit a gated block (out, x, gate and up to down): {shapes:?}");
        }
        // What is computed for a row does not depend on the rows beside it.
        let share = share(x.count, self.gate_up.rows_at_a_time());
        let tasks = out.data.par_chunks_mut(out.stride * share).zip(x.data.par_chunks(x.stride * share));
        tasks.for_each(|(to, from)| {
            let count = from.len().div_ceil(x.stride);
            let mut to = RowsMut { data: to, stride: out.stride, width: out.width, count };
            self.rows(&mut to, Rows { data: from, stride: x.stride, width: x.width, count });
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Kernels;
    use crate::ops::silu_mul::silu_mul;
    use crate::tiles::tests::units;
    use candle_core::{DType, Device};
    use proptest::prelude::*;

    fn matrix(rows: usize, width: usize, seed: usize) -> Tensor {
        let number = |i: usize| ((i + seed) * 7919 % 1013) as f32 / 506.0 - 1.0;
        Tensor::from_vec((0..rows * width).map(number).collect::<Vec<_>>(), (rows, width), &Device::Cpu).unwrap()
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// On every unit, in one part and two, against the three operations in f32.
    fn check(rows: usize, hidden: usize, width: usize) {
        let linear = |outputs, inputs, seed| {
            let scale = 1.0 / (inputs as f64).sqrt();
            Linear::new((matrix(outputs, inputs, seed) * scale).unwrap(), None)
        };
        let (gate_up, x) = (linear(2 * width, hidden, 1), matrix(rows, hidden, 3));
        let mut down = linear(hidden, width, 2);
        down.bias = Some(matrix(1, hidden, 5).squeeze(0).unwrap());
        let out = Tensor::zeros((rows, 2 * width), DType::F32, &Device::Cpu).unwrap();
        let gates = gate_up.forward(Kernels::Cpu, &x, Some(out)).unwrap();
        let gates = silu_mul(Kernels::Cpu, gates).unwrap();
        let want = values(&down.add_to(Kernels::Cpu, matrix(rows, hidden, 4), &gates).unwrap());
        for (unit, parts, tolerance) in units().into_iter().flat_map(|unit| [(unit, 1, 2e-2), (unit, 2, 5e-5)]) {
            let (gate_up, down) = (gate_up.tiled(unit, parts).unwrap(), down.tiled(unit, parts).unwrap());
            let on = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let sum = matrix(rows, hidden, 4);
                pool.install(|| values(&add_gated(&gate_up, &down, &sum, &x).unwrap().unwrap()))
            };
            let got = on(1);
            let tolerance = tolerance * want.iter().copied().map(f32::abs).fold(1.0, f32::max);
            for (got, want) in got.iter().zip(&want) {
                assert!((got - want).abs() < tolerance, "{}: {got} for {want}, {parts} parts", unit.name());
            }
            assert!([3, 4, 8].iter().all(|threads| got == on(*threads)), "threads");
        }
    }

    #[test]
    fn it_is_the_three_operations_in_one() {
        // The last is more columns than are taken at a time.
        for (rows, hidden, width) in [(1, 16, 32), (37, 40, 96), (70, 33, 64), (300, 2500, 608)] {
            check(rows, hidden, width);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 20, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn blocks_of_any_shape_are(rows in 1usize..80, hidden in 1usize..130, blocks in 1usize..5) {
            check(rows, hidden, blocks * BLOCK);
        }
    }

    #[test]
    fn other_blocks_are_left_to_others() {
        let tiled = |outputs, inputs| Linear::new(matrix(outputs, inputs, 1), None).tiled(units()[0], 1).unwrap();
        let (sum, x) = (matrix(3, 16, 1), matrix(3, 16, 2));
        assert!(add_gated(&tiled(80, 16), &tiled(16, 40), &sum, &x).unwrap().is_none(), "a part of a block");
        let mut biased = tiled(64, 16);
        biased.bias = Some(matrix(1, 64, 1).squeeze(0).unwrap());
        assert!(add_gated(&biased, &tiled(16, 32), &sum, &x).unwrap().is_none(), "a bias");
        let plain = Linear::new(matrix(64, 16, 1), None);
        assert!(add_gated(&plain, &tiled(16, 32), &sum, &x).unwrap().is_none(), "no unit");
        assert!(add_gated(&tiled(64, 16), &tiled(16, 32), &matrix(2, 16, 1), &x).is_err(), "fewer rows");
        assert!(add_gated(&tiled(96, 16), &tiled(16, 32), &sum, &x).is_err(), "other gates");
    }
}
