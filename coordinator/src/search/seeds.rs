//! Where a search starts: the published methods, factors that were given, or what its strategy prescribes.

use super::authors::pieces;
use super::critical_dimension::CriticalDimension;
use super::operators::Operators;
use ropewalk_shared::baselines::Baseline;
use ropewalk_shared::candidate::Candidate;
use ropewalk_shared::job::{JobSpec, StrategyKind};
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

/// What the strategy of a job starts from, and how it goes on from there.
pub fn of_job(job: &JobSpec, description: &ModelDescription) -> (Operators, Vec<Candidate>) {
    let (space, search, geometry) = (job.space(description), &job.search, &description.geometry);
    let (length, factor) = (description.original_length, job.attention_factor(description));
    let ratio = job.extension_ratio(description);
    let of_authors = |adapt: &dyn Fn(Candidate) -> Candidate| {
        let given = search.init.iter().map(|given| (given.factors.clone(), given.start_tokens, given.attention_factor));
        let yarn = (Baseline::YarnFactors.factors(geometry, length, ratio), 0, factor);
        let mut seeds: Vec<Candidate> = Vec::new();
        for (factors, start_tokens, factor) in given.chain([yarn]) {
            let seed = adapt(space.nearest(&factors, start_tokens, factor));
            if !seeds.contains(&seed) {
                seeds.push(seed);
            }
        }
        seeds
    };
    match search.strategy {
        StrategyKind::LongRope | StrategyKind::Ropewalk => {
            (Operators::Paper, seeds(&space, geometry, length, ratio, factor, &search.init))
        }
        StrategyKind::DimMono => (Operators::DimMono, of_authors(&|seed| seed)),
        StrategyKind::DimPieceMono => {
            let stretched = space.grid.nearest(ratio).min(space.max_point);
            (Operators::DimPieceMono { stretched }, of_authors(&|seed| pieces(&seed, stretched)))
        }
        StrategyKind::LongRope2 => {
            let bounds = CriticalDimension::of(geometry, length, ratio, space.grid);
            (
                Operators::CriticalDimension(bounds),
                bounds.seeds(&space, space.nearest_attention(factor), search.evolution.population as usize),
            )
        }
    }
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
        let given =
            Rescale { factors: vec![2.001; 32], start_tokens: 5, attention_factor: 1.1, pair_attention: Vec::new() };
        let again = Rescale::with_factors(vec![8.0; 32]);
        let seeds = seeds(&space, &geometry, 256, 8.0, 1.0, &[given, again]);
        assert_eq!(seeds.len(), 5, "position interpolation was given already");
        assert_eq!(
            seeds[0],
            Candidate { factors: vec![200; 32], start_tokens: 4, attention: None, pair_attention: Vec::new() }
        );
        assert!(seeds.iter().all(|seed| space.check(seed).is_ok()));
    }
}
