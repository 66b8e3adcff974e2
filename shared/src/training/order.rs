//! Which sequence is trained on when.

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// The index of the sequence at `slot` of the whole training, of `count` there are: each in its turn, and when they are
/// used up again, in another order each time, which depends on nothing but the seed.
pub fn sequence_at(slot: u64, count: usize, seed: u64) -> usize {
    let (round, index) = (slot / count as u64, (slot % count as u64) as usize);
    if round == 0 {
        return index;
    }
    permutation(count, seed, round)[index]
}

/// A permutation of `0..count`.
pub(super) fn permutation(count: usize, seed: u64, stream: u64) -> Vec<usize> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    let mut order: Vec<usize> = (0..count).collect();
    // Fisher and Yates, written out: the order must not change with a library.
    for last in (1..count).rev() {
        order.swap(last, rng.random_range(0..=last as u64) as usize);
    }
    order
}
