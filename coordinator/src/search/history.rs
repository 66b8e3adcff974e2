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
    /// How many of them failed, or gave no number.
    pub failed: u32,
    /// How many of them were dropped before they were evaluated on every sample.
    #[serde(default)]
    pub dropped: u32,
    /// How many of them exceeded the limit of a short window.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub infeasible: u32,
    /// Candidates drawn for it and thrown away because they had been asked before.
    pub duplicates_avoided: u32,
    /// Best score of this generation alone; that of a candidate outside a limit where none is within.
    pub generation_best: Score,
    /// Median score of this generation, the better one of two middles; of a candidate that was dropped, its estimate counts.
    pub median: Score,
    /// Best score so far, this generation included.
    pub best: Score,
    /// Evaluations so far, this generation included.
    pub total_evaluated: u64,
    /// Document passes so far, this generation included, as far as the strategy counts them.
    #[serde(default)]
    pub document_passes: u64,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

// === impl GenerationSummary ===

impl GenerationSummary {
    /// Closes a generation that follows `previous`.
    pub fn close(generation: u32, scores: &[Score], duplicates_avoided: u32, previous: Option<&Self>) -> Self {
        let mut sorted = scores.to_vec();
        sorted.sort();
        let generation_best = sorted.first().copied().filter(|best| best.estimate().is_none()).unwrap_or(Score::FAILED);
        let mut likely: Vec<Score> = scores.iter().map(|score| score.likely()).collect();
        likely.sort();
        Self {
            generation,
            evaluated: scores.len() as u32,
            failed: scores.iter().filter(|score| score.is_failed()).count() as u32,
            duplicates_avoided,
            generation_best,
            infeasible: scores.iter().filter(|score| score.excess().is_some()).count() as u32,
            dropped: scores.iter().filter(|score| score.estimate().is_some()).count() as u32,
            median: likely.get(likely.len().saturating_sub(1) / 2).copied().unwrap_or(Score::FAILED),
            best: previous.map_or(generation_best, |p| p.best.min(generation_best)),
            total_evaluated: previous.map_or(0, |p| p.total_evaluated) + scores.len() as u64,
            document_passes: previous.map_or(0, |p| p.document_passes),
        }
    }

    /// Adds the document passes of this generation.
    pub fn spending(self, passes: u64) -> Self {
        Self { document_passes: self.document_passes.saturating_add(passes), ..self }
    }

    /// Whether the last `patience` generations brought nothing better than what was known before them.
    pub fn stalled(history: &[Self], patience: Option<u32>) -> bool {
        let Some(before) = patience.and_then(|patience| history.len().checked_sub(patience as usize + 1)) else {
            return false;
        };
        history.last().is_some_and(|last| last.best >= history[before].best)
    }
}

/// Document passes of closed generations; absent for a search from before they were counted, in which nothing was dropped.
pub(super) fn document_passes(history: &[GenerationSummary]) -> Option<u64> {
    let counted = history.first().is_none_or(|first| first.document_passes > 0);
    counted.then(|| history.last().map_or(0, |last| last.document_passes))
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
        let raced = [3.0, 4.0].map(Score::new).into_iter().chain([2.0, 5.0, 1.0].map(Score::dropped));
        let third = GenerationSummary::close(2, &raced.collect::<Vec<_>>(), 0, Some(&second)).spending(19).spending(2);
        assert_eq!((third.failed, third.dropped, third.document_passes), (0, 3, 21));
        assert_eq!(
            (third.generation_best, third.best, third.median),
            (Score::new(3.0), Score::new(2.0), Score::new(3.0))
        );
        // Outside a limit, coming nearer to it is getting better.
        let outside = |excess| GenerationSummary::close(0, &[Score::infeasible(excess), Score::FAILED], 0, None);
        assert_eq!((outside(0.5).infeasible, outside(0.5).best.value()), (1, None));
        assert!(outside(0.25).best < outside(0.5).best);
    }
}
