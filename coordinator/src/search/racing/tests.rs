//! The rule against populations of which everything is known.

use super::*;
use crate::search::rng::{Purpose, stream};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

const SAMPLES: usize = 5;
const PARENTS: usize = 32;
/// What only one document has against a candidate, as a share of how far its mutation went.
const ALONE: f64 = 0.4;
/// The same where documents agree so well that four of five tell a hopeless candidate whatever the fifth says.
const AGREED: f64 = 0.2;

/// Standard normal, but for its tails.
fn normal(rng: &mut ChaCha8Rng) -> f64 {
    (0..12).map(|_| rng.random_range(0.0..1.0)).sum::<f64>() - 6.0
}

/// A candidate and its mean losses: how hard each document is, how bad the candidate is, and what only this document has
/// against it. Both grow with the distance that a mutation went, as on real models, and so does its factor.
fn drawn(rng: &mut ChaCha8Rng, alone: f64) -> (Candidate, Vec<f64>) {
    let size = [0.002, 0.01, 0.05, 0.3][rng.random_range(0..4)];
    let badness = size * (normal(rng) + 1.0);
    let means = (0..SAMPLES).map(|sample| 2.5 + 0.3 * sample as f64 + badness + alone * size * normal(rng)).collect();
    (at(20_000.0 * (1.0 + badness)), means)
}

fn at(factor: f64) -> Candidate {
    Candidate { factors: vec![factor as u32], start_tokens: 0, attention: None, pair_attention: Vec::new() }
}

/// Takes in one generation after the other.
fn remembered(rng: &mut ChaCha8Rng, count: usize, alone: f64) -> RaceMemory {
    let mut memory = RaceMemory::default();
    let all: Vec<_> = (0..count).map(|_| drawn(rng, alone)).collect();
    for generation in all.chunks(20) {
        let generation: Vec<_> = generation.iter().map(|(candidate, means)| (candidate, means.as_slice())).collect();
        memory.note(&generation, PARENTS);
    }
    memory
}

/// The verdict on a candidate by the first samples of a race, from its mean losses by their numbers.
fn verdict(race: &Race, slot: usize, means: &[f64], seen: usize) -> Verdict {
    race.verdict(slot, &race.order()[..seen].iter().map(|&sample| means[sample]).collect::<Vec<f64>>())
}

/// Of the next candidates: how many were dropped though they would have been among the best `rank`, how many judgements
/// there were, and the share of passes saved.
fn race(racing: Racing, rank: usize, seed: u64) -> (usize, usize, f64) {
    let mut rng = stream(seed, 0, 0, Purpose::Initial);
    let memory = remembered(&mut rng, 300, ALONE);
    let (next, losses): (Vec<Candidate>, Vec<Vec<f64>>) = (0..2000).map(|_| drawn(&mut rng, ALONE)).unzip();
    let race = memory.race(racing, PARENTS, &next).unwrap();
    let bar = average(&memory.leaders[rank - 1].means);
    let (mut mistakes, mut verdicts, mut passes) = (0, 0, 0);
    for (slot, means) in losses.iter().enumerate() {
        let dropped = (1..SAMPLES).find(|&seen| {
            verdicts += 1;
            verdict(&race, slot, means, seen) != Verdict::Continue
        });
        passes += dropped.unwrap_or(SAMPLES);
        mistakes += usize::from(dropped.is_some() && average(means) <= bar);
    }
    (mistakes, verdicts, 1.0 - passes as f64 / (losses.len() * SAMPLES) as f64)
}

#[test]
fn mistakes_are_as_rare_as_stated_and_passes_are_saved() {
    let add = |a: (usize, usize, f64), b: (usize, usize, f64)| (a.0 + b.0, a.1 + b.1, a.2 + b.2 / 10.0);
    let safe = (0..10).map(|seed| race(Racing::Safe, PARENTS, seed)).fold((0, 0, 0.0), add);
    assert!(safe.0 as f64 <= 0.001 * safe.1 as f64, "{} of {} verdicts were mistakes", safe.0, safe.1);
    assert!(safe.2 > 0.15, "{safe:?}");
    let fast = (0..10).map(|seed| race(Racing::Fast, 1, seed)).fold((0, 0, 0.0), add);
    assert!(fast.0 as f64 <= 0.001 * fast.1 as f64, "{} of {} verdicts were mistakes", fast.0, fast.1);
    assert!(fast.2 > safe.2 + 0.05, "{fast:?} against {safe:?}");
}

