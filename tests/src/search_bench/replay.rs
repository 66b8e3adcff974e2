//! What racing would have made of a search that evaluated everything: what it saves, and whom it takes for a parent.

use super::course::{Tried, generations, mean};
use ropewalk_coordinator::search::evolution::DocumentOptions;
use ropewalk_coordinator::search::{Outcome, RaceMemory};
use ropewalk_shared::candidate::Candidate;
use ropewalk_shared::racing::Racing;
use serde::Serialize;

/// A race replayed on recorded losses. It does not follow what other parents would have bred.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Replay {
    /// Document passes saved, as a share of all.
    pub saved: f64,
    /// Share of the parents, over all generations, that would not have been parents with everything evaluated.
    pub other_parents: f64,
    /// The same for the best quarter of them.
    pub other_best: f64,
    /// By how much the average of the parents lies above that of those who would have been parents, in per cent of
    /// perplexity and in the mean over generations.
    pub parents_higher: f64,
    /// Generations whose best candidate so far had been dropped.
    pub best_dropped: usize,
}

/// A candidate's place among the others: in truth, and as the race has it.
struct Known {
    measured: f64,
    raced: f64,
    dropped: bool,
}

/// Replays a race of candidates that were all evaluated on every document, from what is known for the first of them;
/// `parents` are the best that breed. `None` where there was nothing to drop.
pub fn replay(tried: &[Tried], racing: Racing, parents: usize, mut memory: RaceMemory) -> Option<Replay> {
    let samples = tried.first()?.means.len();
    if samples < 2 || tried.iter().any(|candidate| candidate.means.len() != samples) {
        return None;
    }
    let documents = DocumentOptions { samples: samples as u32, racing, max_passes: None };
    let mut known: Vec<Known> = Vec::new();
    let (mut passes, mut races, mut best_dropped) = (0, 0, 0);
    let (mut other_parents, mut other_best, mut higher) = (0.0, 0.0, 0.0);
    for generation in generations(tried) {
        let asked: Vec<Candidate> = generation.iter().map(|tried| tried.candidate.clone()).collect();
        let race = memory.race(racing, parents, &asked);
        let outcome = |(slot, tried): (usize, &Tried)| Outcome::of_known(race.as_ref(), slot, &tried.means);
        let outcomes: Vec<Outcome> = generation.iter().enumerate().map(outcome).collect();
        passes += outcomes.iter().map(|outcome| outcome.passes).sum::<u64>();
        known.extend(generation.iter().zip(&outcomes).map(|(tried, outcome)| Known {
            measured: mean(&tried.means),
            raced: mean(&outcome.means),
            dropped: outcome.score.value().is_none(),
        }));
        memory.note_outcomes((&asked, &outcomes), documents, parents);
        if race.is_some() {
            races += 1;
            let (truth, raced) = (ranked(&known, |known| known.measured), ranked(&known, |known| known.raced));
            other_parents += others(&truth, &raced, parents);
            other_best += others(&truth, &raced, (parents / 4).max(1));
            let average = |order: &[usize]| {
                let first: Vec<f64> = order.iter().take(parents).map(|&index| known[index].measured).collect();
                mean(&first)
            };
            higher += 100.0 * (average(&raced) - average(&truth)).exp_m1();
            best_dropped += usize::from(truth.first().is_some_and(|&best| known[best].dropped));
        }
    }
    (races > 0).then(|| Replay {
        saved: 1.0 - passes as f64 / (tried.len() * samples) as f64,
        other_parents: other_parents / f64::from(races),
        other_best: other_best / f64::from(races),
        parents_higher: higher / f64::from(races),
        best_dropped,
    })
}

/// Share of the best `count` by the race that are not among the best `count` in truth.
fn others(truth: &[usize], raced: &[usize], count: usize) -> f64 {
    let [truth, raced] = [truth, raced].map(|order| &order[..count.min(order.len())]);
    raced.iter().filter(|index| !truth.contains(index)).count() as f64 / raced.len().max(1) as f64
}

/// All in the order of a value, the least first.
fn ranked(known: &[Known], by: fn(&Known) -> f64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..known.len()).collect();
    order.sort_by(|&a, &b| by(&known[a]).total_cmp(&by(&known[b])));
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use ropewalk_shared::rope::Rescale;

    fn tried(generation: u32, means: &[f64]) -> Tried {
        let rescale = Rescale { factors: vec![1.0], start_tokens: 0, attention_factor: 1.0, pair_attention: vec![] };
        // The worse, the larger.
        let factor = (means.iter().sum::<f64>() * 1000.0) as u32;
        let candidate = Candidate { factors: vec![factor], start_tokens: 0, attention: None, pair_attention: vec![] };
        Tried { generation, candidate, rescale, means: means.to_vec() }
    }

    /// The first document tells everything but of one candidate, which it slanders.
    fn recorded() -> Vec<Tried> {
        let losses = |generation: u32, index: u32| {
            let bad = f64::from((index * 7 + generation * 3) % 16) * 0.01;
            let scatter = f64::from((index * 5 + generation) % 3) * 1e-5;
            tried(generation, &[2.0 + bad, 2.5 + bad + scatter, 3.0 + bad - scatter])
        };
        let mut all: Vec<Tried> =
            (0..8).flat_map(|generation| (0..16).map(move |index| losses(generation, index))).collect();
        all.push(tried(8, &[2.9, 1.0, 1.0]));
        all
    }

    #[test]
    fn what_is_saved_and_who_is_mistaken_for_a_parent() {
        let all = recorded();
        let plain = replay(&all[..128], Racing::Fast, 8, RaceMemory::default()).unwrap();
        assert!((0.3..0.7).contains(&plain.saved) && plain.best_dropped == 0, "{plain:?}");
        let slandered = replay(&all, Racing::Fast, 8, RaceMemory::default()).unwrap();
        assert_eq!(slandered.best_dropped, 1, "{slandered:?}");
        assert!(slandered.other_best > plain.other_best && slandered.other_parents > plain.other_parents);
        assert!(slandered.parents_higher > plain.parents_higher && plain.parents_higher >= 0.0, "{slandered:?}");
    }

    #[test]
    fn nothing_to_replay() {
        assert_eq!(replay(&recorded(), Racing::Off, 8, RaceMemory::default()), None);
        assert_eq!(replay(&[], Racing::Fast, 8, RaceMemory::default()), None);
        assert_eq!(replay(&[tried(0, &[1.0])], Racing::Fast, 1, RaceMemory::default()), None);
    }
}
