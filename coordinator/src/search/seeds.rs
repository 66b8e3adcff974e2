//! Where a search starts: the published methods, and factors that were given.

use ropewalk_shared::baselines::Baseline;
use ropewalk_shared::candidate::Candidate;
use ropewalk_shared::job::JobSpec;
use ropewalk_shared::model_description::ModelDescription;
use ropewalk_shared::rope::{Rescale, RopeGeometry};
use ropewalk_shared::space::SearchSpace;

/// Given factors first, then PI, NTK and YaRN (both blends), each as the nearest candidate, none twice.
///
/// Where the attention factor is searched, given factors bring their own and the methods start from `attention_factor`.
pub fn seeds(
    space: &SearchSpace,
    geometry: &RopeGeometry,
    original_length: u32,
    ratio: f64,
    attention_factor: f64,
    init: &[Rescale],
) -> Vec<Candidate> {
    let given =
        init.iter().map(|rescale| space.nearest(&rescale.factors, rescale.start_tokens, rescale.attention_factor));
    let baselines = Baseline::ALL
        .map(|baseline| space.nearest(&baseline.factors(geometry, original_length, ratio), 0, attention_factor));
    let mut seeds: Vec<Candidate> = Vec::new();
    for seed in given.chain(baselines) {
        if !seeds.contains(&seed) {
            seeds.push(seed);
        }
    }
    seeds
}

/// The seeds of a job.
pub fn of_job(job: &JobSpec, description: &ModelDescription) -> Vec<Candidate> {
    let space = job.space(description);
    let ratio = job.extension_ratio(description);
    let (length, factor) = (description.original_length, job.attention_factor(description));
    seeds(&space, &description.geometry, length, ratio, factor, &job.search.init)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ropewalk_shared::grid::Grid;

    #[test]
    fn given_factors_come_first_and_nothing_twice() {
        let space =
            SearchSpace { grid: Grid::PAPER, pairs: 32, max_point: 1000, start_tokens: vec![0, 4], attention: None };
        let geometry = RopeGeometry { head_dim: 64, rotary_dim: 64, theta: 10_000.0 };
        let given = Rescale { factors: vec![2.001; 32], start_tokens: 5, attention_factor: 1.1 };
        let again = Rescale::with_factors(vec![8.0; 32]);
        let seeds = seeds(&space, &geometry, 256, 8.0, 1.0, &[given, again]);
        assert_eq!(seeds.len(), 5, "position interpolation was given already");
        assert_eq!(seeds[0], Candidate { factors: vec![200; 32], start_tokens: 4, attention: None });
        assert!(seeds.iter().all(|seed| space.check(seed).is_ok()));
    }
}
