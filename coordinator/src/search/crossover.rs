//! Crossover: a child that has each factor from one of two parents.

use rand::{Rng, RngExt};
use ropewalk_shared::candidate::Candidate;
use ropewalk_shared::space::SearchSpace;

/// Chance that the child goes over to the other parent at a dimension.
///
/// Neighbouring pairs belong together, so a child takes whole stretches from each parent (about three at 32 pairs).
const SWITCH: f64 = 0.1;

/// A child of two parents; each factor, and the starting tokens, come from one of them.
///
/// Dimensions are gone through upward or downward. A switch of parents that would break the constraint waits until it
/// no longer does; staying with a parent always fits, because each is monotone. So the child is monotone by
/// construction and nothing is repaired.
pub fn crossover(space: &SearchSpace, first: &Candidate, second: &Candidate, rng: &mut impl Rng) -> Candidate {
    let parents = [first, second];
    let upward = rng.random_bool(0.5);
    let mut from = usize::from(rng.random_bool(0.5));
    let mut wanted = from;
    let mut factors = vec![0; space.pairs];
    let mut previous = None;
    for step in 0..space.pairs {
        let pair = if upward { step } else { space.pairs - 1 - step };
        if rng.random_bool(SWITCH) {
            wanted = 1 - wanted;
        }
        let point = parents[wanted].factors[pair];
        if previous.is_none_or(|previous| if upward { point >= previous } else { point <= previous }) {
            from = wanted;
        }
        factors[pair] = parents[from].factors[pair];
        previous = Some(factors[pair]);
    }
    let start_tokens = parents[usize::from(rng.random_bool(0.5))].start_tokens;
    // Drawn only where there is something to choose, so that searches without it draw the same as ever.
    let attention = space.attention.and_then(|_| parents[usize::from(rng.random_bool(0.5))].attention);
    Candidate { factors, start_tokens, attention, pair_attention: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::rng::{Purpose, stream};
    use proptest::prelude::*;
    use ropewalk_shared::grid::Grid;

    fn parent(mut factors: Vec<u32>, start_tokens: u32) -> Candidate {
        factors.sort_unstable();
        Candidate { factors, start_tokens, attention: None, pair_attention: Vec::new() }
    }

    proptest! {
        #[test]
        fn every_factor_comes_from_a_parent(
            factors in proptest::collection::vec((100u32..=1000, 100u32..=1000), 1..70), seed: u64,
        ) {
            let (first, second): (Vec<u32>, Vec<u32>) = factors.into_iter().unzip();
            let (first, second) = (parent(first, 0), parent(second, 4));
            let space = SearchSpace {
                grid: Grid::PAPER, pairs: first.factors.len(), max_point: 1000, start_tokens: vec![0, 4], attention: None,
            };
            let mut rng = stream(seed, 0, 0, Purpose::Crossover);
            for _ in 0..10 {
                let child = crossover(&space, &first, &second, &mut rng);
                prop_assert_eq!(space.check(&child), Ok(()));
                for (pair, point) in child.factors.iter().enumerate() {
                    prop_assert!([first.factors[pair], second.factors[pair]].contains(point));
                }
            }
        }
    }

    #[test]
    fn children_mix_their_parents() {
        let (first, second) = (parent((100..132).collect(), 0), parent((101..133).collect(), 4));
        let space =
            SearchSpace { grid: Grid::PAPER, pairs: 32, max_point: 1000, start_tokens: vec![0, 4], attention: None };
        let mut rng = stream(0, 0, 0, Purpose::Crossover);
        let mixed = (0..100).filter(|_| {
            let child = crossover(&space, &first, &second, &mut rng);
            child.factors != first.factors && child.factors != second.factors
        });
        assert!(mixed.count() > 80);
    }
}
