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
use serde::Serialize;
use std::fmt::Write as _;
use std::io::Write as _;
use std::ops::Range;

/// Ends of searches that are read before a landscape is fitted again, and how often that is done.
const ENDS: usize = 20;
const ROUNDS: usize = 24;
/// Seeds of those searches, apart from those of pairs.
const READ: usize = 1 << 20;

/// A mean, and how far it is off by chance.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Mean {
    /// The mean.
    pub value: f64,
    /// Its standard error.
    pub error: f64,
}

/// Where searches that race end against those that do not, in per cent.
#[derive(Clone, Debug, PartialEq, Serialize)]
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

/// What races do on one landscape.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OnLandscape {
    /// Its documents.
    pub documents: usize,
    /// How far it is off where a candidate is left out, in nats: the middle one.
    pub left_out: f64,
    /// How far it is off where searches on it end, in per cent of perplexity: the middle one.
    pub at_ends: f64,
    /// The pairs.
    pub races: Vec<Chance>,
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

    /// The mean of means that weigh alike; its error is that of chance within each of them.
    fn over(means: &[Self]) -> Self {
        let count = means.len() as f64;
        let error = means.iter().map(|mean| mean.error.powi(2)).sum::<f64>().sqrt() / count;
        Self { value: means.iter().map(|mean| mean.value).sum::<f64>() / count, error }
    }
}

fn deviation(values: &[f64]) -> f64 {
    let middle = mean(values);
    let square: f64 = values.iter().map(|value| (value - middle).powi(2)).sum();
    (square / (values.len() as f64 - 1.0)).sqrt()
}

/// What comes of numbers, in their order; all cores take part.
fn side_by_side<T: Send>(numbers: Range<usize>, of: impl Fn(usize) -> Result<T> + Send + Sync) -> Result<Vec<T>> {
    numbers.into_par_iter().map(of).collect()
}

/// Compares searches that race with searches that evaluate everything, as the job describes them, on a landscape of what was
/// recorded; `read` has the losses on the real documents.
///
/// # Errors
/// When nothing fits, or the job cannot be run.
pub fn compare(
    recorded: Vec<Tried>,
    (job, description): (&JobSpec, &ModelDescription),
    pairs: usize,
    read: &mut dyn FnMut(&Rescale) -> Result<Vec<f64>>,
) -> Result<OnLandscape> {
    let (landscape, at_ends) = anchored(recorded, (job, description), read)?;
    let ends = |racing| side_by_side(0..pairs, |pair| search(&landscape, (job, description), racing, pair));
    let whole = ends(Racing::Off)?;
    let chance = |racing| Ok(Chance::of(racing, &ends(racing)?, &whole));
    let races = [Racing::Safe, Racing::Fast].into_iter().map(chance).collect::<Result<_>>()?;
    Ok(OnLandscape { documents: landscape.documents(), left_out: landscape.left_out(), at_ends, races })
}

