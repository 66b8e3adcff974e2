//! The evolutionary search against the promises of its interface.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod searches;

use proptest::prelude::*;
use ropewalk_coordinator::search::rng::{Purpose, stream};
use ropewalk_coordinator::search::{Ask, Evolution, EvolutionSettings, Score, Strategy, StrategyState, TellError};
use ropewalk_shared::candidate::Candidate;
use ropewalk_shared::grid::Grid;
use ropewalk_shared::job::EvolutionOptions;
use ropewalk_shared::space::SearchSpace;
use searches::paper;
use std::collections::HashSet;

/// A quicker search, for properties.
fn small(pairs: usize, seed: u64) -> EvolutionSettings {
    let options = EvolutionOptions {
        population: 12,
        mutations: 5,
        crossovers: 4,
        generations: 6,
        parents: 6,
        mutation_probability: 0.3,
    };
    EvolutionSettings { options, ..paper(pairs, seed) }
}

/// A landscape with its best point at a hidden monotone candidate; uneven, and with a floor of 10.
struct Landscape {
    target: Vec<f64>,
    weights: Vec<f64>,
    start_tokens: u32,
}

impl Landscape {
    fn new(pairs: usize, number: u32) -> Self {
        let bend = 0.25 + 0.05 * f64::from(number);
        let place = |pair: usize| pair as f64 / pairs as f64;
        let target = |pair| 1.0 + 8.0 / (1.0 + (-(place(pair) - bend) * 14.0).exp());
        let weight = |pair| 3.0 * (-((place(pair) - bend) / 0.2).powi(2)).exp() + 0.1;
        Self { target: (0..pairs).map(target).collect(), weights: (0..pairs).map(weight).collect(), start_tokens: 8 }
    }

    fn score(&self, candidate: &Candidate) -> Score {
        let factors = candidate.factors.iter().map(|&point| Grid::PAPER.value(point));
        let distances = factors.zip(&self.target).map(|(factor, target)| (factor / target).ln().powi(2));
        let loss: f64 = distances.zip(&self.weights).map(|(distance, weight)| weight * distance).sum();
        let start = f64::from(candidate.start_tokens.abs_diff(self.start_tokens)) / 1000.0;
        Score::new(10.0 + loss + start)
    }
}

/// Runs a search to its end; every score, in the order asked.
fn run(strategy: &mut dyn Strategy, mut score: impl FnMut(&Candidate) -> Score) -> Vec<(Candidate, Score)> {
    let mut asked = Vec::new();
    while let Ask::Evaluate { generation, candidates } = strategy.ask() {
        let scores: Vec<Score> = candidates.iter().map(&mut score).collect();
        strategy.tell(generation, &scores).unwrap();
        asked.extend(candidates.into_iter().zip(scores));
    }
    asked
}

fn search(settings: EvolutionSettings) -> Evolution {
    Evolution::new(settings).unwrap()
}

#[test]
fn the_papers_parameters_cost_what_the_paper_says() {
    let settings = paper(32, 0);
    let landscape = Landscape::new(32, 2);
    let mut strategy = search(settings.clone());
    let asked = run(&mut strategy, |candidate| landscape.score(candidate));
    assert_eq!(asked.len(), 1_344);
    assert_eq!((strategy.evaluations(), strategy.generation()), (1_344, 41));
    assert_eq!(settings.options.evaluations(), 1_344);
    assert_eq!(strategy.history().iter().map(|g| g.evaluated).collect::<HashSet<_>>(), HashSet::from([64, 32]));
    let best = asked.iter().map(|(_, score)| *score).min().unwrap();
    assert_eq!(strategy.best().unwrap().1, best);
    assert_eq!(strategy.history().last().unwrap().best, best);
    assert!(strategy.tell(41, &[]).is_err());
}

