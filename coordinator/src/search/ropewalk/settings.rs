//! What determines a search, and what it asks at most.

use super::curve::Curve;
use super::pattern::{ROUND_CANDIDATES, ROUNDS};
use super::slope;
use crate::search::evolution::{EvolutionSettings, InvalidSettings};
use ropewalk_shared::attention_factor::AttentionFactorPolicy;
use ropewalk_shared::baselines::{YarnBounds, yarn_ramp};
use ropewalk_shared::job::{EvolutionOptions, JobSpec, SearchOptions};
use ropewalk_shared::model_description::ModelDescription;
use ropewalk_shared::rope::{Rescale, RopeGeometry};
use ropewalk_shared::work::Measure;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// What determines a search, besides scores.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RopewalkSettings {
    /// Space, seeds, bounds; of the options, mutations (N1), crossovers (N2), generations (T) and parents.
    pub common: EvolutionSettings,
    /// YaRN's curve.
    pub start: Curve,
    /// How many of the seeds, the first ones, were given.
    pub given: usize,
    /// The radians that each pair turns over the target window at factor 1.
    pub angles: Vec<f64>,
    /// Steps down the slope (S).
    pub slope_steps: u32,
}

/// What a search asks at most when nothing ends it early: evaluations, and generations after the first.
pub fn planned(search: &SearchOptions) -> (u64, u32) {
    let options = &search.evolution;
    let drawn = u64::from(options.mutations) + u64::from(options.crossovers);
    let (steps, clouds) = (search.slope_steps, options.generations);
    let star = u64::from(search.attention_factor == AttentionFactorPolicy::Search);
    // A star has two points and a combination more where the attention factor is searched.
    let curve = (u64::from(ROUNDS) * (ROUND_CANDIDATES + 3 * star), 2 * ROUNDS);
    let evaluations = 4
        + search.init.len() as u64
        + curve.0
        + u64::from(steps) * (Measure::Gradient.cost() + slope::LENGTHS.len() as u64)
        + u64::from(clouds).saturating_mul(drawn);
    (evaluations, clouds.saturating_add(steps.saturating_mul(2)).saturating_add(curve.1))
}

/// Generations around the best that cost about as much as a curve does.
pub(super) fn in_place_of_a_curve(options: &EvolutionOptions) -> u32 {
    let drawn = options.mutations.saturating_add(options.crossovers).max(1);
    (ROUNDS * ROUND_CANDIDATES as u32) / drawn
}

// === impl RopewalkSettings ===

impl RopewalkSettings {
    /// The settings of a job.
    pub fn of_job(job: &JobSpec, description: &ModelDescription) -> Self {
        let common = EvolutionSettings::of_job(job, description);
        let attention = job.attention_factor(description);
        // As often as they are seeds: what is the same candidate is one.
        let space = &common.space;
        let nearest = |given: &Rescale| space.nearest(&given.factors, given.start_tokens, given.attention_factor);
        let given = job.search.init.iter().map(nearest).collect::<HashSet<_>>().len();
        let ratio = job.extension_ratio(description);
        let window = (description.original_length, job.target_length);
        let settings = Self::new(common, &description.geometry, window, ratio, attention);
        Self { given, slope_steps: job.search.slope_steps, ..settings }
    }

    pub(super) fn check(&self) -> Result<(), InvalidSettings> {
        self.common.check()?;
        if self.angles.len() == self.common.space.pairs && self.start.is_usable() {
            Ok(())
        } else {
            Err(InvalidSettings::Curve)
        }
    }

    /// Settings for a model's geometry, its window and the target's, and the ratio of the two; `attention` is the
    /// attention factor to start from. No factors are given, and no steps go down the slope.
    pub fn new(
        common: EvolutionSettings,
        geometry: &RopeGeometry,
        (original_length, target_length): (u32, u32),
        ratio: f64,
        attention: f64,
    ) -> Self {
        let (low, high) = yarn_ramp(geometry, original_length, YarnBounds::default());
        let start = Curve { low, high, top: ratio, bend: 1.0, attention };
        let angle = |pair: usize| f64::from(target_length) * geometry.inverse_frequency(pair);
        Self { angles: (0..common.space.pairs).map(angle).collect(), start, given: 0, slope_steps: 0, common }
    }
}
