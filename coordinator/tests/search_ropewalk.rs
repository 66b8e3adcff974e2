//! Ropewalk's own search on landscapes with known minima.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

use ropewalk_coordinator::search::{
    Ask, Evolution, EvolutionSettings, Ropewalk, RopewalkSettings, Score, Slope, Strategy, StrategyState, seeds,
};
use ropewalk_shared::candidate::{Candidate, attention_value};
use ropewalk_shared::grid::Grid;
use ropewalk_shared::job::StrategyKind;
use ropewalk_shared::rope::RopeGeometry;
use ropewalk_shared::space::{ATTENTION_BOUNDS, PAPER_START_TOKENS, SearchSpace};
use ropewalk_shared::work::Measure;
use std::collections::HashSet;

const PAIRS: usize = 32;
const GEOMETRY: RopeGeometry = RopeGeometry { head_dim: 2 * PAIRS, rotary_dim: 2 * PAIRS, theta: 10_000.0 };

fn common(attention: bool, seed: u64) -> EvolutionSettings {
    let space = SearchSpace {
        grid: Grid::PAPER,
        pairs: PAIRS,
        max_point: 1000,
        start_tokens: PAPER_START_TOKENS.to_vec(),
        attention: attention.then_some(ATTENTION_BOUNDS),
    };
    EvolutionSettings {
        seeds: seeds::seeds(&space, &GEOMETRY, 256, 8.0, 1.17, &[]),
        space,
        options: StrategyKind::Ropewalk.options(),
        seed,
        patience: None,
        max_evaluations: None,
        operators: Default::default(),
        documents: Default::default(),
    }
}

fn settings(attention: bool, seed: u64) -> RopewalkSettings {
    RopewalkSettings::new(common(attention, seed), &GEOMETRY, (256, 2048), 8.0, 1.17)
}

fn with_slopes(attention: bool, seed: u64) -> RopewalkSettings {
    RopewalkSettings { slope_steps: 4, ..settings(attention, seed) }
}

/// How `ln score` depends on a candidate.
trait Landscape {
    fn value(&self, candidate: &Candidate) -> f64;

    fn score(&self, candidate: &Candidate) -> Score {
        Score::new(self.value(candidate).exp())
    }
}

/// `c + sum of w_i (ln lambda_i - t_i)^2 + 4 (ln f - ln 1.1)^2`, and a little for starting tokens other than 4.
struct Bowl {
    target: Vec<f64>,
    weights: Vec<f64>,
}

/// A cliff: pairs from the critical one on must have the ratio; below it, less is better.
struct Cliff {
    critical: usize,
}

/// No candidate differs from any other, but for those far from YaRN, which fail.
struct Plateau;

/// The bowl with a reward for what misleads: NTK's neighbourhood is deeper at first sight.
struct Deceptive(Bowl);

/// The bowl under noise as large as what the last generations can gain.
struct Noisy(Bowl);

impl Bowl {
    fn new() -> Self {
        let place = |pair: usize| pair as f64 / PAIRS as f64;
        Self {
            target: (0..PAIRS).map(|pair| 8f64.ln() * place(pair).powf(1.6)).collect(),
            // Sensitivities that differ by two orders of magnitude.
            weights: (0..PAIRS).map(|pair| 3e-4 * 100f64.powf(1.0 - (2.0 * place(pair) - 1.0).abs())).collect(),
        }
    }

    fn offsets(&self, candidate: &Candidate) -> Vec<f64> {
        let logs = candidate.factors.iter().map(|&point| Grid::PAPER.value(point).ln());
        logs.zip(&self.target).map(|(log, target)| log - target).collect()
    }

    fn slope(&self, candidate: &Candidate) -> Slope {
        let by = self.offsets(candidate).iter().zip(&self.weights).map(|(off, weight)| 2.0 * weight * off).collect();
        let attention = candidate.attention.map_or(0.0, |point| 8.0 * (attention_value(point) / 1.1).ln());
        Slope { log_factors: by, log_attention_factor: attention }
    }
}

impl Landscape for Bowl {
    fn value(&self, candidate: &Candidate) -> f64 {
        let squares: f64 =
            self.offsets(candidate).iter().zip(&self.weights).map(|(off, weight)| weight * off * off).sum();
        let attention = candidate.attention.map_or(0.0, |point| 4.0 * (attention_value(point) / 1.1).ln().powi(2));
        2.0 + squares + attention + f64::from(candidate.start_tokens.abs_diff(4)) * 1e-5
    }
}

