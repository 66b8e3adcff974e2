//! Candidates around what was found, each pair varied as far as its rotations allow.
//!
//! A rotary pair of frequency `theta_i` under factor `lambda_i` has turned by `L' theta_i / lambda_i` radians at the end of
//! the target window. A share of the factor changes that angle by as much, so the same share is nothing for a slow
//! pair and scrambles a fast one: the loss is smooth over shares up to about the inverse of this angle, and rough
//! beyond. Each pair's spread is therefore a few radians at the end of the window, and never more than a fixed share.

use super::curve::scaled;
use crate::search::archive::Evaluated;
use crate::search::isotonic::nearest_monotone;
use crate::search::mutation::normal;
use rand::{Rng, RngExt};
use ropewalk_shared::candidate::{Candidate, attention_value};
use ropewalk_shared::space::SearchSpace;

/// Spread of a pair's angle at the end of the target window, in radians.
const RADIANS: f64 = 5.0;
/// Largest spread of a factor, as a share of it.
const SHARE: f64 = 0.15;
/// Spread of the attention factor, as a share of it.
pub const ATTENTION_SHARE: f64 = 0.02;
/// How much of its spread a generation keeps of the one before; after [`CYCLE`] generations it is wide again.
const SHRINK: f64 = 0.92;
const CYCLE: u32 = 16;
/// The best candidates whose mean is the centre, and what each weighs.
const WEIGHTS: [f64; 4] = [0.5, 0.25, 0.15, 0.1];
/// Probability with which a candidate gets another number of starting tokens than the centre's.
const OTHER_START: f64 = 0.15;

/// Where candidates are drawn around.
pub struct Cloud<'a> {
    space: &'a SearchSpace,
    center: Vec<f64>,
    spreads: Vec<f64>,
    start_tokens: u32,
    attention: f64,
    /// From 1, wide, down.
    width: f64,
}

/// How far a pair varies, as a share of its factor; `angle` is what it turns over the target window at factor 1.
pub fn spread(factor: f64, angle: f64) -> f64 {
    (RADIANS * factor / angle).min(SHARE)
}

/// The monotone factors nearest to `targets`: where neighbours conflict, the one with the smaller spread gives way less.
pub fn monotone(targets: &[f64], spreads: &[f64]) -> Vec<f64> {
    let weights: Vec<f64> = spreads.iter().map(|spread| 1.0 / (spread + 1e-6)).collect();
    nearest_monotone(targets, &weights)
}

// === impl Cloud ===

impl<'a> Cloud<'a> {
    /// The cloud of the `number`-th generation (from 0) around the best candidates, best first, at least one.
    ///
    /// `angles` has, for each pair, the radians that it turns over the target window at factor 1.
    pub fn around(best: &[Evaluated], angles: &[f64], number: u32, space: &'a SearchSpace) -> Option<Self> {
        let first = &best.first()?.candidate;
        let mut center = vec![0.0; space.pairs];
        let (mut attention, mut total) = (0.0, 0.0);
        for (evaluated, weight) in best.iter().zip(WEIGHTS) {
            for (sum, &point) in center.iter_mut().zip(&evaluated.candidate.factors) {
                *sum += weight * space.grid.value(point);
            }
            attention += weight * evaluated.candidate.attention.map_or(1.0, attention_value);
            total += weight;
        }
        center.iter_mut().for_each(|factor| *factor /= total);
        let spreads = center.iter().zip(angles).map(|(&factor, &angle)| spread(factor, angle)).collect();
        let width = (0..number % CYCLE).fold(1.0, |width, _| width * SHRINK);
        Some(Self { space, center, spreads, start_tokens: first.start_tokens, attention: attention / total, width })
    }

    /// A candidate of the cloud.
    pub fn draw(&self, rng: &mut impl Rng) -> Candidate {
        let targets: Vec<f64> = self
            .center
            .iter()
            .zip(&self.spreads)
            .map(|(&factor, spread)| scaled(factor, self.width * spread * normal(rng)))
            .collect();
        let factors = monotone(&targets, &self.spreads);
        let choices = &self.space.start_tokens;
        let other = rng.random_bool(OTHER_START);
        let start_tokens = if other { choices[rng.random_range(0..choices.len())] } else { self.start_tokens };
        let attention = scaled(self.attention, self.width * ATTENTION_SHARE * normal(rng));
        self.space.nearest(&factors, start_tokens, attention)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::rng::{Purpose, stream};
    use crate::search::score::Score;
    use proptest::prelude::*;
    use ropewalk_shared::grid::Grid;

    fn space(pairs: usize) -> SearchSpace {
        SearchSpace {
            grid: Grid::PAPER,
            pairs,
            max_point: 1000,
            start_tokens: vec![0, 4, 16],
            attention: Some((800, 2000)),
        }
    }

    fn evaluated(factors: Vec<u32>) -> Evaluated {
        let candidate = Candidate { factors, start_tokens: 4, attention: Some(1100), pair_attention: Vec::new() };
        Evaluated { candidate, score: Score::new(10.0) }
    }

    proptest! {
        #[test]
        fn draws_lie_in_the_space(
            mut factors in proptest::collection::vec(100u32..=1000, 1..70), number in 0u32..40, seed: u64,
        ) {
            factors.sort_unstable();
            let space = space(factors.len());
            let angles: Vec<f64> = (0..factors.len()).map(|pair| 2048.0 / (1 << (pair / 4)) as f64).collect();
            let best = [evaluated(factors)];
            let cloud = Cloud::around(&best, &angles, number, &space).ok_or(TestCaseError::fail("no cloud"))?;
            let mut rng = stream(seed, 0, 0, Purpose::Mutation);
            for _ in 0..10 {
                prop_assert_eq!(space.check(&cloud.draw(&mut rng)), Ok(()));
            }
        }
    }

    /// A pair that turns 500 radians moves by a hundredth, one that turns 5 by the largest share.
    #[test]
    fn fast_pairs_move_little_and_slow_ones_freely() {
        let space = space(2);
        let best = [evaluated(vec![150, 600])];
        let Some(cloud) = Cloud::around(&best, &[750.0, 30.0], 0, &space) else { panic!("no cloud") };
        let mut rng = stream(0, 0, 0, Purpose::Mutation);
        let draws: Vec<Candidate> = (0..2000).map(|_| cloud.draw(&mut rng)).collect();
        let spread = |pair: usize, center: f64| {
            let squares = draws.iter().map(|draw| (f64::from(draw.factors[pair]) / center - 1.0).powi(2));
            (squares.sum::<f64>() / draws.len() as f64).sqrt()
        };
        assert!((0.008..0.014).contains(&spread(0, 150.0)), "{}", spread(0, 150.0));
        assert!((0.12..0.18).contains(&spread(1, 600.0)), "{}", spread(1, 600.0));
    }
}
