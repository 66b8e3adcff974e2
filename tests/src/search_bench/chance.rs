//! What races do to a search in the mean over chance: pairs of searches on a landscape, one that races and one that does not.
//!
//! Two searches that differ in their random numbers end further apart than a race may cost, so that a few pairs on real
//! documents cannot tell. Of the documents of the landscape each pair searches another third, and is judged on the rest.

use super::course::{Tried, mean};
use super::landscape::Landscape;
use super::results::median;
use anyhow::{Context as _, Result};
use rand::seq::SliceRandom as _;
use rayon::iter::{IntoParallelIterator as _, ParallelIterator as _};
use ropewalk_coordinator::search::rng::{Purpose, stream};
use ropewalk_coordinator::search::{Ask, Outcome, strategy};
use ropewalk_shared::candidate::Candidate;
use ropewalk_shared::job::JobSpec;
use ropewalk_shared::model_description::ModelDescription;
use ropewalk_shared::racing::Racing;
use ropewalk_shared::rope::Rescale;
use std::fmt::Write as _;
use std::io::Write as _;
use std::ops::Range;

/// Ends of searches that are read before a landscape is fitted again, and how often that is done.
const ENDS: usize = 20;
const ROUNDS: usize = 24;
/// Seeds of those searches, apart from those of pairs.
const READ: usize = 1 << 20;

/// A mean, and how far it is off by chance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mean {
    /// Of all pairs.
    pub value: f64,
    /// Its standard error.
    pub error: f64,
}

/// Where searches that race end against those that do not, in per cent.
#[derive(Clone, Debug, PartialEq)]
pub struct Chance {
    /// How they race.
    pub racing: Racing,
    /// Searches of either kind.
    pub pairs: usize,
    /// Document passes saved.
    pub saved: Mean,
    /// Perplexity on the documents searched.
    pub searched: Mean,
    /// On the others.
    pub held_out: Mean,
    /// How far single pairs lie apart on the others: standard deviation.
    pub apart: f64,
}

/// Where a search ended.
struct End {
    passes: f64,
    /// Mean losses, in nats.
    searched: f64,
    held_out: f64,
    candidate: Candidate,
    best: Rescale,
}

impl Mean {
    fn of(values: &[f64]) -> Self {
        let count = values.len() as f64;
        Self { value: mean(values), error: deviation(values) / count.sqrt() }
    }
}

fn deviation(values: &[f64]) -> f64 {
    let middle = mean(values);
    let square: f64 = values.iter().map(|value| (value - middle).powi(2)).sum();
    (square / (values.len() as f64 - 1.0)).sqrt()
}

/// A landscape fitted to what was recorded and to where searches on it end, which is read on the real documents: left to
/// itself, a search finds where the landscape is wrong. Also by how much it is off in the mean over all documents at the last
/// ends that were read, in per cent of perplexity: the middle one, without its sign.
///
/// # Errors
/// When nothing fits, or a document cannot be evaluated.
pub fn anchored(
    mut recorded: Vec<Tried>,
    (job, description): (&JobSpec, &ModelDescription),
    read: &mut dyn FnMut(&Rescale) -> Result<Vec<f64>>,
) -> Result<(Landscape, f64)> {
    let mut landscape = Landscape::fit(&recorded, description)?;
    let mut off = f64::NAN;
    for round in 0..ROUNDS {
        let from = READ + round * ENDS;
        let ends = side_by_side(from..from + ENDS, |seed| search(&landscape, (job, description), Racing::Off, seed))?;
        let mut errors = Vec::new();
        for End { best, candidate, .. } in ends {
            let means = read(&best)?;
            errors.push(100.0 * (mean(&landscape.losses(&best)) - mean(&means)).exp_m1().abs());
            recorded.push(Tried { generation: 0, candidate, rescale: best, means });
        }
        off = median(errors);
        let _ = writeln!(
            std::io::stderr(),
            "landscape: off by {off:.2} % of perplexity at the ends of {ENDS} searches, fitted again ({} of {ROUNDS})",
            round + 1
        );
        landscape = landscape.fit_again(&recorded)?;
    }
    Ok((landscape, off))
}

/// What comes of numbers, in their order; all cores take part.
fn side_by_side<T: Send>(numbers: Range<usize>, of: impl Fn(usize) -> Result<T> + Send + Sync) -> Result<Vec<T>> {
    numbers.into_par_iter().map(of).collect()
}

/// Compares races with searches that evaluate everything, as the job describes them.
///
/// # Errors
/// When the job cannot be run.
pub fn compare(
    landscape: &Landscape,
    (job, description): (&JobSpec, &ModelDescription),
    races: &[Racing],
    pairs: usize,
) -> Result<Vec<Chance>> {
    let ends = |racing| side_by_side(0..pairs, |pair| search(landscape, (job, description), racing, pair));
    let whole = ends(Racing::Off)?;
    races.iter().map(|&racing| Ok(Chance::of(racing, &ends(racing)?, &whole))).collect()
}

