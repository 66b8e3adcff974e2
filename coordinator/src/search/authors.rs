//! The operators of the LongRoPE authors' own code, which differs from what their paper says.
//!
//! - `dim_mono` changes one factor at a time: it is drawn uniformly between its neighbours. A crossover copies single
//!   factors from the second parent into the first. What is not monotone or was asked before is drawn again; their code
//!   draws without end, here a limit stands in its place ([`super::evolution`]).
//! - `dim_piece_mono` does the same where factors are free, and keeps 1 below the first free pair and the extension ratio
//!   above the last. Where the pieces end is a part of the candidate: it moves by one pair at a time.
//!
//! Neither changes the number of starting tokens.

use rand::{Rng, RngExt};
use ropewalk_shared::candidate::Candidate;
use ropewalk_shared::space::SearchSpace;
use std::ops::Range;

/// `parent` with one factor drawn uniformly between its neighbours. It may happen to equal its parent.
pub fn mutate_one(space: &SearchSpace, parent: &Candidate, rng: &mut impl Rng) -> Candidate {
    redrawn(parent, 0..space.pairs, (space.grid.one(), space.max_point), rng)
}

/// `first` with some factors copied from `second`, each with this probability; `None` where that is not monotone.
pub fn copy_some(first: &Candidate, second: &Candidate, probability: f64, rng: &mut impl Rng) -> Option<Candidate> {
    let mut child = first.clone();
    for (factor, &other) in child.factors.iter_mut().zip(&second.factors) {
        if rng.random_bool(probability) {
            *factor = other;
        }
    }
    child.is_monotone().then_some(child)
}

/// As [`mutate_one`] for a candidate of three pieces, the last of which holds `stretched` points: a free factor is drawn
/// anew, or the end of a piece moves by one pair.
pub fn mutate_piece(space: &SearchSpace, stretched: u32, parent: &Candidate, rng: &mut impl Rng) -> Candidate {
    let one = space.grid.one();
    let free = free_pairs(parent, one, stretched);
    let mut child = parent.clone();
    match rng.random_range(0..4) {
        0 if free.start > 0 => child.factors[free.start - 1] = between(&child, free.start - 1, (one, stretched), rng),
        1 if free.end < space.pairs => child.factors[free.end] = between(&child, free.end, (one, stretched), rng),
        2 if !free.is_empty() && rng.random_bool(0.5) => child.factors[free.start] = one,
        2 if !free.is_empty() => child.factors[free.end - 1] = stretched,
        _ => return redrawn(parent, free, (one, stretched), rng),
    }
    child
}

/// The factors between the leading ones and the trailing `stretched` ones.
fn free_pairs(candidate: &Candidate, one: u32, stretched: u32) -> Range<usize> {
    let start = candidate.factors.partition_point(|&point| point <= one);
    start..candidate.factors.partition_point(|&point| point < stretched).max(start)
}

/// One of these pairs is drawn anew between its neighbours.
fn redrawn(parent: &Candidate, pairs: Range<usize>, bounds: (u32, u32), rng: &mut impl Rng) -> Candidate {
    let mut child = parent.clone();
    if !pairs.is_empty() {
        let pair = rng.random_range(pairs);
        child.factors[pair] = between(&child, pair, bounds, rng);
    }
    child
}

/// A point between the neighbours of a pair.
fn between(candidate: &Candidate, pair: usize, (least, most): (u32, u32), rng: &mut impl Rng) -> u32 {
    let low = if pair == 0 { least } else { candidate.factors[pair - 1] };
    let high = candidate.factors.get(pair + 1).copied().unwrap_or(most);
    rng.random_range(low..=high.max(low))
}

/// The candidate of three pieces nearest to a monotone one: nothing above `stretched`.
pub fn pieces(candidate: &Candidate, stretched: u32) -> Candidate {
    let factors = candidate.factors.iter().map(|&point| point.min(stretched)).collect();
    Candidate { factors, ..candidate.clone() }
}
