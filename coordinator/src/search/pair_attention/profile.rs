//! Profiles of attention over the rotary pairs, from few numbers or from many.
//!
//! The logarithm of a pair's attention factor is piecewise linear over the pairs, which is over the logarithm of their
//! frequencies, and its mean is 0, so that the geometric mean of the factors is 1:
//!
//! ```text
//! ln m_i = sum of c_k h_k(i),  less its mean over i
//! h_0      from -1 at the fastest pair to 1 at the slowest
//! h_1      a hat over all pairs, its top in the middle
//! h_2, 3   hats over the halves; h_4 … h_7 over the quarters, and so on
//! ```
//!
//! What all pairs share is the candidate's one attention factor: a profile says how it is dealt out among them. Else a search
//! with a fixed attention factor would search that as well, and what the shape is worth could not be told apart.

use ropewalk_shared::candidate::{ATTENTION_STEP, Candidate, attention_value};
use serde::{Deserialize, Serialize};

/// Smallest and largest attention factor of a pair, in points of [`ATTENTION_STEP`].
pub const BOUNDS: (u32, u32) = (500, 2000);

/// Numbers of a profile, `c_k`; those that are not there are 0.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Profile(pub Vec<f64>);

/// Numbers of profiles of a level of detail: 2, 4, 8, ….
pub fn numbers(level: u32) -> usize {
    2 << level
}

// === impl Profile ===

impl Profile {
    /// The attention factor of each pair, on the grid; none where all are 1.
    pub fn points(&self, pairs: usize) -> Vec<u32> {
        let logs: Vec<f64> = (0..pairs).map(|pair| self.log(pair, pairs)).collect();
        let mean = logs.iter().sum::<f64>() / pairs as f64;
        let (low, high) = BOUNDS;
        // A cast from f64 saturates, and makes 0 of NaN.
        let point = |log: &f64| (((log - mean).exp() / ATTENTION_STEP).round() as u32).clamp(low, high);
        let points: Vec<u32> = logs.iter().map(point).collect();
        if points.iter().all(|&point| attention_value(point) == 1.0) { Vec::new() } else { points }
    }

    /// Where it stands on the grid, with the factors of another candidate.
    pub fn candidate(&self, base: &Candidate) -> Candidate {
        Candidate { pair_attention: self.points(base.factors.len()), ..base.clone() }
    }

    /// Moved by so much in each number.
    pub fn moved(&self, by: &[f64]) -> Self {
        let count = self.0.len().max(by.len());
        let number = |list: &[f64], k: usize| list.get(k).copied().unwrap_or(0.0);
        Self((0..count).map(|k| number(&self.0, k) + number(by, k)).collect())
    }

    /// Whether it can be evaluated.
    pub fn is_usable(&self) -> bool {
        self.0.iter().all(|number| number.is_finite())
    }

    fn log(&self, pair: usize, pairs: usize) -> f64 {
        let place = pair as f64 / pairs.saturating_sub(1).max(1) as f64;
        self.0.iter().zip(0..).map(|(number, k)| number * height(k, place)).sum()
    }
}

/// `h_k` at a place from 0, the fastest pair, to 1.
fn height(k: u32, place: f64) -> f64 {
    let Some(level) = k.checked_ilog2() else { return 2.0 * place - 1.0 };
    // 2^level hats beside each other, each as wide as its share.
    let hats = f64::from(1u32 << level);
    let middle = (f64::from(k) - hats + 0.5) / hats;
    (1.0 - 2.0 * hats * (place - middle).abs()).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hats_stand_where_they_should() {
        let at = |k| [0.0, 0.125, 0.25, 0.5, 0.75, 1.0].map(|place| height(k, place));
        assert_eq!(at(0), [-1.0, -0.75, -0.5, 0.0, 0.5, 1.0]);
        assert_eq!(at(1), [0.0, 0.25, 0.5, 1.0, 0.5, 0.0]);
        assert_eq!(at(2), [0.0, 0.5, 1.0, 0.0, 0.0, 0.0]);
        assert_eq!(at(3), [0.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
        assert_eq!(at(4), [0.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!((numbers(0), numbers(1), numbers(2)), (2, 4, 8));
    }

    #[test]
    fn a_flat_profile_is_none() {
        assert!(Profile::default().points(32).is_empty());
        assert!(Profile(vec![0.0, 0.0, 1e-5]).points(32).is_empty());
        assert!(Profile(vec![0.3]).points(1).is_empty());
    }

    proptest! {
        /// As long as no pair meets its bounds.
        #[test]
        fn the_geometric_mean_is_1(numbers in proptest::collection::vec(-0.1f64..0.1, 1..16), pairs in 2usize..=128) {
            let points = Profile(numbers).points(pairs);
            let logs: f64 = points.iter().map(|&point| attention_value(point).ln()).sum();
            prop_assert!((logs / pairs as f64).abs() < 1e-3);
        }

        #[test]
        fn points_lie_within_their_bounds(
            numbers in proptest::collection::vec(prop_oneof![-50.0f64..50.0, Just(f64::NAN)], 1..16), pairs in 1usize..=64,
        ) {
            let points = Profile(numbers).points(pairs);
            prop_assert!(points.is_empty() || points.len() == pairs);
            prop_assert!(points.iter().all(|point| (BOUNDS.0..=BOUNDS.1).contains(point)));
        }
    }
}
