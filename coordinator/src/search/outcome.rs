//! What came of one candidate.

use super::score::Score;
use super::strategy::Slope;

/// What came of one candidate, as the strategy that asked it is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// How good it is.
    pub score: Score,
    /// Mean loss in nats on each sample, in their order; empty where the evaluation failed, and shorter than the samples
    /// where it was dropped.
    pub means: Vec<f64>,
    /// How the score changes with the candidate, where that was wanted and could be had.
    pub slope: Option<Slope>,
    /// Document passes that it cost; one that failed costs what it would have cost, a gradient three times a loss.
    pub passes: u64,
}