#[test]
fn a_fast_race_drops_whatever_a_safe_one_does() {
    for (count, seed) in [(60, 3), (300, 4)] {
        let mut rng = stream(seed, 0, 0, Purpose::Initial);
        let memory = remembered(&mut rng, count, ALONE);
        let (next, losses): (Vec<Candidate>, Vec<Vec<f64>>) = (0..500).map(|_| drawn(&mut rng, ALONE)).unzip();
        let [safe, fast] = [Racing::Safe, Racing::Fast].map(|racing| memory.race(racing, 8, &next).unwrap());
        let dropped = |race: &Race, slot: usize| verdict(race, slot, &losses[slot], 3) != Verdict::Continue;
        let by_safe: Vec<usize> = (0..next.len()).filter(|&slot| dropped(&safe, slot)).collect();
        assert!(by_safe.len() > 20, "{} with {count} known", by_safe.len());
        assert!(by_safe.iter().all(|&slot| dropped(&fast, slot)), "with {count} known");
    }
}

#[test]
fn estimates_are_near_what_would_have_come() {
    for racing in [Racing::Safe, Racing::Fast] {
        let mut rng = stream(7, 0, 0, Purpose::Initial);
        let memory = remembered(&mut rng, 200, ALONE);
        let (next, losses): (Vec<Candidate>, Vec<Vec<f64>>) = (0..2000).map(|_| drawn(&mut rng, ALONE)).unzip();
        let race = memory.race(racing, PARENTS, &next).unwrap();
        let parents = memory.leaders.iter().map(|leader| average(&leader.means)).sum::<f64>() / PARENTS as f64;
        let (mut errors, mut distances) = (0.0, 0.0);
        for (slot, means) in losses.iter().enumerate() {
            if let Verdict::Drop { means: foretold } = verdict(&race, slot, means, 2) {
                errors += (average(&foretold) - average(means)).abs();
                distances += (average(means) - parents).abs();
            }
        }
        // Against the guess that a candidate is as good as the parents.
        assert!(distances > 0.0 && errors < distances / 3.0, "{racing}: {errors} of {distances}");
    }
}

/// Children of a parent that trades the first document for the others do so too: their neighbours tell it, what all
/// parents lose on average does not.
#[test]
fn whoever_trades_like_its_neighbours_is_known_by_them() {
    let mut rng = stream(5, 0, 0, Purpose::Initial);
    let mut memory = RaceMemory::default();
    // Of all others every document says the same, and their factors hardly tell them apart.
    for _ in 0..12 {
        let other = |rng: &mut ChaCha8Rng| {
            let badness = 0.02 + 0.01 * normal(rng).abs();
            (at(100.0 * (1.0 + badness)), (0..SAMPLES).map(|s| 2.5 + 0.3 * s as f64 + badness).collect())
        };
        let others: Vec<(Candidate, Vec<f64>)> = (0..20).map(|_| other(&mut rng)).collect();
        let others: Vec<_> = others.iter().map(|(candidate, means)| (candidate, means.as_slice())).collect();
        memory.note(&others, PARENTS);
    }
    let child = |worse: f64, rng: &mut ChaCha8Rng| {
        let means = [2.6, 2.7, 3.0, 3.3, 3.6].map(|mean| mean + worse + 1e-4 * normal(rng));
        (at(5_000.0 + f64::from(rng.random_range(0..100u32))), means)
    };
    // Of the first ones nobody expected it.
    for count in [4, 20] {
        let family: Vec<(Candidate, [f64; SAMPLES])> = (0..count).map(|_| child(0.0, &mut rng)).collect();
        let family: Vec<_> = family.iter().map(|(candidate, means)| (candidate, means.as_slice())).collect();
        memory.note(&family, PARENTS);
    }

    let (next, means) = child(0.0, &mut rng);
    let expected = expected(&memory.metric, &next, memory.known().into_iter()).unwrap();
    assert!(expected.means.iter().zip(&means).all(|(expected, mean)| (expected - mean).abs() < 1e-3), "{expected:?}");
    let parents_lose = memory.leaders.iter().map(|leader| leader.means[0]).sum::<f64>() / PARENTS as f64;
    assert!(means[0] > parents_lose + 0.01, "by its first document it is worse than the parents");
    let race = memory.race(Racing::Fast, PARENTS, &[next]).unwrap();
    if let Verdict::Drop { means: foretold } = verdict(&race, 0, &means, 1) {
        assert!(foretold.iter().zip(&means).all(|(foretold, mean)| (foretold - mean).abs() < 1e-3), "{foretold:?}");
    }
}

