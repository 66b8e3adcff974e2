//! The search for attention factors of pairs on landscapes with known minima.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

use ropewalk_coordinator::search::evolution::DocumentOptions;
use ropewalk_coordinator::search::{
    Ask, EvolutionSettings, PairAttention, PairAttentionSettings, Ropewalk, RopewalkSettings, Score, Strategy,
    StrategyState, seeds,
};
use ropewalk_shared::candidate::{Candidate, attention_value};
use ropewalk_shared::grid::Grid;
use ropewalk_shared::job::StrategyKind;
use ropewalk_shared::rope::RopeGeometry;
use ropewalk_shared::space::{ATTENTION_BOUNDS, SearchSpace};
use std::collections::HashSet;

const PAIRS: usize = 32;
const GEOMETRY: RopeGeometry = RopeGeometry { head_dim: 2 * PAIRS, rotary_dim: 2 * PAIRS, theta: 10_000.0 };
/// Three levels of detail: 7, 13 and 25 profiles.
const ALL: u32 = 45;

/// `2 + (a little for factors) + sum of w (ln m_i - t_i)^2`, with an attention factor that would be best at 1.1.
struct Landscape {
    target: [f64; PAIRS],
    noise: f64,
}

impl Landscape {
    fn new(target: impl Fn(f64) -> f64) -> Self {
        Self { target: std::array::from_fn(|pair| target(pair as f64 / (PAIRS - 1) as f64)), noise: 0.0 }
    }

    /// What profiles alone are about.
    fn profile(&self, candidate: &Candidate) -> f64 {
        let log = |pair: usize| candidate.pair_attention.get(pair).map_or(0.0, |&point| attention_value(point).ln());
        (0..PAIRS).map(|pair| 0.03 * (log(pair) - self.target[pair]).powi(2)).sum()
    }

    fn value(&self, candidate: &Candidate) -> f64 {
        let logs = candidate.factors.iter().map(|&point| Grid::PAPER.value(point).ln());
        let factors: f64 = logs.zip(0..).map(|(log, pair)| 1e-3 * (log - f64::from(pair) * 0.06).powi(2)).sum();
        let attention = candidate.attention.map_or(0.0, |point| (attention_value(point) / 1.1).ln().powi(2));
        let bytes = candidate.factors.iter().chain(&candidate.pair_attention).flat_map(|point| point.to_le_bytes());
        let hash =
            bytes.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        let noise = self.noise * ((hash >> 40) as f64 / (1u64 << 24) as f64 - 0.5);
        2.0 + factors + attention + self.profile(candidate) + noise
    }

    fn score(&self, candidate: &Candidate) -> Score {
        Score::new(self.value(candidate).exp())
    }
}

fn common(attention: bool) -> EvolutionSettings {
    let space = SearchSpace {
        grid: Grid::PAPER,
        pairs: PAIRS,
        max_point: 1000,
        start_tokens: vec![0, 4],
        attention: attention.then_some(ATTENTION_BOUNDS),
    };
    EvolutionSettings {
        seeds: seeds::seeds(&space, &GEOMETRY, 256, 8.0, 1.17, &[]),
        space,
        options: StrategyKind::Ropewalk.options(),
        seed: 0,
        patience: None,
        max_evaluations: Some(60),
        operators: Default::default(),
        documents: Default::default(),
    }
}

fn settings(attention: bool, evaluations: u32) -> PairAttentionSettings {
    PairAttentionSettings {
        space: common(attention).space,
        documents: DocumentOptions::default(),
        parents: 8,
        evaluations,
        max_evaluations: None,
    }
}

fn search(attention: bool, evaluations: u32) -> PairAttention {
    let factors = Ropewalk::new(RopewalkSettings::new(common(attention), &GEOMETRY, (256, 2048), 8.0, 1.17)).unwrap();
    PairAttention::after(factors.snapshot(), settings(attention, evaluations)).unwrap()
}

