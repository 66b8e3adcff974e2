//! What races do to a search in the mean over chance: pairs of searches on a landscape, one that races and one that does not.
//!
//! Two searches that differ in their random numbers end further apart than a race may cost, so that a few pairs on real
//! documents cannot tell. Of the documents of the landscape each pair searches another third, and is judged on the rest.

use super::course::{Tried, mean};
use super::landscape::{Landscape, middle};
use super::mistakes::{Mistakes, as_rough};
use super::on_landscape::{End, progress, search, side_by_side};
use super::results::median;
use super::roughness::Rough;
use anyhow::Result;
use ropewalk_shared::job::JobSpec;
use ropewalk_shared::model_description::ModelDescription;
use ropewalk_shared::racing::Racing;
use ropewalk_shared::rope::Rescale;
use serde::Serialize;
use std::fmt::Write as _;

/// Ends of searches that are read before a landscape is fitted again, and how often that is done.
const ENDS: usize = 20;
const ROUNDS: usize = 24;
/// Numbers of those searches, apart from those of pairs.
const READ: usize = 1 << 20;
/// Times that progress is told while pairs are searched.
const STEPS: usize = 20;

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
    /// The noise of each candidate, as a share of what the landscape is off by.
    pub roughness: f64,
    /// What races mistake on the record.
    pub mistaken_on_record: Mistakes,
    /// What they mistake on searches on the landscape.
    pub mistaken_here: Mistakes,
    /// The pairs.
    pub races: Vec<Chance>,
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
    let job = (job, description);
    let mistaken_on_record = Mistakes::on_record(&recorded, job)?;
    let (landscape, at_ends) = anchored(recorded, job, read)?;
    let left_out = landscape.left_out();
    let (rough, roughness, mistaken_here) = as_rough(&landscape, &left_out, mistaken_on_record, job)?;
    let pair = |pair| {
        let end = |racing| search(&rough, job, racing, pair, drop);
        Ok((end(Racing::Off)?, (end(Racing::Safe)?, end(Racing::Fast)?)))
    };
    let mut ends = Vec::with_capacity(pairs);
    while ends.len() < pairs {
        let upto = pairs.min(ends.len() + pairs.div_ceil(STEPS));
        ends.extend(side_by_side(ends.len()..upto, pair)?);
        progress(&format!("{upto} of {pairs} pairs"));
    }
    let (whole, (safe, fast)): (Vec<End>, (Vec<End>, Vec<End>)) = ends.into_iter().unzip();
    let races = vec![Chance::of(Racing::Safe, &safe, &whole), Chance::of(Racing::Fast, &fast, &whole)];
    let (documents, left_out) = (landscape.documents(), middle(&left_out));
    Ok(OnLandscape { documents, left_out, at_ends, roughness, mistaken_on_record, mistaken_here, races })
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
        let smooth = Rough::smooth(&landscape);
        let ends =
            side_by_side(from..from + ENDS, |seed| search(&smooth, (job, description), Racing::Off, seed, drop))?;
        let bests: Vec<Rescale> = ends.iter().map(|end| end.best.clone()).collect();
        let mut errors = Vec::new();
        for (End { best, candidate, .. }, foretold) in ends.into_iter().zip(landscape.means(&bests)) {
            let means = read(&best)?;
            errors.push(100.0 * (foretold - mean(&means)).exp_m1().abs());
            recorded.push(Tried { generation: 0, candidate, rescale: best, means });
        }
        off = median(errors);
        progress(&format!(
            "off by {off:.2} % of perplexity at the ends of {ENDS} searches, fitted again ({} of {ROUNDS})",
            round + 1
        ));
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

impl OnLandscape {
    /// What came of it, in words.
    pub fn table(&self) -> String {
        let mut text = format!(
            "on a landscape of {} documents (off by {:.1e} nats where a candidate is left out, by {:.2} % of perplexity where \
             searches end), with {:.2} of that as noise of each candidate (on searches of its own, `fast` {}; on the record it {})\n",
            self.documents,
            self.left_out,
            self.at_ends,
            self.roughness,
            mistakes(&self.mistaken_here),
            mistakes(&self.mistaken_on_record)
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

fn mistakes(of: &Mistakes) -> String {
    let Mistakes { saved, other_parents, parents_higher } = of;
    format!(
        "saves {:.1} % and takes {:.1} % other parents, {parents_higher:.3} % too high in the mean",
        100.0 * saved,
        100.0 * other_parents
    )
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
    use ropewalk_shared::candidate::Candidate;

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
            let mistakes = Mistakes { saved: 0.5, other_parents: 0.1, parents_higher: 0.01 };
            OnLandscape {
                documents: 15,
                left_out: 0.0,
                at_ends: 0.0,
                roughness: 0.2,
                mistaken_on_record: mistakes,
                mistaken_here: mistakes,
                races: vec![fast],
            }
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
}
