//! What determines a search for attention factors of pairs, and what it asks at most.

use super::profile::{self, BOUNDS};
use crate::search::evolution::{DocumentOptions, InvalidSettings};
use crate::search::star::round_candidates;
use ropewalk_shared::attention_factor::AttentionFactorPolicy;
use ropewalk_shared::candidate::Candidate;
use ropewalk_shared::job::{JobSpec, SearchOptions};
use ropewalk_shared::model_description::ModelDescription;
use ropewalk_shared::space::{OutsideSpace, SearchSpace};
use serde::{Deserialize, Serialize};

/// Rounds at each level of detail, the smoothest first.
pub(super) const ROUNDS: [u32; 3] = [1, 1, 1];

/// What determines a search, besides scores and the search for the factors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairAttentionSettings {
    /// Where the factors are searched.
    pub space: SearchSpace,
    /// What is evaluated of each candidate.
    pub documents: DocumentOptions,
    /// The best candidates, as far as racing is concerned.
    pub parents: usize,
    /// Never ask more candidates than this for profiles.
    pub evaluations: u32,
    /// Never ask more candidates than this in both searches.
    pub max_evaluations: Option<u64>,
}

/// Generations after those of the other search, at most.
pub fn planned_generations(search: &SearchOptions) -> u32 {
    let star = u64::from(search.attention_factor == AttentionFactorPolicy::Search);
    let (mut generations, mut left) = (0, u64::from(search.pair_attention));
    for (rounds, level) in ROUNDS.into_iter().zip(0..) {
        for _ in 0..rounds {
            if left > 0 {
                generations += 2;
            }
            left = left.saturating_sub(round_candidates(profile::numbers(level) as u64 + star));
        }
    }
    generations
}

// === impl PairAttentionSettings ===

impl PairAttentionSettings {
    /// The settings of a job.
    pub fn of_job(job: &JobSpec, description: &ModelDescription) -> Self {
        let search = &job.search;
        Self {
            space: job.space(description),
            documents: DocumentOptions::of_job(job),
            parents: search.evolution.parents as usize,
            evaluations: search.pair_attention,
            max_evaluations: search.max_evaluations,
        }
    }

    pub(super) fn check(&self) -> Result<(), InvalidSettings> {
        if self.space.pairs < 2 {
            return Err(InvalidSettings::EmptySpace);
        }
        let bounds = [("pair_attention", self.evaluations > 0), ("samples", self.documents.samples > 0)];
        match bounds.into_iter().find(|(_, holds)| !holds) {
            Some((name, _)) => Err(InvalidSettings::Option(name)),
            None => Ok(()),
        }
    }

    /// Whether a candidate can have been asked: its factors lie in the space, its profile within bounds.
    pub(super) fn check_candidate(&self, candidate: &Candidate) -> Result<(), OutsideSpace> {
        self.space.check(&Candidate { pair_attention: Vec::new(), ..candidate.clone() })?;
        let points = &candidate.pair_attention;
        let fits = [0, self.space.pairs].contains(&points.len())
            && points.iter().all(|point| (BOUNDS.0..=BOUNDS.1).contains(point));
        if fits { Ok(()) } else { Err(OutsideSpace::PairAttention) }
    }

    /// Profiles that may still be asked after so many, and so many evaluations and document passes of both searches.
    pub(super) fn room(&self, asked: u64, evaluations: u64, passes: u64) -> u64 {
        let DocumentOptions { samples, max_passes, .. } = self.documents;
        let own = u64::from(self.evaluations).saturating_sub(asked);
        let by_evaluations = self.max_evaluations.map(|max| max.saturating_sub(evaluations));
        let by_passes = max_passes.map(|max| max.saturating_sub(passes) / u64::from(samples.max(1)));
        by_evaluations.into_iter().chain(by_passes).fold(own, u64::min)
    }
}

/// The job of the search for the factors: its limits leave room for the profiles, as far as its first generation does.
pub(super) fn job_of_factors(job: &JobSpec) -> JobSpec {
    let mut inner = job.clone();
    let (first, samples) = (job.search.first_generation(), job.samples.len() as u64);
    let aside = u64::from(std::mem::take(&mut inner.search.pair_attention));
    let less = |max: u64, aside: u64, first: u64| max.saturating_sub(aside).max(first.min(max));
    inner.search.max_evaluations = job.search.max_evaluations.map(|max| less(max, aside, first));
    inner.search.max_passes =
        job.search.max_passes.map(|max| less(max, aside.saturating_mul(samples), first.saturating_mul(samples)));
    inner
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where nobody says how many, the smoothest level is searched to its end.
    #[test]
    fn the_usual_number_is_one_level() {
        for policy in [AttentionFactorPolicy::LongRope, AttentionFactorPolicy::Search] {
            let star = u64::from(policy == AttentionFactorPolicy::Search);
            let usual = SearchOptions::usual_pair_attention(policy);
            assert_eq!(u64::from(usual), round_candidates(profile::numbers(0) as u64 + star));
            let search = SearchOptions { attention_factor: policy, pair_attention: usual, ..SearchOptions::default() };
            assert_eq!(planned_generations(&search), 2);
        }
    }
}
