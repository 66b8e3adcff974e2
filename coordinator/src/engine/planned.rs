//! How much a search takes if nothing ends it early, told before anything is spent.

use super::report_plan;
use crate::search::{pair_attention, ropewalk};
use ropewalk_shared::job::{JobSpec, SearchOptions, StrategyKind};

/// Sequences that a search sends through the model, its final report included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchPasses {
    /// Candidates that are evaluated.
    pub evaluations: u64,
    /// Samples that each is judged on, of the target length.
    pub judged: u64,
    /// Sequences of the target length.
    pub long: u64,
    /// Sequences of each window that must not get worse, and its length in tokens.
    pub short: Vec<(u32, u64)>,
}

// === impl SearchPasses ===

impl SearchPasses {
    /// Of a search on so many documents, with so many held out, and `needles` hidden in each of both where the objective asks
    /// for them.
    pub fn planned(search: &SearchOptions, documents: usize, held_out: usize, needles: u32) -> Self {
        let (documents, held_out) = (documents as u64, held_out as u64);
        let needles = u64::from(needles);
        let others = held_out.saturating_mul(1 + if search.objective.asks() { needles } else { 0 });
        let judged = search.objective.judged(documents, needles);
        let (evaluations, reported) = (evaluations(search, judged), report_plan::most_sets(search));
        let all = |judged: u64, others: u64, most: Option<u64>| {
            let report = reported.saturating_mul(judged.saturating_add(others));
            evaluations.saturating_mul(judged).min(most.unwrap_or(u64::MAX)).saturating_add(report)
        };
        let short = |length: u32| (length, all(documents, held_out, None));
        Self {
            evaluations,
            judged,
            long: all(judged, others, search.max_passes),
            short: search.keep_short.iter().map(|window| short(window.length)).collect(),
        }
    }
}

/// How many candidates a job evaluates if nothing stops the search early.
pub(super) fn planned_evaluations(spec: &JobSpec) -> u64 {
    evaluations(&spec.search, spec.samples.len() as u64)
}

fn evaluations(search: &SearchOptions, samples: u64) -> u64 {
    let all = match search.strategy {
        // Gradients count three, as they cost.
        StrategyKind::Ropewalk => ropewalk::planned(search).0,
        _ => search.evolution.evaluations(),
    };
    let all = all.saturating_add(search.pair_attention.into());
    // What a race saves buys more candidates, which nobody can count before.
    let by_passes = search.max_passes.filter(|_| search.racing.is_off()).map(|max| max / samples.max(1));
    search.max_evaluations.into_iter().chain(by_passes).fold(all, u64::min)
}

/// Generations after the first, if nothing stops the search early.
pub(super) fn planned_generations(spec: &JobSpec) -> u32 {
    let of_factors = match spec.search.strategy {
        StrategyKind::Ropewalk => ropewalk::planned(&spec.search).1,
        _ => spec.search.evolution.generations,
    };
    of_factors.saturating_add(pair_attention::planned_generations(&spec.search))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ropewalk_shared::job::SearchObjective;

    /// The paper's 1,344 candidates on 5 documents, and 9 sets on these and 3 others.
    #[test]
    fn passes_are_those_of_the_search_and_of_its_report() {
        let paper = SearchOptions::default();
        let of = |search: &SearchOptions| SearchPasses::planned(search, 5, 3, 2);
        let text = SearchPasses { evaluations: 1344, judged: 5, long: 1344 * 5 + 9 * 8, short: Vec::new() };
        assert_eq!(of(&paper), text);
        let needle = SearchOptions { objective: SearchObjective::Needle, ..paper.clone() };
        assert_eq!(of(&needle).long, 1344 * 10 + 9 * (10 + 9));
        let keep_short = vec!["100:2".parse().unwrap()];
        assert_eq!(of(&SearchOptions { keep_short, ..paper.clone() }).short, [(100, text.long)]);
        // A limit on passes holds for the search, whatever races save of it.
        let limited = SearchOptions { max_passes: Some(50), ..paper.clone() };
        assert_eq!(of(&limited).long, 50 + 9 * 8);
        let pairs = SearchOptions { strategy: StrategyKind::LongRope2, pair_attention: 7, ..paper };
        assert_eq!(of(&pairs).long, 1351 * 5 + 10 * 8);
    }
}