/// A landscape fitted to what was recorded and to where searches on it end, which is read on the real documents: left to
/// itself, a search finds where the landscape is wrong. Also by how much it is off in the mean over all documents at the last
/// ends that were read, in per cent of perplexity: the middle one, without its sign.
///
/// # Errors
/// When nothing fits, or a document cannot be evaluated.
fn anchored(
    mut recorded: Vec<Tried>,
    (job, description): (&JobSpec, &ModelDescription),
    read: &mut dyn FnMut(&Rescale) -> Result<Vec<f64>>,
) -> Result<(Landscape, f64)> {
    let mut landscape = Landscape::fit(&recorded, description)?;
    let mut off = f64::NAN;
    for round in 0..ROUNDS {
        let from = READ + round * ENDS;
        let ends = side_by_side(from..from + ENDS, |seed| search(&landscape, (job, description), Racing::Off, seed))?;
        let bests: Vec<Rescale> = ends.iter().map(|end| end.best.clone()).collect();
        let mut errors = Vec::new();
        for (End { best, candidate, .. }, foretold) in ends.into_iter().zip(landscape.means(&bests)) {
            let means = read(&best)?;
            errors.push(100.0 * (foretold - mean(&means)).exp_m1().abs());
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
    let rescale = |candidate: &Candidate| candidate.rescale(grid, attention);
    let mut strategy = strategy::begin(&job, description)?;
    let mut passes = 0;
    while let Ask::Evaluate { generation, candidates } = strategy.ask() {
        let race = strategy.race();
        let losses = landscape.losses(&candidates.iter().map(rescale).collect::<Vec<_>>(), searched);
        let outcome = |(slot, losses): (usize, &Vec<f64>)| Outcome::of_known(race.as_ref(), slot, losses);
        let outcomes: Vec<Outcome> = losses.iter().enumerate().map(outcome).collect();
        passes += outcomes.iter().map(|outcome| outcome.passes).sum::<u64>();
        strategy.tell_outcomes(generation, &outcomes)?;
    }
    let (best, _) = strategy.best().context("nothing was evaluated")?;
    let (candidate, best) = (best.clone(), rescale(best));
    let at = |of: &[usize]| mean(&landscape.losses(std::slice::from_ref(&best), of)[0]);
    let (searched, held_out) = (at(searched), at(held_out));
    Ok(End { passes: passes as f64, searched, held_out, candidate, best })
}

impl OnLandscape {
    /// What came of it, in words.
    pub fn table(&self) -> String {
        let mut text = format!(
            "on a landscape of {} documents (off by {:.1e} nats where a candidate is left out, by {:.2} % of perplexity where \
             searches end)\n",
            self.documents, self.left_out, self.at_ends
        );
        for Chance { racing, pairs, saved, searched, held_out, apart } in &self.races {
            let _ = writeln!(
                text,
                "  --racing {racing}: {pairs} pairs save {:.1} % of the passes (+- {:.1}); {} searched, {} held out; single pairs \
                 are {apart:.2} % apart",
                saved.value,
                saved.error,
                difference(searched),
                difference(held_out)
            );
        }
        text
    }
}

fn difference(mean: &Mean) -> String {
    format!("{:+.3} % (+- {:.3})", mean.value, mean.error)
}

/// What races do in the mean over several landscapes, in words: errors are those of chance, and those of other documents.
pub fn over_landscapes(all: &[&OnLandscape]) -> String {
    let mut text = String::new();
    for racing in [Racing::Safe, Racing::Fast] {
        let races: Vec<&Chance> =
            all.iter().flat_map(|one| &one.races).filter(|chance| chance.racing == racing).collect();
        if races.len() < 2 {
            continue;
        }
        let of = |of: fn(&Chance) -> Mean| -> (Mean, f64) {
            let means: Vec<Mean> = races.iter().map(|chance| of(chance)).collect();
            let values: Vec<f64> = means.iter().map(|mean| mean.value).collect();
            (Mean::over(&means), Mean::of(&values).error)
        };
        let words = |(mean, between): (Mean, f64)| {
            format!(
                "{:+.3} % (+- {:.3} by chance, +- {between:.3} from landscape to landscape)",
                mean.value, mean.error
            )
        };
        let _ = writeln!(
            text,
            "--racing {racing} on {} landscapes: saves {:.1} % of the passes; {} searched, {} held out",
            races.len(),
            of(|chance| chance.saved).0.value,
            words(of(|chance| chance.searched)),
            words(of(|chance| chance.held_out))
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
    fn landscapes_weigh_alike() {
        let mean = |value, error| Mean { value, error };
        // The root of 9 + 16, halved.
        assert_eq!(Mean::over(&[mean(1.0, 3.0), mean(2.0, 4.0)]), mean(1.5, 2.5));
        let on = |saved, held_out| {
            let (saved, searched, held_out) = (mean(saved, 0.0), mean(0.0, 0.0), mean(held_out, 0.03));
            let fast = Chance { racing: Racing::Fast, pairs: 9, saved, searched, held_out, apart: 1.0 };
            OnLandscape { documents: 15, left_out: 0.0, at_ends: 0.0, races: vec![fast] }
        };
        let (one, other) = (on(40.0, 0.1), on(42.0, 0.0));
        assert_eq!(over_landscapes(&[&one]), "", "nothing to be said of a single one");
        // Each is 0.05 from the middle, which makes a deviation of 0.0707 and, of two, an error of 0.05.
        let said = over_landscapes(&[&one, &other]);
        assert!(said.contains("2 landscapes: saves 41.0 %"), "{said}");
        assert!(
            said.contains("+0.050 % (+- 0.021 by chance, +- 0.050 from landscape to landscape) held out"),
            "{said}"
        );
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
