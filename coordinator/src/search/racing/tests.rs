//! The rule against populations of which everything is known.

use super::*;
use crate::search::rng::{Purpose, stream};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

const SAMPLES: usize = 5;
const PARENTS: usize = 32;

/// Standard normal, but for its tails.
fn normal(rng: &mut ChaCha8Rng) -> f64 {
    (0..12).map(|_| rng.random_range(0.0..1.0)).sum::<f64>() - 6.0
}

/// The mean losses of a candidate: how hard each document is, how bad the candidate is, and what only this document has
/// against it. Both grow with the distance that a mutation went, as on real models.
fn candidate(rng: &mut ChaCha8Rng) -> Vec<f64> {
    let size = [0.002, 0.01, 0.05, 0.3][rng.random_range(0..4)];
    let badness = size * (normal(rng) + 1.0);
    (0..SAMPLES).map(|sample| 2.5 + 0.3 * sample as f64 + badness + 0.4 * size * normal(rng)).collect()
}

fn remembered(rng: &mut ChaCha8Rng, count: usize) -> RaceMemory {
    let mut memory = RaceMemory::default();
    for _ in 0..count {
        memory.note(&candidate(rng), PARENTS);
    }
    memory
}

/// Of the next candidates: how many were dropped though they would have become parents (one of the best `rank`), how
/// many judgements there were, and the share of passes saved.
fn race(racing: Racing, rank: usize, seed: u64) -> (usize, usize, f64) {
    let mut rng = stream(seed, 0, 0, Purpose::Initial);
    let memory = remembered(&mut rng, 200);
    let race = memory.race(racing, PARENTS).unwrap();
    let bar = average(&memory.best[rank - 1]);
    let (mut mistakes, mut verdicts, mut passes, count) = (0, 0, 0, 2000);
    for _ in 0..count {
        let means = candidate(&mut rng);
        let dropped = (1..SAMPLES).find(|&seen| {
            verdicts += 1;
            race.verdict(&means[..seen]) != Verdict::Continue
        });
        passes += dropped.unwrap_or(SAMPLES);
        mistakes += usize::from(dropped.is_some() && average(&means) <= bar);
    }
    (mistakes, verdicts, 1.0 - passes as f64 / (count * SAMPLES) as f64)
}

#[test]
fn mistakes_are_as_rare_as_stated_and_passes_are_saved() {
    let add = |a: (usize, usize, f64), b: (usize, usize, f64)| (a.0 + b.0, a.1 + b.1, a.2 + b.2 / 10.0);
    let safe = (0..10).map(|seed| race(Racing::Safe, PARENTS, seed)).fold((0, 0, 0.0), add);
    assert!(safe.0 as f64 <= 0.001 * safe.1 as f64, "{} of {} verdicts were mistakes", safe.0, safe.1);
    assert!(safe.2 > 0.15, "{safe:?}");
    let fast = (0..10).map(|seed| race(Racing::Fast, PARENTS / 8, seed)).fold((0, 0, 0.0), add);
    assert!(fast.0 as f64 <= 0.1 * fast.1 as f64, "{} of {} verdicts were mistakes", fast.0, fast.1);
    assert!(fast.2 > safe.2 + 0.05, "{fast:?} against {safe:?}");
}

#[test]
fn estimates_are_near_what_would_have_come() {
    let mut rng = stream(7, 0, 0, Purpose::Initial);
    let race = remembered(&mut rng, 200).race(Racing::Safe, PARENTS).unwrap();
    let (mut errors, mut distances) = (0.0, 0.0);
    for _ in 0..2000 {
        let means = candidate(&mut rng);
        if let Verdict::Drop { estimate } = race.verdict(&means[..2]) {
            errors += (estimate.ln() - average(&means)).abs();
            distances += (average(&means) - average(&race.reference)).abs();
        }
    }
    // Against the guess that a candidate is as good as the parents.
    assert!(distances > 0.0 && errors < distances / 3.0, "{errors} of {distances}");
}

#[test]
fn nothing_is_dropped_before_enough_is_known() {
    let mut rng = stream(1, 0, 0, Purpose::Initial);
    let memory = remembered(&mut rng, PARENTS - 1);
    assert_eq!(memory.race(Racing::Safe, PARENTS), None);
    let memory = remembered(&mut rng, 200);
    assert_eq!(memory.race(Racing::Off, PARENTS), None);
    let few = remembered(&mut rng, MIN_FREEDOM).race(Racing::Fast, 8).unwrap();
    assert_eq!(few.verdict(&[1e9]), Verdict::Continue);
    let race = memory.race(Racing::Safe, PARENTS).unwrap();
    assert_eq!(race.verdict(&[]), Verdict::Continue);
    assert_eq!(race.verdict(&[1e9; SAMPLES]), Verdict::Continue, "all is known: the score decides");
    assert!(matches!(race.verdict(&[1e9; SAMPLES - 1]), Verdict::Drop { .. }));
    assert_eq!(race.verdict(&[f64::NAN]), Verdict::Drop { estimate: f64::INFINITY });
}

/// Equal candidates leave no scatter to fit; nobody is dropped by such a rule, and nothing panics.
#[test]
fn a_population_of_equals_races_without_harm() {
    let mut memory = RaceMemory::default();
    for _ in 0..100 {
        memory.note(&[2.0, 3.0, 4.0], 10);
    }
    let race = memory.race(Racing::Fast, 10).unwrap();
    assert_eq!(race.verdict(&[2.0, 3.0]), Verdict::Continue);
}

#[test]
fn what_is_remembered_is_bounded_and_survives_storage() {
    let mut rng = stream(2, 0, 0, Purpose::Initial);
    let mut memory = remembered(&mut rng, WINDOW + 50);
    assert_eq!((memory.latest.len(), memory.best.len()), (WINDOW, PARENTS));
    assert!(memory.best.is_sorted_by(|a, b| average(a) <= average(b)) && memory.is_sound());
    let before = memory.clone();
    memory.note(&[f64::INFINITY; SAMPLES], PARENTS);
    memory.note(&[1.0; SAMPLES + 1], PARENTS);
    assert_eq!(memory, before, "what does not fit is left out");
    let text = serde_json::to_string(&memory).unwrap();
    let read: RaceMemory = serde_json::from_str(&text).unwrap();
    assert_eq!(read.race(Racing::Safe, PARENTS), before.race(Racing::Safe, PARENTS));
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
