//! Factors from four numbers: YaRN's blend of frequencies with its ends, its height and its bend left free.
//!
//! ```text
//! r_i  = clamp((i - low) / (high - low), 0, 1)
//! r'_i = r_i / (r_i + bend (1 - r_i))            bend 1 is a straight ramp, above 1 it stays low for longer
//! lambda_i = 1 / ((1 - r'_i) + r'_i / top)       frequencies blended, as in YaRN
//! ```
//!
//! YaRN derives `low` and `high` from the model's window. Where the model itself places them (LongRoPE2 calls the pair
//! from which factors must reach the ratio the critical dimension) decides most of what any search can gain, and takes
//! a few evaluations to find.

use ropewalk_shared::candidate::{Candidate, attention_value};
use ropewalk_shared::space::SearchSpace;
use serde::{Deserialize, Serialize};

/// Numbers that make a curve.
pub const NUMBERS: usize = 5;

/// A curve, and the attention factor that goes with it (it counts where that is searched).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// Pair up to which frequencies are kept; may be negative.
    pub low: f64,
    /// Pair from which on the factor is `top`.
    pub high: f64,
    /// Largest factor.
    pub top: f64,
    /// Shape of the ramp, above 0.
    pub bend: f64,
    /// Attention factor.
    pub attention: f64,
}

// === impl Curve ===

impl Curve {
    /// The curve moved by so much in each of its numbers; `low` and `high` move by pairs, the others by shares.
    pub fn moved(&self, by: &[f64], space: &SearchSpace) -> Self {
        let step = |number: usize| by.get(number).copied().unwrap_or(0.0);
        let pairs = space.pairs as f64;
        let high = (self.high + step(1)).clamp(1.0, pairs);
        let (grid_top, grid_one) = (space.grid.value(space.max_point), space.grid.value(space.grid.one()));
        Self {
            low: (self.low + step(0)).clamp(-pairs, high - 1.0),
            high,
            top: scaled(self.top, step(2)).clamp(grid_one, grid_top),
            bend: scaled(self.bend, step(3)).clamp(0.05, 20.0),
            attention: scaled(self.attention, step(4)),
        }
    }

    /// The factors, one for each pair.
    pub fn factors(&self, pairs: usize) -> Vec<f64> {
        let width = self.high - self.low;
        let ramp = |pair: usize| ((pair as f64 - self.low) / width).clamp(0.0, 1.0);
        let bent = |r: f64| r / (r + self.bend * (1.0 - r));
        (0..pairs).map(|pair| bent(ramp(pair))).map(|r| 1.0 / ((1.0 - r) + r / self.top)).collect()
    }

    /// Where it stands on the grid.
    pub fn candidate(&self, space: &SearchSpace, start_tokens: u32) -> Candidate {
        space.nearest(&self.factors(space.pairs), start_tokens, self.attention)
    }

    /// The curve with the attention factor of a candidate that has one.
    pub fn with_attention_of(self, candidate: &Candidate) -> Self {
        Self { attention: candidate.attention.map_or(self.attention, attention_value), ..self }
    }

    /// Whether it can be evaluated.
    pub fn is_usable(&self) -> bool {
        let numbers = [self.low, self.high, self.top, self.bend, self.attention];
        numbers.iter().all(|number| number.is_finite()) && self.high > self.low && self.top > 0.0 && self.bend > 0.0
    }
}

/// A number moved by a share of it: as far down as up on a logarithmic scale, and never to 0.
pub fn scaled(number: f64, share: f64) -> f64 {
    if share >= 0.0 { number * (1.0 + share) } else { number / (1.0 - share) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use ropewalk_shared::baselines::{Baseline, YarnBounds, yarn_ramp};
    use ropewalk_shared::grid::Grid;
    use ropewalk_shared::rope::RopeGeometry;

    /// The straight curve between YaRN's own ends is YaRN.
    #[test]
    fn yarn_is_a_curve() {
        for (head_dim, theta, window, ratio) in [(64, 10_000.0, 256, 8.0), (128, 500_000.0, 8192, 16.0)] {
            let geometry = RopeGeometry { head_dim, rotary_dim: head_dim, theta };
            let (low, high) = yarn_ramp(&geometry, window, YarnBounds::default());
            let curve = Curve { low, high, top: ratio, bend: 1.0, attention: 1.0 };
            let yarn = Baseline::Yarn.factors(&geometry, window, ratio);
            for (ours, theirs) in curve.factors(geometry.pairs()).iter().zip(yarn) {
                assert!((ours - theirs).abs() < 1e-9 * theirs);
            }
        }
    }

    proptest! {
        #[test]
        fn moves_stay_usable_and_candidates_in_the_space(
            pairs in 1usize..=128,
            max_point in 100u32..5000,
            by in proptest::array::uniform5(-40.0f64..40.0),
            steps in proptest::array::uniform5(0.0f64..8.0),
        ) {
            let space = SearchSpace {
                grid: Grid::PAPER, pairs, max_point, start_tokens: vec![0, 4], attention: Some((800, 2000)),
            };
            let start = Curve { low: 0.0, high: 2.0, top: 8.0, bend: 1.0, attention: 1.1 };
            let by: Vec<f64> = by.iter().zip(steps).map(|(by, step)| by * step).collect();
            let moved = start.moved(&by, &space);
            prop_assert!(moved.is_usable());
            prop_assert_eq!(space.check(&moved.candidate(&space, 4)), Ok(()));
        }
    }
}
