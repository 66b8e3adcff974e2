//! The search that follows gradients, on landscapes whose slopes are known exactly.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

use ropewalk_coordinator::search::{
    Ask, Evolution, EvolutionSettings, Ropewalk, Score, Slope, Strategy, StrategyState, seeds,
};
use ropewalk_shared::candidate::{Candidate, attention_value};
use ropewalk_shared::grid::Grid;
use ropewalk_shared::job::StrategyKind;
use ropewalk_shared::rope::RopeGeometry;
use ropewalk_shared::space::{ATTENTION_BOUNDS, PAPER_START_TOKENS, SearchSpace};
use ropewalk_shared::work::Measure;
use std::collections::HashSet;

const PAIRS: usize = 32;

fn settings(attention: bool, seed: u64) -> EvolutionSettings {
    let space = SearchSpace {
        grid: Grid::PAPER,
        pairs: PAIRS,
        max_point: 1000,
        start_tokens: PAPER_START_TOKENS.to_vec(),
        attention: attention.then_some(ATTENTION_BOUNDS),
    };
    let geometry = RopeGeometry { head_dim: 2 * PAIRS, rotary_dim: 2 * PAIRS, theta: 10_000.0 };
    EvolutionSettings {
        seeds: seeds::seeds(&space, &geometry, 256, 8.0, 1.17, &[]),
        space,
        options: StrategyKind::Ropewalk.options(),
        seed,
        patience: None,
        max_evaluations: None,
        operators: Default::default(),
        documents: Default::default(),
    }
}

/// `ln score = c + sum of w_i (ln lambda_i - t_i)^2 + (ln f - ln 1.1)^2`, and a little for starting tokens other than 4.
struct Bowl {
    target: Vec<f64>,
    weights: Vec<f64>,
}

impl Bowl {
    fn new() -> Self {
        let place = |pair: usize| pair as f64 / PAIRS as f64;
        Self {
            target: (0..PAIRS).map(|pair| 8f64.ln() * place(pair).powf(1.6)).collect(),
            // Sensitivities that differ by two orders of magnitude.
            weights: (0..PAIRS).map(|pair| 0.01 * 100f64.powf(1.0 - (2.0 * place(pair) - 1.0).abs())).collect(),
        }
    }

    fn offsets(&self, candidate: &Candidate) -> Vec<f64> {
        let logs = candidate.factors.iter().map(|&point| Grid::PAPER.value(point).ln());
        logs.zip(&self.target).map(|(log, target)| log - target).collect()
    }

    fn score(&self, candidate: &Candidate) -> Score {
        let squares: f64 =
            self.offsets(candidate).iter().zip(&self.weights).map(|(off, weight)| weight * off * off).sum();
        let attention = candidate.attention.map_or(0.0, |point| (attention_value(point) / 1.1).ln().powi(2));
        let start = f64::from(candidate.start_tokens.abs_diff(4)) * 1e-5;
        Score::new((2.0 + squares + attention + start).exp())
    }

    fn slope(&self, candidate: &Candidate) -> Slope {
        let by = self.offsets(candidate).iter().zip(&self.weights).map(|(off, weight)| 2.0 * weight * off).collect();
        let attention = candidate.attention.map_or(0.0, |point| 2.0 * (attention_value(point) / 1.1).ln());
        Slope { log_factors: by, log_attention_factor: attention }
    }
}

/// Runs a search to its end; what was asked, with its measure.
fn run(
    strategy: &mut dyn Strategy,
    bowl: &Bowl,
    slope: impl Fn(&Candidate) -> Option<Slope>,
) -> Vec<(Candidate, Measure)> {
    let mut asked = Vec::new();
    while let Ask::Evaluate { generation, candidates } = strategy.ask() {
        let measure = strategy.measure();
        let scores: Vec<Score> = candidates.iter().map(|candidate| bowl.score(candidate)).collect();
        let slopes: Vec<Option<Slope>> = candidates
            .iter()
            .map(|candidate| (measure == Measure::Gradient).then(|| slope(candidate)).flatten())
            .collect();
        strategy.tell_slopes(generation, &scores, &slopes).unwrap();
        asked.extend(candidates.into_iter().map(|candidate| (candidate, measure)));
    }
    asked
}

#[test]
fn the_steps_get_further_than_algorithm_1_at_the_same_price() {
    let bowl = Bowl::new();
    for seed in 0..3 {
        let mut ours = Ropewalk::new(settings(false, seed)).unwrap();
        run(&mut ours, &bowl, |candidate| Some(bowl.slope(candidate)));
        let price = ours.passes_per_sample();
        let options = StrategyKind::LongRope.options();
        let equal = EvolutionSettings { options, max_evaluations: Some(price), ..settings(false, seed) };
        let mut paper = Evolution::new(equal).unwrap();
        run(&mut paper, &bowl, |_| None);
        assert_eq!(paper.passes_per_sample(), price);
        assert!(ours.best().unwrap().1 < paper.best().unwrap().1, "seed {seed}");
    }
}