/// Runs a search to its end; the generations that were asked.
fn run(strategy: &mut dyn Strategy, landscape: &Landscape) -> Vec<Vec<Candidate>> {
    let mut asked = Vec::new();
    while let Ask::Evaluate { generation, candidates } = strategy.ask() {
        let scores: Vec<Score> = candidates.iter().map(|candidate| landscape.score(candidate)).collect();
        strategy.tell(generation, &scores).unwrap();
        asked.push(candidates);
    }
    asked
}

fn has_profile(candidate: &&Candidate) -> bool {
    !candidate.pair_attention.is_empty()
}

#[test]
fn most_of_what_a_profile_can_gain_is_gained() {
    let landscapes = [
        ("tilt", Landscape::new(|place| 0.1 - 0.2 * place), 0.02),
        ("bend", Landscape::new(|place| 0.15 * (place - 0.3).abs() - 0.05), 0.1),
        ("hill", Landscape::new(|place| 0.2 * (-(place - 0.4).powi(2) / 0.02).exp() - 0.05), 0.35),
        ("noisy", Landscape { noise: 1e-3, ..Landscape::new(|place| 0.1 - 0.2 * place) }, 0.2),
    ];
    for (name, mut landscape, most) in landscapes {
        let mean = landscape.target.iter().sum::<f64>() / PAIRS as f64;
        landscape.target.iter_mut().for_each(|target| *target -= mean);
        let mut search = search(false, ALL);
        let asked = run(&mut search, &landscape).concat();
        let best = search.best().unwrap().0;
        let left = landscape.profile(best) / landscape.profile(&Candidate { pair_attention: vec![], ..best.clone() });
        assert!(left < most, "{name}: {left} of the way is left");
        // All of one strategy's factors, and no more profiles than were wanted.
        let profiles: Vec<&Candidate> = asked.iter().filter(has_profile).collect();
        assert!(profiles.len() <= ALL as usize, "{name}: {}", profiles.len());
        assert!(profiles.iter().all(|profile| profile.factors == best.factors));
        // On the grid their geometric mean is 1, to rounding.
        for profile in profiles {
            let logs: f64 = profile.pair_attention.iter().map(|&point| attention_value(point).ln()).sum();
            assert!((logs / PAIRS as f64).abs() < 1e-3, "{profile:?}");
        }
        let distinct: HashSet<&Candidate> = asked.iter().collect();
        assert_eq!(distinct.len(), asked.len(), "{name}");
    }
}

/// Where nothing is to be won the smoothest level is all that is spent, and the best stays what it was.
#[test]
fn nothing_to_win_costs_little_and_changes_nothing() {
    let flat = Landscape::new(|_| 0.0);
    let mut search = search(false, ALL);
    let asked = run(&mut search, &flat).concat();
    assert!(search.best().unwrap().0.pair_attention.is_empty());
    let profiles = asked.iter().filter(has_profile).count();
    assert!((4..=7).contains(&profiles), "{profiles}");
    assert!(search.why_finished().unwrap().contains("promises nothing"));
}

#[test]
fn the_attention_factor_goes_on_moving_where_it_is_searched() {
    let landscape = Landscape::new(|place| 0.1 - 0.2 * place);
    let mut with = search(true, 54);
    run(&mut with, &landscape);
    let best = with.best().unwrap().0;
    assert!(best.attention.unwrap().abs_diff(1100) <= 8 && has_profile(&best), "{best:?}");
}

#[test]
fn limits_are_kept_to_the_last_evaluation() {
    // Every level of detail gains something.
    let landscape = Landscape::new(|place| 0.3 * (-(place - 0.4).powi(2) / 0.02).exp());
    for evaluations in [1, 2, 6, 7, 8, 20, 44] {
        let mut search = search(false, evaluations);
        let asked = run(&mut search, &landscape).concat();
        assert_eq!(asked.iter().filter(has_profile).count() as u32, evaluations);
        assert_eq!(search.evaluations(), asked.len() as u64);
        // At the end of a level there is another reason, too.
        let spent = search.why_finished().unwrap().contains("are spent");
        assert!(spent || [7, 20, 44].contains(&evaluations), "{:?}", search.why_finished());
    }
    // The limit of both searches; and one on passes, of 3 documents each.
    for (max_evaluations, max_passes, all) in [(Some(64), None, 64), (None, Some(200), 66)] {
        let documents = DocumentOptions { samples: 3, max_passes, ..DocumentOptions::default() };
        let mut factors = common(false);
        factors.documents = DocumentOptions { max_passes: None, ..documents };
        let factors = Ropewalk::new(RopewalkSettings::new(factors, &GEOMETRY, (256, 2048), 8.0, 1.17)).unwrap();
        let settings = PairAttentionSettings { documents, max_evaluations, ..settings(false, ALL) };
        let mut search = PairAttention::after(factors.snapshot(), settings).unwrap();
        assert_eq!(run(&mut search, &landscape).concat().len(), all);
    }
}

