//! The search space: bounds, the monotone constraint and the choices of starting tokens (table 4 of the paper).

use crate::candidate::{ATTENTION_STEP, Candidate};
use crate::grid::Grid;
use serde::{Deserialize, Serialize};

/// The choices of starting tokens that the paper searches.
pub const PAPER_START_TOKENS: [u32; 14] = [0, 1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 64, 128, 256];
/// The largest factor, as a multiple of the extension ratio, that the paper searches.
pub const PAPER_MAX_FACTOR_OF_RATIO: f64 = 1.25;

/// Smallest and largest attention factor where it is searched, in thousandths: the policies give 1 to 1.4 for ratios up to 64.
pub const ATTENTION_BOUNDS: (u32, u32) = (800, 2000);

/// Every candidate a search may visit: `1 <= lambda_i <= lambda_{i+1} <= max`, on the grid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SearchSpace {
    /// The grid of the factors.
    pub grid: Grid,
    /// Number of factors.
    pub pairs: usize,
    /// Largest factor, in points of the grid.
    pub max_point: u32,
    /// Choices of starting tokens, ascending and without repetition; at least one.
    pub start_tokens: Vec<u32>,
    /// Smallest and largest attention factor, in points of [`crate::candidate::ATTENTION_STEP`]; absent where it is not searched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attention: Option<(u32, u32)>,
}

/// Why a candidate lies outside a search space.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OutsideSpace {
    /// Another number of factors.
    #[error("{got} factors, the space has {expected}")]
    Length {
        /// Factors of the candidate.
        got: usize,
        /// Factors of the space.
        expected: usize,
    },
    /// A factor below 1 or above the maximum.
    #[error("factor {pair} lies outside [1, max]")]
    Bounds {
        /// Index of the first such factor.
        pair: usize,
    },
    /// A factor smaller than the one before it.
    #[error("factor {pair} is smaller than the one before it")]
    NotMonotone {
        /// Index of the first such factor.
        pair: usize,
    },
    /// A number of starting tokens that is not among the choices.
    #[error("{0} starting tokens are not among the choices")]
    StartTokens(u32),
    /// An attention factor out of its bounds, or one where none is searched, or none where one is.
    #[error("the attention factor {0:?} (in thousandths) is not one of the space")]
    Attention(Option<u32>),
    /// Attention factors of single pairs, where none are searched, or not one for each pair within its bounds.
    #[error("the attention factors of single pairs are not those of the space")]
    PairAttention,
}

impl SearchSpace {
    /// Whether a candidate lies in the space, and why not.
    ///
    /// # Errors
    /// [`OutsideSpace`] names the first constraint that is broken.
    pub fn check(&self, candidate: &Candidate) -> Result<(), OutsideSpace> {
        let factors = &candidate.factors;
        if factors.len() != self.pairs {
            return Err(OutsideSpace::Length { got: factors.len(), expected: self.pairs });
        }
        let bounds = self.grid.one()..=self.max_point;
        if let Some(pair) = factors.iter().position(|point| !bounds.contains(point)) {
            return Err(OutsideSpace::Bounds { pair });
        }
        if let Some(pair) = factors.windows(2).position(|two| two[1] < two[0]) {
            return Err(OutsideSpace::NotMonotone { pair: pair + 1 });
        }
        if !self.start_tokens.contains(&candidate.start_tokens) {
            return Err(OutsideSpace::StartTokens(candidate.start_tokens));
        }
        let attention = candidate.attention;
        let fits = match (self.attention, attention) {
            (None, None) => true,
            (Some((low, high)), Some(point)) => (low..=high).contains(&point),
            _ => false,
        };
        if !fits {
            return Err(OutsideSpace::Attention(attention));
        }
        if !candidate.pair_attention.is_empty() {
            return Err(OutsideSpace::PairAttention);
        }
        Ok(())
    }

    /// The candidate of this space nearest to arbitrary numbers: rounded, clipped, raised to be monotone. The attention
    /// factor counts where one is searched.
    pub fn nearest(&self, factors: &[f64], start_tokens: u32, attention_factor: f64) -> Candidate {
        let mut floor = self.grid.one();
        let factors = factors.iter().map(|&factor| {
            floor = self.grid.nearest(factor).clamp(floor, self.max_point);
            floor
        });
        let (factors, start_tokens) = (factors.collect(), self.nearest_start(start_tokens));
        Candidate {
            factors,
            start_tokens,
            attention: self.nearest_attention(attention_factor),
            pair_attention: Vec::new(),
        }
    }

