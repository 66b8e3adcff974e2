//! A matrix unit in plain code.

use super::{BLOCK, DEPTH, Part, STRIP, TILE, Target, terms};

/// See [`super::Session::block`], which has checked the lengths.
pub(super) fn block(hi: &Part<'_>, lo: Option<&Part<'_>>, steps: usize, target: &mut Target<'_>) {
    for i in 0..BLOCK {
        let out = &mut target.data[i * target.stride..][..BLOCK];
        let mut sums = [0.0f32; BLOCK];
        if target.add {
            sums.copy_from_slice(out);
        }
        for term in terms(hi, lo) {
            let rows = term.a[i / STRIP].chunks_exact(TILE).take(steps);
            for (half, strip) in term.b.iter().enumerate() {
                let sums = &mut sums[half * STRIP..][..STRIP];
                for (rows, tile) in rows.clone().zip(strip.chunks_exact(TILE)) {
                    let row = &rows[i % STRIP * DEPTH..][..DEPTH];
                    // A row of a tile holds a pair of numbers for every column.
                    for (a, pairs) in row.chunks_exact(2).zip(tile.chunks_exact(2 * STRIP)) {
                        for (sum, b) in sums.iter_mut().zip(pairs.chunks_exact(2)) {
                            *sum += a[0].to_f32() * b[0].to_f32() + a[1].to_f32() * b[1].to_f32();
                        }
                    }
                }
            }
        }
        out.copy_from_slice(&sums);
    }
}
