//! What determines an evolutionary search.

use crate::search::operators::Operators;
use crate::search::seeds;
use ropewalk_shared::candidate::Candidate;
use ropewalk_shared::job::{EvolutionOptions, JobSpec};
use ropewalk_shared::model_description::ModelDescription;
use ropewalk_shared::racing::Racing;
use ropewalk_shared::space::{OutsideSpace, SearchSpace};
use serde::{Deserialize, Serialize};

/// Everything an evolutionary search depends on, except scores.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvolutionSettings {
    /// Where it searches.
    pub space: SearchSpace,
    /// The parameters of algorithm 1.
    pub options: EvolutionOptions,
    /// The first candidates, all different; those beyond the population's size are left out.
    pub seeds: Vec<Candidate>,
    /// Seed of every random choice.
    pub seed: u64,
    /// Stop after this many generations without a better candidate.
    pub patience: Option<u32>,
    /// Never ask more candidates than this: the last generation is cut to fit.
    pub max_evaluations: Option<u64>,
    /// How children are made.
    #[serde(default)]
    pub operators: Operators,
    /// What is evaluated of each.
    #[serde(default)]
    pub documents: DocumentOptions,
}

/// The documents on which candidates are evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentOptions {
    /// How many there are.
    pub samples: u32,
    /// When a candidate is not evaluated on all of them.
    pub racing: Racing,
    /// Never ask what could take the search beyond so many passes.
    pub max_passes: Option<u64>,
}

/// Settings with which no search can be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSettings {
    /// No factor, no point or no choice of starting tokens.
    #[error("the search space is empty")]
    EmptySpace,
    /// Nothing to start from.
    #[error("a search needs at least one seed")]
    NoSeeds,
    /// A seed that the search could not have asked.
    #[error("seed {index} lies outside the search space: {reason}")]
    Seed {
        /// Which one.
        index: usize,
        /// Why.
        reason: OutsideSpace,
    },
    /// A parameter out of its bounds.
    #[error("{0} is out of bounds")]
    Option(&'static str),
    /// A base so small for its window that YaRN's ramp lies beyond the last pair.
    #[error(
        "YaRN's curve, from which this strategy starts, has no place among the model's rotary pairs: its rope_theta is too \
         small for its window; search with longrope"
    )]
    Curve,
    /// A state that would be refused when it is read back.
    #[error("the search could not go on after a restart: {0}")]
    Unrestorable(String),
}

impl Default for DocumentOptions {
    fn default() -> Self {
        Self { samples: 1, racing: Racing::Off, max_passes: None }
    }
}

// === impl DocumentOptions ===

impl DocumentOptions {
    /// Those of a job.
    pub fn of_job(job: &JobSpec) -> Self {
        let JobSpec { samples, search, .. } = job;
        Self { samples: samples.len() as u32, racing: search.racing, max_passes: search.max_passes }
    }
}

// === impl EvolutionSettings ===

impl EvolutionSettings {
    /// The settings of a job.
    pub fn of_job(job: &JobSpec, description: &ModelDescription) -> Self {
        let (operators, seeds) = seeds::of_job(job, description);
        Self {
            space: job.space(description),
            options: job.search.evolution,
            seeds,
            operators,
            seed: job.search.seed,
            patience: job.search.patience,
            max_evaluations: job.search.max_evaluations,
            documents: DocumentOptions::of_job(job),
        }
    }

    /// Candidates that may still be asked after so many evaluations and document passes: each may have to be evaluated on
    /// every sample.
    pub(in crate::search) fn room(&self, evaluations: u64, passes: u64) -> u64 {
        let DocumentOptions { samples, max_passes, .. } = self.documents;
        let by_evaluations = self.max_evaluations.map(|max| max.saturating_sub(evaluations));
        let by_passes = max_passes.map(|max| max.saturating_sub(passes) / u64::from(samples.max(1)));
        by_evaluations.unwrap_or(u64::MAX).min(by_passes.unwrap_or(u64::MAX))
    }

    /// Why a search ends that asked so many generations of `planned` after the first, and has so much behind it.
    pub(in crate::search) fn why_finished(
        &self,
        (asked, planned): (u32, u32),
        (evaluations, passes): (u64, u64),
        stalled: bool,
    ) -> String {
        let DocumentOptions { samples, max_passes, .. } = self.documents;
        if asked >= planned {
            "all generations are evaluated".into()
        } else if self.max_evaluations.is_some_and(|max| evaluations >= max) {
            format!("the limit of {evaluations} evaluations is reached")
        } else if let Some(max) = max_passes.filter(|max| max.saturating_sub(passes) < u64::from(samples)) {
            format!("the {max} document passes do not suffice for another candidate")
        } else if let Some(patience) = self.patience.filter(|_| stalled) {
            format!("{patience} generations brought nothing better")
        } else {
            "every candidate of the search space is evaluated".into()
        }
    }

    pub(in crate::search) fn check(&self) -> Result<(), InvalidSettings> {
        let (space, options) = (&self.space, &self.options);
        if space.pairs == 0 || space.max_point < space.grid.one() || space.start_tokens.is_empty() {
            return Err(InvalidSettings::EmptySpace);
        }
        if self.seeds.is_empty() {
            return Err(InvalidSettings::NoSeeds);
        }
        for (index, seed) in self.seeds.iter().enumerate() {
            space.check(seed).map_err(|reason| InvalidSettings::Seed { index, reason })?;
        }
        let bounds = [
            ("population", options.population > 0),
            ("parents", options.parents > 0),
            ("mutation_probability", options.mutation_probability > 0.0 && options.mutation_probability <= 1.0),
            ("patience", self.patience != Some(0)),
            ("max_evaluations", self.max_evaluations != Some(0)),
            ("samples", self.documents.samples > 0),
        ];
        match bounds.into_iter().find(|(_, holds)| !holds) {
            Some((name, _)) => Err(InvalidSettings::Option(name)),
            None => Ok(()),
        }
    }
}
