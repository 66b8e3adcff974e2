//! What came of one candidate.

use super::neighbours::average;
use super::racing::Race;
use super::score::Score;
use super::strategy::Slope;

/// What came of one candidate, as the strategy that asked it is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// How good it is.
    pub score: Score,
    /// Mean loss in nats on each sample, in their order: measured, but foretold on some of them where the candidate was
    /// dropped; empty where the evaluation failed.
    pub means: Vec<f64>,
    /// How the score changes with the candidate, where that was wanted and could be had.
    pub slope: Option<Slope>,
    /// Document passes that it cost; one that failed costs what it would have cost, a gradient three times a loss.
    pub passes: u64,
}

// === impl Outcome ===

impl Outcome {
    /// Of the candidate of a slot whose mean losses on all samples are known: evaluated one sample after the other until the
    /// race, if there is one, drops it.
    pub fn of_known(race: Option<&Race>, slot: usize, means: &[f64]) -> Self {
        match race.and_then(|race| race.dropped(slot, means)) {
            Some((seen, means)) => Self::dropped(means, seen as u64),
            None => {
                let score = Score::new(average(means).exp());
                Self { score, means: means.to_vec(), slope: None, passes: means.len() as u64 }
            }
        }
    }

    /// Of a candidate that was dropped after so many passes, with what is foretold of it.
    pub fn dropped(means: Vec<f64>, passes: u64) -> Self {
        Self { score: Score::foretold(&means), means, slope: None, passes }
    }
}