#[test]
fn nothing_is_dropped_before_enough_is_known() {
    let mut rng = stream(1, 0, 0, Purpose::Initial);
    let next = [drawn(&mut rng, AGREED).0];
    for racing in [Racing::Safe, Racing::Fast] {
        let memory = remembered(&mut rng, PARENTS - 1, AGREED);
        assert_eq!(memory.race(racing, PARENTS, &next), None);
        let memory = remembered(&mut rng, 200, AGREED);
        assert_eq!(memory.race(Racing::Off, PARENTS, &next), None);
        let few = remembered(&mut rng, MIN_FREEDOM, AGREED).race(racing, 8, &next).unwrap();
        assert_eq!(few.verdict(0, &[1e9]), Verdict::Continue);
        let race = memory.race(racing, PARENTS, &next).unwrap();
        assert_eq!(race.verdict(0, &[]), Verdict::Continue);
        assert_eq!(race.verdict(0, &[1e9; SAMPLES]), Verdict::Continue, "all is known: the score decides");
        assert!(matches!(race.verdict(0, &[1e9; SAMPLES - 1]), Verdict::Drop { .. }));
        assert_eq!(race.verdict(0, &[f64::NAN]), Verdict::Drop { means: vec![f64::INFINITY; SAMPLES] });
        assert_eq!(race.verdict(1, &[1e9; SAMPLES - 1]), Verdict::Continue, "no such candidate");
    }
}

/// Of what is foretold of a dropped candidate, what was measured stays, and the whole is the estimate.
#[test]
fn what_was_measured_of_a_dropped_one_stays() {
    let mut rng = stream(8, 0, 0, Purpose::Initial);
    let memory = remembered(&mut rng, 300, ALONE);
    let (next, losses): (Vec<Candidate>, Vec<Vec<f64>>) = (0..200).map(|_| drawn(&mut rng, ALONE)).unzip();
    let race = memory.race(Racing::Fast, PARENTS, &next).unwrap();
    let (mut dropped, mut errors, mut others) = (0, 0.0, 0.0);
    for (slot, means) in losses.iter().enumerate() {
        let Some((seen, foretold)) = race.dropped(slot, means) else { continue };
        dropped += 1;
        let (measured, rest) = race.order().split_at(seen);
        assert!(measured.iter().all(|&sample| foretold[sample] == means[sample]));
        let known: Vec<f64> = measured.iter().map(|&sample| means[sample]).collect();
        let predicted = race.forecast(slot, &known).unwrap().predicted;
        assert!((average(&foretold) - predicted).abs() < 1e-12, "{foretold:?}, not {predicted} in the mean");
        // What is foretold on a document lies near what is lost there, and farther from what is lost on another.
        let off = |of: usize| {
            rest.iter().map(|&sample| (foretold[sample] - means[(sample + of) % SAMPLES]).abs()).sum::<f64>()
        };
        (errors, others) = (errors + off(0), others + off(1));
    }
    assert!(dropped > 50 && errors < others / 4.0, "{dropped}: {errors} against {others}");
}

/// A child is expected to lose what its parent does, also where that was dropped.
#[test]
fn dropped_ones_tell_what_their_neighbours_lose() {
    let mut rng = stream(9, 0, 0, Purpose::Initial);
    let mut memory = remembered(&mut rng, 100, ALONE);
    let (parent, child) = (at(3_000.0), at(3_010.0));
    let expect = |memory: &RaceMemory| expected(&memory.metric, &child, memory.known().into_iter()).unwrap();
    let means = [5.0, 4.0, 3.0, 2.0, 1.0];
    let off = |expected: &Expected| (expected.means[0] - means[0]).abs();
    let stranger = expect(&memory);
    memory.note_dropped(&[(&parent, &means)]);
    let relative = expect(&memory);
    assert!(
        off(&relative) < off(&stranger) / 2.0 && relative.variance < stranger.variance,
        "{stranger:?} {relative:?}"
    );
    assert_eq!(memory.race(Racing::Safe, PARENTS, &[]).unwrap().bars[0].at, memory.cut(PARENTS), "it leads nobody");

    let before = memory.clone();
    memory.note_dropped(&[(&parent, &[f64::INFINITY; SAMPLES]), (&parent, &[1.0; SAMPLES + 1])]);
    assert_eq!(memory, before, "what does not fit is left out");
    memory.note_dropped(&vec![(&parent, means.as_slice()); WINDOW + 9]);
    assert_eq!(memory.dropped.len(), WINDOW);
    assert!(memory.is_sound());
    let read: RaceMemory = serde_json::from_str(&serde_json::to_string(&memory).unwrap()).unwrap();
    assert_eq!(read, memory);
    let mut nobody = RaceMemory::default();
    nobody.note_dropped(&[(&parent, &means)]);
    assert_eq!(nobody, RaceMemory::default(), "nobody was evaluated in full");
    memory.dropped[0].means.pop();
    assert!(!memory.is_sound());
}

