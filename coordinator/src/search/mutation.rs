//! Mutation: each dimension changes with a given probability, under the monotone constraint.
//!
//! The paper fixes that much and leaves open from what a changed dimension is drawn. Here it is one of two, with equal
//! chances:
//!
//! - **Redraw.** Selected dimensions are drawn anew, uniformly between the nearest unselected ones (neighbours that
//!   are both selected: jointly, in order). That is the authors' code for one dimension, done for several at once.
//!   Where a candidate is flat (PI is flat everywhere) or its factors lie close together, nothing can move this way.
//! - **Shift.** Selected dimensions move by a share of their value, whatever their neighbours; then the nearest
//!   monotone candidate is taken, so that the others give way exactly as far as the constraint demands. Shifts of
//!   neighbouring pairs are correlated, since their frequencies are nearly the same and what is good for one tends to
//!   be good for the next. The size of a shift is drawn anew for every child: large ones explore, small ones refine.
//!
//! Only operations that IEEE 754 rounds exactly are used, so that every platform draws the same candidates.

use super::isotonic::nearest_monotone;
use rand::{Rng, RngExt};
use ropewalk_shared::candidate::{Candidate, attention_value};
use ropewalk_shared::space::SearchSpace;

/// Typical shifts, as shares of the factor.
const SHIFTS: [f64; 4] = [0.05, 0.1, 0.2, 0.4];
/// Reach of the correlation between neighbouring pairs; 1 is none.
const REACHES: [i64; 4] = [1, 2, 4, 8];
/// Weight of a selected dimension against one of weight 1 that has to give way.
const SELECTED_WEIGHT: f64 = 3.0;

/// Typical shift of an attention factor, as a share of it.
const ATTENTION_SHIFT: f64 = 0.02;

/// The mutation operator.
#[derive(Clone, Copy, Debug)]
pub struct Mutation {
    probability: f64,
}

// === impl Mutation ===

impl Mutation {
    /// Each dimension, and the starting tokens, change with this probability (above 0, at most 1).
    pub fn with_probability(probability: f64) -> Self {
        Self { probability }
    }

    /// A child of `parent`, inside the space. It may happen to equal its parent.
    pub fn apply(self, space: &SearchSpace, parent: &Candidate, rng: &mut impl Rng) -> Candidate {
        let selected: Vec<bool> = (0..space.pairs).map(|_| rng.random_bool(self.probability)).collect();
        let factors = if rng.random_bool(0.5) {
            redraw(space, &parent.factors, &selected, rng)
        } else {
            shift(space, &parent.factors, &selected, rng)
        };
        let start_tokens = if rng.random_bool(self.probability) { any_start(space, rng) } else { parent.start_tokens };
        self.attention_of(
            space,
            Candidate { factors, start_tokens, attention: parent.attention, pair_attention: Vec::new() },
            rng,
        )
    }

    /// The same candidate, whose attention factor may have moved.
    pub fn attention_of(self, space: &SearchSpace, candidate: Candidate, rng: &mut impl Rng) -> Candidate {
        // Drawn only where it is searched, so that searches without it draw the same as ever.
        let attention = space.attention.and_then(|_| {
            let moves = rng.random_bool(self.probability);
            let nudge = normal(rng) * ATTENTION_SHIFT;
            candidate.attention.map(|point| if moves { nudged(space, point, nudge) } else { point })
        });
        Candidate { attention, ..candidate }
    }
}

fn nudged(space: &SearchSpace, point: u32, share: f64) -> u32 {
    let wanted = attention_value(point) * (1.0 + share);
    space.nearest_attention(wanted).unwrap_or(point)
}

/// A candidate without a parent.
pub fn random_candidate(space: &SearchSpace, rng: &mut impl Rng) -> Candidate {
    let factors = redraw(space, &vec![space.grid.one(); space.pairs], &vec![true; space.pairs], rng);
    let start_tokens = any_start(space, rng);
    let attention = space.attention.map(|(low, high)| rng.random_range(low..=high));
    Candidate { factors, start_tokens, attention, pair_attention: Vec::new() }
}

fn any_start(space: &SearchSpace, rng: &mut impl Rng) -> u32 {
    space.start_tokens[rng.random_range(0..space.start_tokens.len())]
}

/// Each run of selected dimensions is drawn uniformly between the dimensions that enclose it.
fn redraw(space: &SearchSpace, factors: &[u32], selected: &[bool], rng: &mut impl Rng) -> Vec<u32> {
    let mut child = factors.to_vec();
    let mut start = 0;
    for run in selected.chunk_by(|a, b| a == b) {
        let end = start + run.len();
        if run[0] {
            let low = if start == 0 { space.grid.one() } else { child[start - 1] };
            let high = child.get(end).copied().unwrap_or(space.max_point);
            child[start..end].fill_with(|| rng.random_range(low..=high));
            child[start..end].sort_unstable();
        }
        start = end;
    }
    child
}

