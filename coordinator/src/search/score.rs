//! How good a candidate is.

use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::fmt;

/// The objective's value for one candidate, smaller is better: a perplexity, or nothing usable.
///
/// Scores are totally ordered. A candidate whose evaluation failed, or gave infinity or NaN, ranks behind every
/// number and equal to all others of its kind, so that a diverging candidate is a bad one and never a crash.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(from = "Option<f64>", into = "Option<f64>")]
pub struct Score(Option<f64>);

// === impl Score ===

impl Score {
    /// The worst score.
    pub const FAILED: Self = Self(None);

    /// A score from a measured value; anything that is not finite is [`Score::FAILED`].
    pub fn new(value: f64) -> Self {
        Self(value.is_finite().then_some(value))
    }

    /// The value, unless the evaluation failed.
    pub fn value(self) -> Option<f64> {
        self.0
    }

    /// Whether there is no usable value.
    pub fn is_failed(self) -> bool {
        self.0.is_none()
    }
}

impl Ord for Score {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self.0, other.0) {
            // Both are finite, so this differs from the mathematical order only for zeros of different sign.
            (Some(a), Some(b)) => a.total_cmp(&b),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => Ordering::Equal,
        }
    }
}

impl PartialOrd for Score {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Score {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Score {}

// === conversions ===

impl From<f64> for Score {
    fn from(value: f64) -> Self {
        Self::new(value)
    }
}

impl From<Option<f64>> for Score {
    fn from(value: Option<f64>) -> Self {
        value.map_or(Self::FAILED, Self::new)
    }
}

impl From<Score> for Option<f64> {
    fn from(score: Score) -> Self {
        score.0
    }
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(value) => value.fmt(f),
            None => f.pad("failed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_ranks_last() {
        let mut scores: Vec<Score> = [f64::NAN, 3.0, f64::INFINITY, 1.0, f64::NEG_INFINITY].map(Score::new).to_vec();
        scores.sort();
        let values: Vec<_> = scores.iter().map(|s| s.value()).collect();
        assert_eq!(values, [Some(1.0), Some(3.0), None, None, None]);
        assert_eq!(Score::new(f64::NAN), Score::FAILED);
    }

    #[test]
    fn scores_survive_json_exactly() {
        for score in [Score::new(0.1 + 0.2), Score::new(5e-324), Score::FAILED] {
            let text = serde_json::to_string(&score).unwrap();
            assert_eq!(serde_json::from_str::<Score>(&text).unwrap(), score, "{text}");
        }
    }
}
