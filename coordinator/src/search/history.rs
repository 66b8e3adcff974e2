//! What became of each generation, for progress lines, plots and the final report.

use super::score::Score;
use serde::{Deserialize, Serialize};

/// One generation, closed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationSummary {
    /// 0 is the initial population.
    pub generation: u32,
    /// Candidates evaluated in it.
    pub evaluated: u32,
    /// How many of them have no usable score.
    pub failed: u32,
    /// Candidates drawn for it and thrown away because they had been asked before.
    pub duplicates_avoided: u32,
    /// Best score of this generation alone.
    pub generation_best: Score,
    /// Median score of this generation, the better one of two middles.
    pub median: Score,
    /// Best score so far, this generation included.
    pub best: Score,
    /// Evaluations so far, this generation included.
    pub total_evaluated: u64,
}

// === impl GenerationSummary ===

impl GenerationSummary {
    /// Closes a generation that follows `previous`.
    pub fn close(generation: u32, scores: &[Score], duplicates_avoided: u32, previous: Option<&Self>) -> Self {
        let mut sorted = scores.to_vec();
        sorted.sort();
        let generation_best = sorted.first().copied().unwrap_or(Score::FAILED);
        Self {
            generation,
            evaluated: scores.len() as u32,
            failed: scores.iter().filter(|score| score.is_failed()).count() as u32,
            duplicates_avoided,
            generation_best,
            median: sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(Score::FAILED),
            best: previous.map_or(generation_best, |p| p.best.min(generation_best)),
            total_evaluated: previous.map_or(0, |p| p.total_evaluated) + scores.len() as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_counts_and_ranks() {
        let scores = [3.0, f64::NAN, 2.0, 9.0].map(Score::new);
        let first = GenerationSummary::close(0, &scores, 5, None);
        assert_eq!((first.evaluated, first.failed, first.total_evaluated), (4, 1, 4));
        assert_eq!((first.best, first.median), (Score::new(2.0), Score::new(3.0)));
        let second = GenerationSummary::close(1, &[Score::FAILED], 0, Some(&first));
        assert_eq!((second.best, second.generation_best), (Score::new(2.0), Score::FAILED));
        assert_eq!(second.total_evaluated, 5);
    }
}
