//! Random streams by purpose, so that nothing but the specification decides what is drawn.
//!
//! Every candidate has a stream of its own, keyed by seed, generation and slot. Nothing is shared between streams:
//! how many numbers one candidate took, who evaluated it and when cannot change any other.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// What a stream is used for; different purposes never share numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Purpose {
    /// Variations of the seeds, which fill the first generation.
    Initial = 0,
    /// Mutations of parents.
    Mutation = 1,
    /// Crossovers of parents.
    Crossover = 2,
}

/// The stream of one slot of one generation.
pub fn stream(seed: u64, generation: u32, slot: u32, purpose: Purpose) -> ChaCha8Rng {
    let mut hash = blake3::Hasher::new_derive_key("ropewalk random stream v1");
    hash.update(&seed.to_le_bytes());
    for number in [generation, slot, purpose as u32] {
        hash.update(&number.to_le_bytes());
    }
    ChaCha8Rng::from_seed(*hash.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;
    use std::collections::HashSet;

    #[test]
    fn every_address_has_its_own_stream() {
        let mut first_numbers = HashSet::new();
        for seed in 0..4 {
            for generation in 0..4 {
                for slot in 0..4 {
                    for purpose in [Purpose::Initial, Purpose::Mutation, Purpose::Crossover] {
                        first_numbers.insert(stream(seed, generation, slot, purpose).next_u64());
                    }
                }
            }
        }
        assert_eq!(first_numbers.len(), 192);
    }

    /// A change of this number means that old seeds no longer repeat old searches.
    #[test]
    fn streams_do_not_change_between_versions() {
        assert_eq!(stream(7, 1, 2, Purpose::Mutation).next_u64(), 3_562_995_621_965_871_982);
    }
}
