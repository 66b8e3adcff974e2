//! Products with weights that are kept in bf16: a panel of them is widened at a time, and multiplied in f32.

use super::{Product, Side, multiply};
use crate::ops::bf16::widen;
use crate::ops::view::{Rows, RowsMut};
use crate::simd;
use half::bf16;
use rayon::prelude::*;
use std::cell::Cell;

/// Numbers in a panel of weights. Every panel reads all rows of `x` again, so it should be large; widened, it should stay
/// in a cache that the threads share.
const PANEL: usize = 1 << 20;

thread_local! {
    /// Room for a panel. Taken, not borrowed: while a thread waits for the others it may begin another product.
    static ROOM: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// `out = x W^T`, or added to what is there, on all threads of the current pool. The order of additions depends on the
/// shapes alone.
pub(super) fn multiply_widened(out: &mut RowsMut<'_>, x: Rows<'_>, weight: Rows<'_, bf16>, accumulate: bool) {
    let product = Product { accumulate, side: Side::Outputs };
    let outputs = (PANEL / weight.width).max(1).next_multiple_of(64);
    let mut room = ROOM.take();
    for first in (0..weight.count).step_by(outputs) {
        let count = outputs.min(weight.count - first);
        room.resize(count * weight.width, 0.0);
        let (arch, rows) = (simd::best(), room.par_chunks_mut(weight.width).with_min_len(32));
        rows.zip(weight.data[first * weight.stride..].par_chunks(weight.stride)).for_each(|(to, from)| {
            arch.dispatch(|| widen(&from[..weight.width], to));
        });
        let panel = Rows { data: &room, stride: weight.width, width: weight.width, count };
        let end = (out.count - 1) * out.stride + first + count;
        let part = RowsMut { data: &mut out.data[first..end], stride: out.stride, width: count, count: out.count };
        multiply(part, x, panel, &product);
    }
    ROOM.set(room);
}
