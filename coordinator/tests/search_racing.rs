//! What races save of the paper's search and what they do to its end, on documents of which everything is known.
//!
//! Where one search ends is chance to a far larger part than what a race may cost, so that means over seeds are compared.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod searches;

use rand::RngExt as _;
use ropewalk_coordinator::search::evolution::DocumentOptions;
use ropewalk_coordinator::search::rng::{Purpose, stream};
use ropewalk_coordinator::search::{Ask, Evolution, EvolutionSettings, Outcome, RaceMemory, Strategy as _};
use ropewalk_shared::candidate::Candidate;
use ropewalk_shared::grid::Grid;
use ropewalk_shared::racing::Racing;

const PAIRS: usize = 32;
/// Documents searched on; twice as many are held out.
const DOCUMENTS: usize = 5;
const SEEDS: u64 = 200;

/// A document: the factors it would have best, how much each pair matters to it, and how hard it is.
struct Document {
    logs: Vec<f64>,
    weights: Vec<f64>,
    hardness: f64,
}

/// Where a search ended.
struct End {
    passes: u64,
    searched: f64,
    held_out: f64,
}

// === impl Document ===

impl Document {
    /// Documents differ in where their factors rise and in how high, by about as much as a search gains.
    fn drawn(seed: u64) -> Vec<Self> {
        let mut rng = stream(seed, 1, 0, Purpose::Initial);
        let mut document = || {
            let (bend, height) = (rng.random_range(0.3..0.4), rng.random_range(7.0..9.5f64));
            let place = |pair: usize| pair as f64 / PAIRS as f64 - bend;
            Self {
                logs: (0..PAIRS).map(|pair| height.ln() / (1.0 + (-14.0 * place(pair)).exp())).collect(),
                weights: (0..PAIRS).map(|pair| 0.3 * (-(place(pair) / 0.2).powi(2)).exp() + 0.01).collect(),
                hardness: rng.random_range(2.4..2.9),
            }
        };
        (0..3 * DOCUMENTS).map(|_| document()).collect()
    }

    /// Mean loss in nats.
    fn loss(&self, candidate: &Candidate) -> f64 {
        let logs = candidate.factors.iter().map(|&point| Grid::PAPER.value(point).ln());
        let far = logs.zip(&self.logs).zip(&self.weights).map(|((log, best), weight)| weight * (log - best).powi(2));
        self.hardness + far.sum::<f64>() + 1e-4 * f64::from(candidate.start_tokens + 1).ln()
    }
}

/// Perplexity over all of some documents.
fn perplexity(losses: &[f64]) -> f64 {
    (losses.iter().sum::<f64>() / losses.len() as f64).exp()
}

/// A search of 256 tokens stretched eightfold, with the paper's parameters.
fn search(racing: Racing, seed: u64) -> End {
    let documents = DocumentOptions { samples: DOCUMENTS as u32, racing, max_passes: None };
    let strategy = Evolution::new(EvolutionSettings { documents, ..searches::paper(PAIRS, seed) }).unwrap();
    let mut strategy = strategy.racing_with(RaceMemory::of(&searches::geometry(PAIRS), 256));
    let documents = Document::drawn(seed);
    let (searched, held_out) = documents.split_at(DOCUMENTS);
    let losses = |candidate: &Candidate, documents: &[Document]| -> Vec<f64> {
        documents.iter().map(|document| document.loss(candidate)).collect()
    };
    let mut passes = 0;
    while let Ask::Evaluate { generation, candidates } = strategy.ask() {
        let race = strategy.race();
        let outcome = |(slot, candidate)| Outcome::of_known(race.as_ref(), slot, &losses(candidate, searched));
        let outcomes: Vec<Outcome> = candidates.iter().enumerate().map(outcome).collect();
        passes += outcomes.iter().map(|outcome| outcome.passes).sum::<u64>();
        strategy.tell_outcomes(generation, &outcomes).unwrap();
    }
    let best = strategy.best().unwrap().0;
    End { passes, searched: perplexity(&losses(best, searched)), held_out: perplexity(&losses(best, held_out)) }
}

/// The mean over seeds of what is different, in per cent.
fn difference(raced: &[End], whole: &[End], of: impl Fn(&End) -> f64) -> f64 {
    let differences = raced.iter().zip(whole).map(|(raced, whole)| 100.0 * (of(raced) / of(whole) - 1.0));
    differences.sum::<f64>() / raced.len() as f64
}

#[test]
fn races_save_passes_and_end_where_searches_without_them_do() {
    let [off, safe, fast] = [Racing::Off, Racing::Safe, Racing::Fast]
        .map(|racing| (0..SEEDS).map(|seed| search(racing, seed)).collect::<Vec<End>>());
    assert!(off.iter().all(|end| end.passes == 1344 * DOCUMENTS as u64));
    for (racing, raced, saved) in [(Racing::Safe, safe, 12.0), (Racing::Fast, fast, 40.0)] {
        let passes = difference(&raced, &off, |end| end.passes as f64);
        let (searched, held_out) =
            (difference(&raced, &off, |end| end.searched), difference(&raced, &off, |end| end.held_out));
        let all =
            format!("{racing}: {passes:+.1} % of the passes, {searched:+.3} % searched, {held_out:+.3} % held out");
        assert!(passes < -saved && searched < 0.05 && held_out < 0.1, "{all}");
    }
}