#[test]
fn a_search_read_back_at_every_step_asks_the_same() {
    let landscape = Landscape::new(|place| 0.15 * (place - 0.3).abs());
    let mut undisturbed = search(true, ALL);
    let expected = run(&mut undisturbed, &landscape);
    let mut search: Box<dyn Strategy> = Box::new(search(true, ALL));
    let mut asked = Vec::new();
    while let Ask::Evaluate { generation, candidates } = search.ask() {
        let text = serde_json::to_string(&search.snapshot()).unwrap();
        search = serde_json::from_str::<StrategyState>(&text).unwrap().restore().unwrap();
        let scores: Vec<Score> = candidates.iter().map(|candidate| landscape.score(candidate)).collect();
        assert!(search.tell(generation + 1, &scores).is_err() && search.tell(generation, &scores[1..]).is_err());
        search.tell(generation, &scores).unwrap();
        asked.push(candidates);
    }
    assert_eq!(asked, expected);
    assert_eq!(search.snapshot(), undisturbed.snapshot());
    let total = asked.concat().len() as u64;
    assert_eq!((search.evaluations(), search.generation()), (total, asked.len() as u32));
}

/// Failing profiles are bad ones; where the factors all failed there is nothing to go on from.
#[test]
fn failures_are_survived() {
    let fail = |strategy: &mut dyn Strategy, fails: &dyn Fn(&Candidate) -> bool| {
        let landscape = Landscape::new(|place| 0.1 - 0.2 * place);
        let mut asked = 0;
        while let Ask::Evaluate { generation, candidates } = strategy.ask() {
            let score =
                |candidate: &Candidate| if fails(candidate) { Score::FAILED } else { landscape.score(candidate) };
            strategy.tell(generation, &candidates.iter().map(score).collect::<Vec<_>>()).unwrap();
            asked += candidates.iter().filter(has_profile).count();
        }
        asked
    };
    let mut some = search(false, ALL);
    assert!(fail(&mut some, &|candidate| has_profile(&candidate)) > 0);
    assert!(some.best().unwrap().0.pair_attention.is_empty());
    let mut all = search(false, ALL);
    assert_eq!(fail(&mut all, &|_| true), 0);
    assert!(all.best().is_none() && all.why_finished().is_some());
}

#[test]
fn damaged_states_are_errors() {
    let landscape = Landscape::new(|place| 0.1 - 0.2 * place);
    let mut search = search(false, 10);
    run(&mut search, &landscape);
    let state = serde_json::to_value(search.snapshot()).unwrap();
    let damaged = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut state = state.clone();
        change(&mut state["pair-attention-v1"]);
        serde_json::from_value::<StrategyState>(state).map_err(drop).and_then(|state| state.restore().map_err(drop))
    };
    assert!(damaged(&|_| {}).is_ok());
    assert!(damaged(&|state| state["settings"]["evaluations"] = 0.into()).is_err());
    assert!(damaged(&|state| state["shaping"]["base"]["factors"][0] = 0.into()).is_err());
    assert!(damaged(&|state| state["shaping"]["base"]["pair_attention"] = vec![1; PAIRS].into()).is_err());
    assert!(damaged(&|state| state["shaping"]["star"]["steps"] = vec![0.1].into()).is_err());
    let nested = state.clone();
    assert!(damaged(&|state| state["factors"] = nested.clone()).is_err());
}