    /// The point of the attention factor nearest to `wanted`, where one is searched; NaN counts as the smallest.
    pub fn nearest_attention(&self, wanted: f64) -> Option<u32> {
        // A cast from f64 saturates, and makes 0 of NaN.
        self.attention.map(|(low, high)| ((wanted / ATTENTION_STEP).round() as u32).clamp(low, high))
    }

    /// The choice of starting tokens nearest to `wanted`, the smaller one of two.
    pub fn nearest_start(&self, wanted: u32) -> u32 {
        self.start_tokens.iter().copied().min_by_key(|choice| choice.abs_diff(wanted)).unwrap_or(0)
    }

    /// Natural logarithm of the number of candidates, for reports.
    ///
    /// Non-decreasing sequences of `n` out of `m` points number `C(n + m - 1, n)`.
    pub fn ln_size(&self) -> f64 {
        let points = u64::from(self.max_point.saturating_sub(self.grid.one())) + 1;
        let sequences: f64 = (1..=self.pairs as u64).map(|k| ((points - 1 + k) as f64 / k as f64).ln()).sum();
        let attention = self.attention.map_or(1, |(low, high)| high.saturating_sub(low) + 1);
        sequences + (self.start_tokens.len() as f64).ln() + f64::from(attention).ln()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn space(pairs: usize, max: u32) -> SearchSpace {
        SearchSpace {
            grid: Grid::PAPER,
            pairs,
            max_point: max,
            start_tokens: PAPER_START_TOKENS.to_vec(),
            attention: None,
        }
    }

    #[test]
    fn every_broken_constraint_is_named() {
        let space = space(3, 1000);
        let check = |factors: &[u32], start_tokens| {
            space.check(&Candidate {
                factors: factors.to_vec(),
                start_tokens,
                attention: None,
                pair_attention: Vec::new(),
            })
        };
        assert_eq!(check(&[100, 100, 1000], 4), Ok(()));
        assert_eq!(check(&[100, 100], 4), Err(OutsideSpace::Length { got: 2, expected: 3 }));
        assert_eq!(check(&[99, 100, 101], 4), Err(OutsideSpace::Bounds { pair: 0 }));
        assert_eq!(check(&[100, 100, 1001], 4), Err(OutsideSpace::Bounds { pair: 2 }));
        assert_eq!(check(&[100, 102, 101], 4), Err(OutsideSpace::NotMonotone { pair: 2 }));
        assert_eq!(check(&[100, 100, 101], 5), Err(OutsideSpace::StartTokens(5)));
    }

    #[test]
    fn the_size_of_small_spaces_is_exact() {
        // Two factors out of three points: 11 12 13 22 23 33.
        let mut small = space(2, 102);
        small.start_tokens = vec![0];
        assert!((small.ln_size() - 6f64.ln()).abs() < 1e-12);
    }

    /// Section 3.3 of the paper gives about 4e167 choices for 64 factors at s = 4, without the monotone constraint:
    /// 400 points to the power of 64, times the choices of starting tokens, is of that order.
    #[test]
    fn the_constraint_shrinks_the_space_of_the_paper() {
        let monotone = space(64, 500).ln_size() / std::f64::consts::LN_10;
        assert!(monotone < 100.0, "10^{monotone}");
    }

    proptest! {
        #[test]
        fn the_nearest_candidate_lies_in_the_space(
            factors in proptest::collection::vec(prop_oneof![-5.0f64..50.0, Just(f64::NAN), Just(f64::INFINITY)], 1..64),
            start in 0u32..1000,
            max in 100u32..4000,
        ) {
            let space = space(factors.len(), max);
            let nearest = space.nearest(&factors, start, 1.0);
            prop_assert_eq!(space.check(&nearest), Ok(()));
        }

        #[test]
        fn a_candidate_of_the_space_is_its_own_nearest(
            mut factors in proptest::collection::vec(100u32..=1000, 1..64), which in 0usize..14,
        ) {
            factors.sort_unstable();
            let space = space(factors.len(), 1000);
            let candidate = Candidate { factors, start_tokens: PAPER_START_TOKENS[which], attention: None, pair_attention: Vec::new() };
            let rescale = candidate.rescale(space.grid, 1.0);
            prop_assert_eq!(space.nearest(&rescale.factors, candidate.start_tokens, 1.0), candidate);
        }
    }
}