#[test]
fn the_attention_factor_is_found_with_the_factors() {
    let bowl = Bowl::new();
    let mut search = Ropewalk::new(settings(true, 0)).unwrap();
    run(&mut search, &bowl, |candidate| Some(bowl.slope(candidate)));
    let point = search.best().unwrap().0.attention.unwrap();
    assert!(point.abs_diff(1100) <= 10, "{point}");
}

#[test]
fn what_is_asked_lies_in_the_space_and_only_the_start_is_asked_twice() {
    let bowl = Bowl::new();
    let settings = settings(true, 1);
    let mut search = Ropewalk::new(settings.clone()).unwrap();
    let asked = run(&mut search, &bowl, |candidate| Some(bowl.slope(candidate)));
    assert!(asked.iter().all(|(candidate, _)| settings.space.check(candidate) == Ok(())));
    let distinct: HashSet<_> = asked.iter().map(|(candidate, _)| candidate).collect();
    assert_eq!(distinct.len() + 1, asked.len());
    let gradients = asked.iter().filter(|(_, measure)| *measure == Measure::Gradient).count() as u64;
    assert_eq!(search.passes_per_sample(), asked.len() as u64 + 2 * gradients);
    let best = asked.iter().map(|(candidate, _)| bowl.score(candidate)).min().unwrap();
    assert_eq!(search.best().unwrap().1, best);
}

#[test]
fn a_search_read_back_at_every_step_asks_the_same() {
    let bowl = Bowl::new();
    let mut undisturbed = Ropewalk::new(settings(true, 2)).unwrap();
    let expected = run(&mut undisturbed, &bowl, |candidate| Some(bowl.slope(candidate)));
    let mut search: Box<dyn Strategy> = Box::new(Ropewalk::new(settings(true, 2)).unwrap());
    let mut asked = Vec::new();
    while let Ask::Evaluate { generation, candidates } = search.ask() {
        let text = serde_json::to_string(&search.snapshot()).unwrap();
        search = serde_json::from_str::<StrategyState>(&text).unwrap().restore().unwrap();
        let measure = search.measure();
        let scores: Vec<Score> = candidates.iter().map(|candidate| bowl.score(candidate)).collect();
        let slopes: Vec<Option<Slope>> = candidates.iter().map(|candidate| Some(bowl.slope(candidate))).collect();
        search.tell_slopes(generation, &scores, &slopes).unwrap();
        asked.extend(candidates.into_iter().map(|candidate| (candidate, measure)));
    }
    assert_eq!(asked, expected);
    assert_eq!(search.snapshot(), undisturbed.snapshot());
}

#[test]
fn without_usable_slopes_the_population_gets_what_the_steps_would_have_cost() {
    let bowl = Bowl::new();
    let nan = |candidate: &Candidate| {
        let slope = bowl.slope(candidate);
        Some(Slope { log_attention_factor: f64::NAN, ..slope })
    };
    let short = |_: &Candidate| Some(Slope { log_factors: vec![1.0], log_attention_factor: 0.0 });
    let mut with = Ropewalk::new(settings(false, 0)).unwrap();
    run(&mut with, &bowl, |candidate| Some(bowl.slope(candidate)));
    for slope in [&nan as &dyn Fn(&Candidate) -> Option<Slope>, &|_: &Candidate| None, &short] {
        let mut without = Ropewalk::new(settings(false, 0)).unwrap();
        let asked = run(&mut without, &bowl, slope);
        let gradients = asked.iter().filter(|(_, measure)| *measure == Measure::Gradient).count();
        assert_eq!(gradients, 1, "one try");
        assert!(without.passes_per_sample().abs_diff(with.passes_per_sample()) <= 20);
        let start = without.history()[0].best;
        assert!(without.best().unwrap().1 < start);
    }
}

#[test]
fn a_bound_on_evaluations_bounds_the_price() {
    let bowl = Bowl::new();
    for bound in [1, 4, 5, 6, 7, 8, 20, 79, 90, 100] {
        let mut search =
            Ropewalk::new(EvolutionSettings { max_evaluations: Some(bound), ..settings(false, 0) }).unwrap();
        run(&mut search, &bowl, |candidate| Some(bowl.slope(candidate)));
        assert!(search.passes_per_sample() <= bound, "{} of {bound}", search.passes_per_sample());
        assert!(search.best().is_some());
    }
}

#[test]
fn failures_alone_end_the_search_without_a_winner() {
    let mut search = Ropewalk::new(settings(false, 0)).unwrap();
    while let Ask::Evaluate { generation, candidates } = search.ask() {
        search.tell(generation, &vec![Score::FAILED; candidates.len()]).unwrap();
    }
    assert_eq!(search.best(), None);
}