/// Selected dimensions move by a share of their value; the nearest monotone candidate is the child.
fn shift(space: &SearchSpace, factors: &[u32], selected: &[bool], rng: &mut impl Rng) -> Vec<u32> {
    let size = SHIFTS[rng.random_range(0..SHIFTS.len())];
    let directions = correlated(factors.len(), REACHES[rng.random_range(0..REACHES.len())], rng);
    let target = |((&point, &selected), direction): ((&u32, &bool), f64)| {
        let share = if selected { size * direction } else { 0.0 };
        // As far down as up on a logarithmic scale, and never to 0.
        f64::from(point) * if share >= 0.0 { 1.0 + share } else { 1.0 / (1.0 - share) }
    };
    let targets: Vec<f64> = factors.iter().zip(selected).zip(directions).map(target).collect();
    let weights: Vec<f64> = selected.iter().map(|&selected| if selected { SELECTED_WEIGHT } else { 1.0 }).collect();
    let bounds = (f64::from(space.grid.one()), f64::from(space.max_point));
    // Rounding and clamping keep the order.
    let point = |target: f64| target.round().clamp(bounds.0, bounds.1) as u32;
    nearest_monotone(&targets, &weights).into_iter().map(point).collect()
}

/// Standard normal numbers, nearly; each correlates with those less than `reach` away.
fn correlated(count: usize, reach: i64, rng: &mut impl Rng) -> Vec<f64> {
    let kernel: Vec<f64> = (1 - reach..reach).map(|distance| (reach - distance.abs()) as f64).collect();
    let norm = kernel.iter().map(|weight| weight * weight).sum::<f64>().sqrt();
    let independent: Vec<f64> = (0..count + kernel.len() - 1).map(|_| normal(rng)).collect();
    let smoothed = |window: &[f64]| window.iter().zip(&kernel).map(|(x, weight)| x * weight).sum::<f64>() / norm;
    independent.windows(kernel.len()).map(smoothed).collect()
}

/// The sum of twelve uniform numbers less its mean: standard normal but for its tails.
pub(super) fn normal(rng: &mut impl Rng) -> f64 {
    (0..12).map(|_| rng.random_range(0.0..1.0)).sum::<f64>() - 6.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::rng::{Purpose, stream};
    use proptest::prelude::*;
    use ropewalk_shared::grid::Grid;

    fn space(pairs: usize, max_point: u32) -> SearchSpace {
        SearchSpace { grid: Grid::PAPER, pairs, max_point, start_tokens: vec![0, 4, 16], attention: None }
    }

    proptest! {
        #[test]
        fn children_lie_in_the_space(
            mut factors in proptest::collection::vec(100u32..=1000, 1..70),
            probability in 0.01f64..=1.0,
            seed: u64,
        ) {
            factors.sort_unstable();
            let space = space(factors.len(), 1000);
            let parent = Candidate { factors, start_tokens: 4, attention: None, pair_attention: Vec::new() };
            let mut rng = stream(seed, 0, 0, Purpose::Mutation);
            for _ in 0..20 {
                let child = Mutation::with_probability(probability).apply(&space, &parent, &mut rng);
                prop_assert_eq!(space.check(&child), Ok(()));
                prop_assert_eq!(space.check(&random_candidate(&space, &mut rng)), Ok(()));
            }
        }

        #[test]
        fn a_redraw_leaves_the_unselected_alone(
            mut factors in proptest::collection::vec(100u32..=1000, 2..70), seed: u64,
        ) {
            factors.sort_unstable();
            let mut rng = stream(seed, 0, 0, Purpose::Mutation);
            let selected: Vec<bool> = factors.iter().map(|_| rng.random_bool(0.3)).collect();
            let child = redraw(&space(factors.len(), 1000), &factors, &selected, &mut rng);
            for pair in (0..factors.len()).filter(|&pair| !selected[pair]) {
                prop_assert_eq!(child[pair], factors[pair]);
            }
        }
    }

    /// Position interpolation has no room between neighbours; it must not be a dead end.
    #[test]
    fn flat_candidates_move() {
        let space = space(32, 1000);
        let flat = Candidate { factors: vec![800; 32], start_tokens: 0, attention: None, pair_attention: Vec::new() };
        let mut rng = stream(0, 0, 0, Purpose::Mutation);
        let moved = |pair: usize, rng: &mut _| {
            (0..200).any(|_| Mutation::with_probability(0.3).apply(&space, &flat, rng).factors[pair] != 800)
        };
        assert!((0..32).all(|pair| moved(pair, &mut rng)));
    }

    #[test]
    fn directions_have_unit_spread_at_every_reach() {
        let mut rng = stream(1, 0, 0, Purpose::Mutation);
        for reach in REACHES {
            let numbers: Vec<f64> = (0..500).flat_map(|_| correlated(32, reach, &mut rng)).collect();
            let spread = (numbers.iter().map(|x| x * x).sum::<f64>() / numbers.len() as f64).sqrt();
            assert!((spread - 1.0).abs() < 0.1, "reach {reach}: {spread}");
        }
    }
}