#[test]
fn the_first_generation_holds_the_seeds() {
    let settings = paper(32, 0);
    let Ask::Evaluate { generation: 0, candidates } = search(settings.clone()).ask() else { panic!() };
    assert_eq!(settings.seeds.len(), 4);
    assert_eq!(&candidates[..4], &settings.seeds[..]);
    assert_eq!(candidates.len(), 64);
    let few = EvolutionOptions { population: 2, ..settings.options };
    let Ask::Evaluate { candidates, .. } = search(EvolutionSettings { options: few, ..settings.clone() }).ask() else {
        panic!()
    };
    assert_eq!(candidates, settings.seeds[..2]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn everything_asked_is_new_and_in_the_space(pairs in 1usize..48, seed: u64, noise: u64) {
        let settings = small(pairs, seed);
        let space = settings.space.clone();
        let mut seen = HashSet::new();
        let mut count = noise;
        let asked = run(&mut search(settings), |_| {
            // Arbitrary scores, some of them failures.
            count = count.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if count >> 61 == 0 { Score::FAILED } else { Score::new((count >> 40) as f64) }
        });
        for (candidate, _) in asked {
            prop_assert_eq!(space.check(&candidate), Ok(()));
            prop_assert!(candidate.is_monotone());
            prop_assert!(seen.insert(candidate));
        }
    }

    #[test]
    fn a_restored_search_goes_on_as_if_nothing_had_happened(seed: u64, pairs in 1usize..40) {
        let landscape = Landscape::new(pairs, 3);
        let mut undisturbed = search(small(pairs, seed));
        let expected = run(&mut undisturbed, |candidate| landscape.score(candidate));
        // This one is killed before and after every step, and read back from its stored text.
        let reborn = |strategy: &dyn Strategy| {
            let text = serde_json::to_string(&strategy.snapshot()).unwrap();
            serde_json::from_str::<StrategyState>(&text).unwrap().restore().unwrap()
        };
        let mut strategy: Box<dyn Strategy> = Box::new(search(small(pairs, seed)));
        let mut asked = Vec::new();
        while let Ask::Evaluate { generation, candidates } = strategy.ask() {
            strategy = reborn(strategy.as_ref());
            prop_assert_eq!(strategy.ask(), Ask::Evaluate { generation, candidates: candidates.clone() });
            let scores: Vec<Score> = candidates.iter().map(|candidate| landscape.score(candidate)).collect();
            strategy.tell(generation, &scores).unwrap();
            strategy = reborn(strategy.as_ref());
            asked.extend(candidates.into_iter().zip(scores));
        }
        prop_assert_eq!(asked, expected);
        prop_assert_eq!(strategy.snapshot(), undisturbed.snapshot());
        prop_assert_eq!(strategy.best(), undisturbed.best());
    }
}

#[test]
fn seeds_decide_and_nothing_else() {
    let landscape = Landscape::new(16, 1);
    let asked = |seed| run(&mut search(small(16, seed)), |candidate| landscape.score(candidate));
    assert_eq!(asked(3), asked(3));
    assert_ne!(asked(3), asked(4));
}

#[test]
fn asking_again_changes_nothing() {
    let strategy = search(paper(32, 5));
    let before = strategy.snapshot();
    assert_eq!(strategy.ask(), strategy.ask());
    assert_eq!(strategy.snapshot(), before);
}

#[test]
fn scores_that_were_not_asked_for_change_nothing() {
    let mut strategy = search(small(8, 0));
    let before = strategy.snapshot();
    assert_eq!(strategy.tell(1, &[Score::FAILED; 12]), Err(TellError::Generation { told: 1, open: 0 }));
    assert_eq!(strategy.tell(0, &[Score::FAILED; 11]), Err(TellError::Count { got: 11, expected: 12 }));
    assert_eq!(strategy.snapshot(), before);
}

#[test]
fn failures_rank_last_and_end_nothing() {
    let mut strategy = search(small(8, 0));
    let asked = run(&mut strategy, |_| Score::new(f64::NAN));
    assert_eq!(asked.len() as u64, small(8, 0).options.evaluations());
    assert_eq!(strategy.best(), None);
    assert!(strategy.history().iter().all(|generation| generation.failed == generation.evaluated));

    let landscape = Landscape::new(8, 1);
    let mut count = 0;
    let mut strategy = search(small(8, 0));
    run(&mut strategy, |candidate| {
        count += 1;
        if count % 2 == 0 { Score::new(f64::INFINITY) } else { landscape.score(candidate) }
    });
    assert!(strategy.best().unwrap().1.value().unwrap() < 20.0);
}

#[test]
fn ties_go_to_the_candidate_asked_first() {
    let mut strategy = search(small(8, 0));
    let Ask::Evaluate { candidates, .. } = strategy.ask() else { panic!() };
    run(&mut strategy, |_| Score::new(7.0));
    assert_eq!(strategy.best(), Some((&candidates[0], Score::new(7.0))));
}

#[test]
fn a_small_space_is_searched_to_its_last_candidate() {
    // 3 factors out of 5 points with repetition, times 2 choices of starting tokens.
    let space = SearchSpace {
        grid: Grid::with_step(0.25).unwrap(),
        pairs: 3,
        max_point: 8,
        start_tokens: vec![0, 4],
        attention: None,
    };
    let seed = space.nearest(&[1.0, 1.5, 2.0], 0, 1.0);
    for population in [1, 40, 500] {
        let options = EvolutionOptions { population, generations: 1_000, ..EvolutionOptions::default() };
        let settings = EvolutionSettings { space: space.clone(), seeds: vec![seed.clone()], options, ..paper(3, 9) };
        let asked = run(&mut search(settings), |candidate| Score::new(f64::from(candidate.factors[2])));
        assert_eq!(asked.len(), 70);
        assert_eq!(asked.into_iter().map(|(candidate, _)| candidate).collect::<HashSet<_>>().len(), 70);
    }
}

#[test]
fn the_number_of_evaluations_is_never_exceeded() {
    let landscape = Landscape::new(16, 0);
    for max in [1, 3, 63, 64, 65, 100, 1_343, 1_344, 5_000] {
        let settings = EvolutionSettings { max_evaluations: Some(max), ..paper(16, 0) };
        let mut strategy = search(settings);
        let asked = run(&mut strategy, |candidate| landscape.score(candidate));
        assert_eq!(asked.len() as u64, max.min(1_344));
        assert_eq!(strategy.evaluations(), max.min(1_344));
    }
}

#[test]
fn patience_ends_a_search_that_has_stalled() {
    let with_patience = |patience| EvolutionSettings { patience: Some(patience), ..paper(16, 0) };
    let mut strategy = search(with_patience(3));
    run(&mut strategy, |_| Score::new(5.0));
    // The first population sets the mark; three generations do not beat it.
    assert_eq!(strategy.generation(), 4);
    let mut best = 1e6;
    let mut strategy = search(with_patience(1));
    run(&mut strategy, |_| {
        best -= 1.0;
        Score::new(best)
    });
    assert_eq!(strategy.generation(), 41);
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let refused = |change: &dyn Fn(&mut EvolutionSettings)| {
        let mut settings = paper(4, 0);
        change(&mut settings);
        Evolution::new(settings).err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert!(refused(&|s| s.seeds.clear()).contains("at least one seed"));
    assert!(refused(&|s| s.seeds[1].factors[0] = 5000).contains("seed 1 lies outside"));
    assert!(refused(&|s| s.space.start_tokens.clear()).contains("empty"));
    assert!(refused(&|s| s.options.population = 0).contains("population"));
    assert!(refused(&|s| s.options.mutation_probability = f64::NAN).contains("mutation_probability"));
    assert!(refused(&|s| s.patience = Some(0)).contains("patience"));
}

#[test]
fn a_damaged_state_is_an_error() {
    let strategy = search(small(4, 0));
    let mut value = serde_json::to_value(strategy.snapshot()).unwrap();
    value["evolution-v1"]["pending"][3]["factors"][0] = 9_999.into();
    let state: StrategyState = serde_json::from_value(value).unwrap();
    assert!(state.restore().err().unwrap().to_string().contains("damaged"));

    let mut strategy = search(small(4, 0));
    strategy.tell(0, &[Score::new(1.0); 12]).unwrap();
    let mut value = serde_json::to_value(strategy.snapshot()).unwrap();
    value["evolution-v1"]["archive"]["top"] = serde_json::json!([]);
    let state: StrategyState = serde_json::from_value(value).unwrap();
    assert!(state.restore().err().unwrap().to_string().contains("damaged"));
    assert!(serde_json::from_str::<StrategyState>(r#"{"evolution-v9": {}}"#).is_err());
}

/// With the same number of evaluations, the search comes far below the seeds and below random sampling.
#[test]
fn the_search_finds_what_chance_does_not() {
    for number in 0..6 {
        let landscape = Landscape::new(32, number);
        let excess = |score: Score| score.value().unwrap() - 10.0;
        let settings = paper(32, u64::from(number));
        let seeds = settings.seeds.iter().map(|seed| excess(landscape.score(seed))).fold(f64::INFINITY, f64::min);
        let space = settings.space.clone();
        let mut strategy = search(settings);
        run(&mut strategy, |candidate| landscape.score(candidate));
        let found = excess(strategy.best().unwrap().1);

        let mut rng = stream(0, 0, number, Purpose::Initial);
        let random = (0..1_344)
            .map(|_| ropewalk_coordinator::search::mutation::random_candidate(&space, &mut rng))
            .map(|candidate| excess(landscape.score(&candidate)))
            .fold(f64::INFINITY, f64::min);
        assert!(found < seeds / 20.0 && found < random / 20.0, "{number}: {found}, seeds {seeds}, random {random}");
    }
}