/// What a child next to its parents loses is known by one sample; of one from far away it is not.
#[test]
fn who_is_near_is_known_sooner() {
    let mut rng = stream(6, 0, 0, Purpose::Initial);
    let mut memory = RaceMemory::default();
    // What a step changes in the losses is in proportion to it, and long ones are for the worse.
    let child = |step: f64, rng: &mut ChaCha8Rng| {
        let means = [2.6, 2.7, 3.0, 3.3, 3.6]
            .map(|mean| mean + step * if step < 0.01 { normal(rng) } else { normal(rng).abs() });
        (at(100_000.0 * (1.0 + step * normal(rng))), means)
    };
    for _ in 0..16 {
        let children: Vec<(Candidate, [f64; SAMPLES])> =
            (0..20).map(|number| child([1e-5, 0.03][number % 2], &mut rng)).collect();
        let children: Vec<_> = children.iter().map(|(candidate, means)| (candidate, means.as_slice())).collect();
        memory.note(&children, PARENTS);
    }
    let best = memory.leaders[0].means.clone();
    let next = [at(100_000.0), at(130_000.0)];
    let race = memory.race(Racing::Fast, 2, &next).unwrap();
    let [near, far] = [0, 1].map(|slot| race.forecast(slot, &[best[race.order()[0]]]).unwrap());
    assert!(near.error < far.error / 5.0, "{near:?} {far:?}");
}

/// Equal candidates leave no scatter to fit; nobody is dropped by such a rule, and nothing panics.
#[test]
fn a_population_of_equals_races_without_harm() {
    let mut memory = RaceMemory::default();
    for _ in 0..100 {
        memory.note(&[(&at(100.0), &[2.0, 3.0, 4.0])], 10);
    }
    let race = memory.race(Racing::Fast, 10, &[at(100.0)]).unwrap();
    assert_eq!(verdict(&race, 0, &[2.0, 3.0, 4.0], 2), Verdict::Continue);
}

#[test]
fn what_is_remembered_is_bounded_and_survives_storage() {
    let mut rng = stream(2, 0, 0, Purpose::Initial);
    let mut memory = remembered(&mut rng, WINDOW + 50, AGREED);
    assert_eq!((memory.evaluated.len(), memory.leaders.len()), (WINDOW, PARENTS));
    assert!(memory.leaders.is_sorted_by(|a, b| average(&a.means) <= average(&b.means)) && memory.is_sound());
    let before = memory.clone();
    let unusable: [(&Candidate, &[f64]); 2] = [(&at(1.0), &[f64::INFINITY; SAMPLES]), (&at(1.0), &[1.0; SAMPLES + 1])];
    memory.note(&unusable, PARENTS);
    assert_eq!(memory, before, "what does not fit is left out");
    let text = serde_json::to_string(&memory).unwrap();
    let read: RaceMemory = serde_json::from_str(&text).unwrap();
    let next = [drawn(&mut rng, AGREED).0];
    assert_eq!(read.race(Racing::Fast, PARENTS, &next), before.race(Racing::Fast, PARENTS, &next));
    // What versions before expected is not read, and nobody is dropped until enough was expected anew.
    let old = text.replace("\"foretold\":", "\"expected\":");
    assert_ne!(old, text);
    let mut old: RaceMemory = serde_json::from_str(&old).unwrap();
    assert!(old.is_sound());
    let first = old.race(Racing::Fast, PARENTS, &next).unwrap();
    assert_eq!(first.verdict(0, &[1e9; SAMPLES - 1]), Verdict::Continue);
    let more: Vec<_> = (0..MIN_FREEDOM + SAMPLES).map(|_| drawn(&mut rng, AGREED)).collect();
    old.note(&more.iter().map(|(candidate, means)| (candidate, means.as_slice())).collect::<Vec<_>>(), PARENTS);
    let second = old.race(Racing::Fast, PARENTS, &next).unwrap();
    assert!(matches!(second.verdict(0, &[1e9; SAMPLES - 1]), Verdict::Drop { .. }));
    // What versions before kept is no longer read, and does no harm.
    let old: RaceMemory = serde_json::from_str(r#"{"latest": [[2.0, 3.0]], "best": [[2.0, 3.0]]}"#).unwrap();
    assert_eq!(old, RaceMemory::default());
}

/// From tables of Student's distribution.
#[test]
fn quantiles_are_students() {
    let (safe, fast) = (3.090_232_306_167_813, 1.281_551_565_544_600_5);
    for (z, freedom, expected) in
        [(safe, 24, 3.467), (safe, 60, 3.232), (safe, 120, 3.160), (fast, 24, 1.318), (fast, 120, 1.289)]
    {
        let got = student(z, freedom);
        assert!((got - expected).abs() < 0.006, "{freedom}: {got}, not {expected}");
    }
}
