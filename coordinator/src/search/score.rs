//! How good a candidate is.

use super::neighbours::average;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::fmt;

/// The objective's value for one candidate, smaller is better: a perplexity, or nothing usable.
///
/// Scores are totally ordered. A candidate that breaks a limit ranks behind every one that keeps to all (Deb's rule), by how
/// much it does. A candidate that was dropped in a race ranks behind every one that was measured, by its
/// estimate. One whose evaluation failed, or gave infinity or NaN, ranks behind all of these and equal to all others of
/// its kind, so that a diverging candidate is a bad one and never a crash.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(from = "Stored", into = "Stored")]
pub struct Score(Kind);

#[derive(Clone, Copy, Debug)]
enum Kind {
    Measured(f64),
    Infeasible(f64),
    Dropped(f64),
    Failed,
}

/// A score as JSON: a number, an estimate that says so, or null.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Stored {
    Measured(f64),
    Dropped { dropped: f64 },
    Infeasible { infeasible: f64 },
    Failed(()),
}

// === impl Score ===

impl Score {
    /// The worst score.
    pub const FAILED: Self = Self(Kind::Failed);

    /// A score from a measured value; anything that is not finite is [`Score::FAILED`].
    pub fn new(value: f64) -> Self {
        Self(if value.is_finite() { Kind::Measured(value) } else { Kind::Failed })
    }

    /// The score of a candidate that was dropped, with an estimate of its value; one that is not finite is
    /// [`Score::FAILED`].
    pub fn dropped(estimate: f64) -> Self {
        Self(if estimate.is_finite() { Kind::Dropped(estimate) } else { Kind::Failed })
    }

    /// The same by its mean losses on all samples, in nats, some of which are foretold.
    pub fn foretold(means: &[f64]) -> Self {
        Self::dropped(average(means).exp())
    }

    /// The score of a candidate that exceeds limits by so much in all; what is not finite is [`Score::FAILED`].
    pub fn infeasible(excess: f64) -> Self {
        Self(if excess.is_finite() { Kind::Infeasible(excess) } else { Kind::Failed })
    }

    /// By how much the candidate exceeds limits, if it does.
    pub fn excess(self) -> Option<f64> {
        match self.0 {
            Kind::Infeasible(excess) => Some(excess),
            Kind::Measured(_) | Kind::Dropped(_) | Kind::Failed => None,
        }
    }

    /// The value, if it was measured.
    pub fn value(self) -> Option<f64> {
        match self.0 {
            Kind::Measured(value) => Some(value),
            Kind::Infeasible(_) | Kind::Dropped(_) | Kind::Failed => None,
        }
    }

    /// The estimate, if the candidate was dropped.
    pub fn estimate(self) -> Option<f64> {
        match self.0 {
            Kind::Dropped(estimate) => Some(estimate),
            Kind::Measured(_) | Kind::Infeasible(_) | Kind::Failed => None,
        }
    }

    /// The score as it would be if estimates were true.
    pub fn likely(self) -> Self {
        self.estimate().map_or(self, Self::new)
    }

    /// Whether the evaluation failed or gave no number.
    pub fn is_failed(self) -> bool {
        matches!(self.0, Kind::Failed)
    }

    /// Orders the kinds; within one, smaller is better.
    fn rank(self) -> (u8, f64) {
        match self.0 {
            Kind::Measured(value) => (0, value),
            Kind::Infeasible(excess) => (1, excess),
            Kind::Dropped(estimate) => (2, estimate),
            Kind::Failed => (3, 0.0),
        }
    }
}

impl Ord for Score {
    fn cmp(&self, other: &Self) -> Ordering {
        let ((kind, value), (other_kind, other_value)) = (self.rank(), other.rank());
        // All are finite, so this differs from the mathematical order only for zeros of different sign.
        kind.cmp(&other_kind).then_with(|| value.total_cmp(&other_value))
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

impl From<Stored> for Score {
    fn from(stored: Stored) -> Self {
        match stored {
            Stored::Measured(value) => Self::new(value),
            Stored::Dropped { dropped } => Self::dropped(dropped),
            Stored::Infeasible { infeasible } => Self::infeasible(infeasible),
            Stored::Failed(()) => Self::FAILED,
        }
    }
}

impl From<Score> for Stored {
    fn from(score: Score) -> Self {
        match score.0 {
            Kind::Measured(value) => Self::Measured(value),
            Kind::Dropped(dropped) => Self::Dropped { dropped },
            Kind::Infeasible(infeasible) => Self::Infeasible { infeasible },
            Kind::Failed => Self::Failed(()),
        }
    }
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Kind::Measured(value) => value.fmt(f),
            Kind::Dropped(estimate) => write!(f, "dropped at about {estimate:.3}"),
            Kind::Infeasible(excess) => write!(f, "{excess:.3} nats above its limits"),
            Kind::Failed => f.pad("failed"),
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
        scores.extend([Score::dropped(0.5), Score::dropped(0.25), Score::dropped(f64::INFINITY)]);
        scores.sort();
        let estimates: Vec<_> = scores.iter().map(|s| s.estimate()).collect();
        assert_eq!(estimates[..5], [None, None, Some(0.25), Some(0.5), None]);
        assert_eq!(scores.iter().filter(|score| score.is_failed()).count(), 4);
        assert_eq!(Score::new(f64::NAN), Score::FAILED);
    }

    /// Deb's rule: whatever keeps to the limits is better than what does not, and of those the nearer one.
    #[test]
    fn limits_come_before_values() {
        let mut scores =
            [Score::infeasible(0.2), Score::new(1e9), Score::infeasible(0.1), Score::FAILED, Score::new(2.0)];
        scores.sort();
        let [a, b, c, d, e] = scores;
        assert_eq!((a.value(), b.value()), (Some(2.0), Some(1e9)));
        assert_eq!((c.excess(), d.excess(), e), (Some(0.1), Some(0.2), Score::FAILED));
        assert_eq!(Score::infeasible(f64::INFINITY), Score::FAILED);
    }

    #[test]
    fn scores_survive_json_exactly() {
        for score in [
            Score::new(0.1 + 0.2),
            Score::new(5e-324),
            Score::infeasible(0.3),
            Score::dropped(0.1 + 0.2),
            Score::FAILED,
        ] {
            let text = serde_json::to_string(&score).unwrap();
            assert_eq!(serde_json::from_str::<Score>(&text).unwrap(), score, "{text}");
        }
    }
}