impl Landscape for Cliff {
    fn value(&self, candidate: &Candidate) -> f64 {
        let factor = |pair: usize| Grid::PAPER.value(candidate.factors[pair]);
        let above = (self.critical..PAIRS).map(|pair| (factor(pair).min(8.0) / 8.0).ln().powi(2) * 0.3);
        let below = (0..self.critical).map(|pair| factor(pair).ln() * 0.02);
        2.0 + above.sum::<f64>() + below.sum::<f64>()
    }
}

impl Landscape for Plateau {
    fn value(&self, candidate: &Candidate) -> f64 {
        if candidate.factors[0] > 300 { f64::NAN } else { 2.0 }
    }
}

impl Landscape for Deceptive {
    fn value(&self, candidate: &Candidate) -> f64 {
        let ntk = |pair: usize| 8f64.ln() * pair as f64 / (PAIRS - 1) as f64;
        let off: f64 =
            (0..PAIRS).map(|pair| (Grid::PAPER.value(candidate.factors[pair]).ln() - ntk(pair)).powi(2)).sum();
        self.0.value(candidate) - 0.02 * (-off).exp()
    }
}

impl Landscape for Noisy {
    fn value(&self, candidate: &Candidate) -> f64 {
        let bytes: Vec<u8> = candidate.factors.iter().flat_map(|point| point.to_le_bytes()).collect();
        let mut hash = 0xcbf2_9ce4_8422_2325u64;
        for byte in bytes {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        self.0.value(candidate) + 1e-3 * ((hash >> 40) as f64 / (1u64 << 24) as f64 - 0.5)
    }
}

/// Runs a search to its end; what was asked, with its measure.
fn run(
    strategy: &mut dyn Strategy,
    landscape: &dyn Landscape,
    slope: impl Fn(&Candidate) -> Option<Slope>,
) -> Vec<(Candidate, Measure)> {
    let mut asked = Vec::new();
    while let Ask::Evaluate { generation, candidates } = strategy.ask() {
        let measure = strategy.measure();
        let scores: Vec<Score> = candidates.iter().map(|candidate| landscape.score(candidate)).collect();
        let slopes: Vec<Option<Slope>> = candidates
            .iter()
            .map(|candidate| (measure == Measure::Gradient).then(|| slope(candidate)).flatten())
            .collect();
        strategy.tell_slopes(generation, &scores, &slopes).unwrap();
        asked.extend(candidates.into_iter().map(|candidate| (candidate, measure)));
    }
    asked
}

/// Of the way from YaRN down to the minimum, whose value is 2, how much is left.
fn left(landscape: &dyn Landscape, search: &Ropewalk) -> f64 {
    let best = |score: Score| score.value().unwrap().ln() - 2.0;
    let yarn = common(false, 0).seeds.iter().map(|seed| landscape.score(seed)).min().unwrap();
    best(search.best().unwrap().1) / best(yarn)
}

/// Where pairs share a curve, wherever it turns.
#[test]
fn it_ends_lower_than_algorithm_1_at_the_same_price() {
    for critical in [12, 13, 14, 15, 16, 17] {
        let cliff = Cliff { critical };
        for seed in 0..3 {
            let mut ours = Ropewalk::new(settings(false, seed)).unwrap();
            run(&mut ours, &cliff, |_| None);
            assert!(ours.evaluations() <= 134, "a tenth of the paper's: {}", ours.evaluations());
            let options = StrategyKind::LongRope.options();
            let max_evaluations = Some(ours.evaluations());
            let settings = EvolutionSettings { options, max_evaluations, ..common(false, seed) };
            let mut paper = Evolution::new(settings).unwrap();
            run(&mut paper, &cliff, |_| None);
            let (ours, paper) = (ours.best().unwrap().1, paper.best().unwrap().1);
            assert!(ours < paper, "pair {critical}, seed {seed}: {ours} and {paper}");
        }
    }
}

/// Also where they do not.
#[test]
fn most_of_the_way_down_is_gone_on_every_landscape() {
    let landscapes: [(&str, Box<dyn Landscape>, f64); 5] = [
        ("early cliff", Box::new(Cliff { critical: 11 }), 0.15),
        ("late cliff", Box::new(Cliff { critical: 18 }), 0.15),
        ("bowl", Box::new(Bowl::new()), 0.2),
        ("deceptive", Box::new(Deceptive(Bowl::new())), 0.2),
        ("noisy", Box::new(Noisy(Bowl::new())), 0.2),
    ];
    for (name, landscape, most) in &landscapes {
        for seed in 0..3 {
            let mut search = Ropewalk::new(settings(false, seed)).unwrap();
            run(&mut search, landscape.as_ref(), |_| None);
            let left = left(landscape.as_ref(), &search);
            assert!(left < *most, "{name}, seed {seed}: {left}");
        }
    }
}

#[test]
fn a_plateau_is_left_as_it_was_entered() {
    let mut search = Ropewalk::new(settings(false, 0)).unwrap();
    let asked = run(&mut search, &Plateau, |_| None);
    assert_eq!(search.best().unwrap().1, Score::new(2f64.exp()));
    let distinct: HashSet<_> = asked.iter().map(|(candidate, _)| candidate).collect();
    assert_eq!(distinct.len(), asked.len());
}

/// At the price of six evaluations each, on a landscape whose slopes are exact.
#[test]
fn slopes_bring_a_bowl_lower_than_the_same_price_without() {
    let bowl = Bowl::new();
    for seed in 0..3 {
        let mut with = Ropewalk::new(with_slopes(false, seed)).unwrap();
        run(&mut with, &bowl, |candidate| Some(bowl.slope(candidate)));
        let mut plain = settings(false, seed);
        plain.common.max_evaluations = Some(with.passes_per_sample());
        plain.common.options.generations = 100;
        let mut without = Ropewalk::new(plain).unwrap();
        run(&mut without, &bowl, |_| None);
        assert_eq!(without.passes_per_sample(), with.passes_per_sample());
        let (with, without) = (with.best().unwrap().1, without.best().unwrap().1);
        assert!(with < without, "seed {seed}: {with} and {without}");
    }
}

#[test]
fn the_attention_factor_is_found_with_the_factors() {
    let bowl = Bowl::new();
    let mut search = Ropewalk::new(settings(true, 0)).unwrap();
    run(&mut search, &bowl, |_| None);
    let point = search.best().unwrap().0.attention.unwrap();
    assert!(point.abs_diff(1100) <= 15, "{point}");
}

#[test]
fn what_is_asked_lies_in_the_space_and_only_for_a_slope_twice() {
    let bowl = Bowl::new();
    let settings = with_slopes(true, 1);
    let mut search = Ropewalk::new(settings.clone()).unwrap();
    let asked = run(&mut search, &bowl, |candidate| Some(bowl.slope(candidate)));
    assert!(asked.iter().all(|(candidate, _)| settings.common.space.check(candidate) == Ok(())));
    let losses = || asked.iter().filter(|(_, measure)| *measure == Measure::Loss);
    let distinct: HashSet<_> = losses().map(|(candidate, _)| candidate).collect();
    assert_eq!(distinct.len(), losses().count());
    let gradients = (asked.len() - distinct.len()) as u64;
    assert_eq!(gradients, 4);
    assert_eq!(search.passes_per_sample(), asked.len() as u64 + 2 * gradients);
    let best = asked.iter().map(|(candidate, _)| bowl.score(candidate)).min().unwrap();
    assert_eq!(search.best().unwrap().1, best);
}

#[test]
fn a_search_read_back_at_every_step_asks_the_same() {
    let bowl = Bowl::new();
    let mut undisturbed = Ropewalk::new(with_slopes(true, 2)).unwrap();
    let expected = run(&mut undisturbed, &bowl, |candidate| Some(bowl.slope(candidate)));
    let mut search: Box<dyn Strategy> = Box::new(Ropewalk::new(with_slopes(true, 2)).unwrap());
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

/// The first star is known before the seeds are; nothing else is, nor is it where given factors may stand in for a curve.
#[test]
fn what_is_certain_is_asked_next_whatever_the_scores() {
    for seed in 0..3 {
        let mut search = Ropewalk::new(settings(seed > 0, seed)).unwrap();
        let certain = search.certain_work();
        assert_eq!(certain.len(), if seed > 0 { 10 } else { 8 });
        let Ask::Evaluate { candidates, .. } = search.ask() else { panic!() };
        let scores: Vec<Score> =
            (0..candidates.len()).map(|n| Score::new(((n as u64 + seed) % 4 + 1) as f64)).collect();
        search.tell(0, &scores).unwrap();
        assert_eq!(search.ask(), Ask::Evaluate { generation: 1, candidates: certain });
        assert_eq!(search.certain_work(), []);
    }
    let given = RopewalkSettings { given: 1, ..settings(false, 0) };
    assert_eq!(Ropewalk::new(given).unwrap().certain_work(), []);
    let mut short = settings(false, 0);
    short.common.max_evaluations = Some(7);
    assert_eq!(Ropewalk::new(short).unwrap().certain_work().len(), 3);
}

#[test]
fn slopes_that_cannot_be_followed_end_the_steps_and_not_the_search() {
    let bowl = Bowl::new();
    let nan = |candidate: &Candidate| {
        let slope = bowl.slope(candidate);
        Some(Slope { log_attention_factor: f64::NAN, ..slope })
    };
    let short = |_: &Candidate| Some(Slope { log_factors: vec![1.0], log_attention_factor: 0.0 });
    let mut plain = Ropewalk::new(settings(false, 0)).unwrap();
    run(&mut plain, &bowl, |_| None);
    for slope in [&nan as &dyn Fn(&Candidate) -> Option<Slope>, &|_: &Candidate| None, &short] {
        let mut search = Ropewalk::new(with_slopes(false, 0)).unwrap();
        let asked = run(&mut search, &bowl, slope);
        let gradients = asked.iter().filter(|(_, measure)| *measure == Measure::Gradient).count();
        assert_eq!(gradients, 1, "one try");
        assert_eq!(search.evaluations(), plain.evaluations() + 1);
    }
}

#[test]
fn given_factors_are_where_it_goes_on_from() {
    let bowl = Bowl::new();
    let mut found = Ropewalk::new(settings(false, 0)).unwrap();
    run(&mut found, &bowl, |_| None);
    let (best, score) = found.best().unwrap();
    let mut common = common(false, 1);
    common.seeds.insert(0, best.clone());
    let going_on = RopewalkSettings { given: 1, ..RopewalkSettings::new(common, &GEOMETRY, (256, 2048), 8.0, 1.17) };
    let mut search = Ropewalk::new(going_on).unwrap();
    let asked = run(&mut search, &bowl, |_| None);
    assert_eq!(asked.len(), 5 + (5 + 2) * 16, "seeds, then the pairs");
    assert!(search.best().unwrap().1 < score);
}

/// Given factors that are worse than YaRN's do not keep it from the curve.
#[test]
fn poor_factors_that_are_given_cost_one_evaluation() {
    let bowl = Bowl::new();
    let mut common = common(false, 1);
    common.seeds.insert(
        0,
        Candidate { factors: vec![1000; PAIRS], start_tokens: 0, attention: None, pair_attention: Vec::new() },
    );
    let settings = RopewalkSettings { given: 1, ..RopewalkSettings::new(common, &GEOMETRY, (256, 2048), 8.0, 1.17) };
    let mut search = Ropewalk::new(settings).unwrap();
    let mut plain = Ropewalk::new(self::settings(false, 1)).unwrap();
    run(&mut search, &bowl, |_| None);
    run(&mut plain, &bowl, |_| None);
    assert_eq!(search.evaluations(), plain.evaluations() + 1);
}

#[test]
fn a_bound_on_evaluations_bounds_the_price() {
    let bowl = Bowl::new();
    for bound in [1, 4, 5, 12, 15, 20, 38, 39, 41, 42, 50, 79, 90, 100] {
        let mut settings = with_slopes(false, 0);
        settings.common.max_evaluations = Some(bound);
        let mut search = Ropewalk::new(settings).unwrap();
        run(&mut search, &bowl, |candidate| Some(bowl.slope(candidate)));
        assert!(search.passes_per_sample() <= bound, "{} of {bound}", search.passes_per_sample());
        assert!(search.passes_per_sample() + 2 >= bound, "{} of {bound}", search.passes_per_sample());
        assert!(search.best().is_some());
    }
}

#[test]
fn failures_alone_end_the_search_without_a_winner() {
    let mut search = Ropewalk::new(with_slopes(false, 0)).unwrap();
    while let Ask::Evaluate { generation, candidates } = search.ask() {
        search.tell(generation, &vec![Score::FAILED; candidates.len()]).unwrap();
    }
    assert_eq!(search.best(), None);
}

/// Tiny spaces are searched to their last candidate.
#[test]
fn a_small_space_is_exhausted() {
    let mut common = common(false, 0);
    common.space = SearchSpace { max_point: 102, pairs: 2, start_tokens: vec![0, 4], ..common.space };
    let geometry = RopeGeometry { head_dim: 4, rotary_dim: 4, theta: 10_000.0 };
    common.seeds = seeds::seeds(&common.space, &geometry, 256, 1.02, 1.0, &[]);
    let settings = RopewalkSettings::new(common, &geometry, (256, 261), 1.02, 1.0);
    let mut search = Ropewalk::new(settings).unwrap();
    let mut asked = Vec::new();
    while let Ask::Evaluate { generation, candidates } = search.ask() {
        let scores: Vec<Score> = candidates.iter().map(|c| Score::new(f64::from(c.factors[1]))).collect();
        search.tell(generation, &scores).unwrap();
        asked.extend(candidates);
    }
    // 11 12 13 22 23 33 in hundredths above 1, with either choice of starting tokens.
    assert_eq!(asked.len(), 12);
}