impl Chance {
    fn of(racing: Racing, raced: &[End], whole: &[End]) -> Self {
        let pairs = || raced.iter().zip(whole);
        let saved: Vec<f64> = pairs().map(|(raced, whole)| 100.0 * (1.0 - raced.passes / whole.passes)).collect();
        let higher = |of: fn(&End) -> f64| -> Vec<f64> {
            pairs().map(|(raced, whole)| 100.0 * (of(raced) - of(whole)).exp_m1()).collect()
        };
        let held_out = higher(|end| end.held_out);
        Self {
            racing,
            pairs: raced.len(),
            saved: Mean::of(&saved),
            searched: Mean::of(&higher(|end| end.searched)),
            apart: deviation(&held_out),
            held_out: Mean::of(&held_out),
        }
    }
}

/// One search of a pair on its documents, with its random numbers.
fn search(
    landscape: &Landscape,
    (job, description): (&JobSpec, &ModelDescription),
    racing: Racing,
    pair: usize,
) -> Result<End> {
    let mut job = job.clone();
    (job.search.racing, job.search.seed) = (racing, pair as u64);
    let mut documents: Vec<usize> = (0..landscape.documents()).collect();
    documents.shuffle(&mut stream(pair as u64, 0, 0, Purpose::Initial));
    let (searched, held_out) = documents.split_at(job.samples.len());
    let (grid, attention) = (job.search.grid, job.attention_factor(description));
    let losses = |candidate: &Candidate, of: &[usize]| -> Vec<f64> {
        let all = landscape.losses(&candidate.rescale(grid, attention));
        of.iter().map(|&document| all[document]).collect()
    };
    let mut strategy = strategy::begin(&job, description)?;
    let mut passes = 0;
    while let Ask::Evaluate { generation, candidates } = strategy.ask() {
        let race = strategy.race();
        let outcome = |(slot, candidate)| Outcome::of_known(race.as_ref(), slot, &losses(candidate, searched));
        let outcomes: Vec<Outcome> = candidates.iter().enumerate().map(outcome).collect();
        passes += outcomes.iter().map(|outcome| outcome.passes).sum::<u64>();
        strategy.tell_outcomes(generation, &outcomes)?;
    }
    let (best, _) = strategy.best().context("nothing was evaluated")?;
    let at = |of: &[usize]| mean(&losses(best, of));
    let (searched, held_out) = (at(searched), at(held_out));
    let (candidate, best) = (best.clone(), best.rescale(grid, attention));
    Ok(End { passes: passes as f64, searched, held_out, candidate, best })
}

/// What came of it, in words.
pub fn table(landscape: &Landscape, off: f64, races: &[Chance]) -> String {
    let mut text = format!(
        "on a landscape of {} documents (off by {:.1e} nats where a candidate is left out, by {off:.2} % of perplexity where searches \
         end)\n",
        landscape.documents(),
        landscape.error
    );
    for Chance { racing, pairs, saved, searched, held_out, apart } in races {
        let of = |mean: &Mean| format!("{:+.3} % (+- {:.3})", mean.value, mean.error);
        let _ = writeln!(
            text,
            "  --racing {racing}: {pairs} pairs save {:.1} % of the passes (+- {:.1}); {} searched, {} held out; single pairs are {apart:.2} % \
             apart",
            saved.value,
            saved.error,
            of(searched),
            of(held_out)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_come_with_their_errors() {
        // Deviations of 1, 3 and 5 from 3: the root of (4 + 0 + 4) / 2.
        assert_eq!(Mean::of(&[1.0, 3.0, 5.0]), Mean { value: 3.0, error: 2.0 / 3f64.sqrt() });
        assert_eq!(deviation(&[1.0, 3.0, 5.0]), 2.0);
    }

    #[test]
    fn pairs_are_compared_one_by_one() {
        let end = |passes, searched, held_out| {
            let best = Rescale::with_factors(vec![1.0]);
            let candidate = Candidate { factors: vec![0], start_tokens: 0, attention: None, pair_attention: vec![] };
            End { passes, searched, held_out, candidate, best }
        };
        let whole = [end(100.0, 2.0, 3.0), end(100.0, 2.0, 3.0)];
        let raced = [end(50.0, 2.0 + 1.01f64.ln(), 3.0), end(70.0, 2.0, 3.0 - 1.02f64.ln())];
        let chance = Chance::of(Racing::Fast, &raced, &whole);
        let near = |mean: Mean, value: f64, error: f64| {
            assert!((mean.value - value).abs() < 1e-9 && (mean.error - error).abs() < 1e-9, "{mean:?}");
        };
        near(chance.saved, 40.0, 10.0);
        near(chance.searched, 0.5, 0.5);
        // 1 / 1.02 - 1, in per cent, and nothing.
        near(chance.held_out, -0.980_392_156_862_745, 0.980_392_156_862_745);
        assert_eq!(chance.pairs, 2);
    }

    #[test]
    fn what_is_done_side_by_side_comes_in_order() {
        assert_eq!(side_by_side(3..10, |number| Ok(number * number)).unwrap(), [9, 16, 25, 36, 49, 64, 81]);
        let failed = side_by_side(0..4, |number| if number == 2 { anyhow::bail!("two") } else { Ok(()) });
        assert_eq!(failed.unwrap_err().to_string(), "two");
    }
}
