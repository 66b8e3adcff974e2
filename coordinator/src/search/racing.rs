//! Racing: dropping a candidate before it was evaluated on every sample.
//!
//! All candidates are evaluated on the same samples, so that differences are paired: what a candidate loses against
//! the parents on the first samples foretells what it loses on all. How well, is measured on the candidates that were
//! evaluated in full before: their full difference is fitted to their differences on the first `m` samples. A candidate
//! is dropped when the lower end of its prediction lies above what it would have to reach. The one-sided bound is
//! Student's, and the scatter of the fit grows with the distance from the parents, as it does in truth. What was predicted
//! of a dropped candidate stays with it: it can still be a parent, in the place that the prediction gives it.
//!
//! The rule of a generation comes from closed generations, and a verdict from the rule and the candidate's own losses:
//! nobody waits for other candidates, and the order of results decides nothing. Fitting on those that survived does not
//! bend the rule, since they were picked by what the fit is given, not by what it predicts.
//!
//! Only operations that IEEE 754 rounds exactly decide, so that every platform drops the same candidates.

use super::evolution::DocumentOptions;
use super::least_squares::Fit;
use super::outcome::Outcome;
use ropewalk_shared::racing::Racing;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Candidates evaluated in full from which the rule is fitted: the latest.
const WINDOW: usize = 320;
/// Freedom that a fit needs before anything is dropped by it.
const MIN_FREEDOM: usize = 24;
/// Most samples with which candidates race; the rule would grow with their square.
pub const MAX_SAMPLES: usize = 32;
/// Where the scatter of a fit stops shrinking, as a share of the usual distance from the parents.
const FLOOR: f64 = 0.5;

/// What the candidates evaluated so far lost on each sample, as far as racing needs it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RaceMemory {
    /// Mean losses by sample, of the latest.
    latest: VecDeque<Vec<f64>>,
    /// The same of the best, best first.
    best: Vec<Vec<f64>>,
}

/// The rule of one generation.
#[derive(Clone, Debug, PartialEq)]
pub struct Race {
    /// Mean loss of the parents on each sample.
    reference: Vec<f64>,
    /// What the mean over all samples must not exceed, as a difference to the reference.
    cut: f64,
    /// What the first sample tells, the first two, and so on.
    fits: Vec<Option<Ahead>>,
    /// Quantile of the normal distribution.
    quantile: f64,
}

/// What becomes of a candidate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// It goes on to the next sample.
    Continue,
    /// It is not evaluated any further.
    Drop {
        /// The perplexity that it would have had, nearly.
        estimate: f64,
    },
}

#[derive(Clone, Debug, PartialEq)]
struct Ahead {
    fit: Fit,
    /// Square of the distance at which the scatter stops shrinking.
    floor: f64,
}

// === impl RaceMemory ===

impl RaceMemory {
    /// Takes in the mean losses of a candidate evaluated in full, of which the best `parents` are kept for good.
    pub fn note(&mut self, means: &[f64], parents: usize) {
        let fits = self.latest.front().is_none_or(|first| first.len() == means.len());
        if !fits || !(2..=MAX_SAMPLES).contains(&means.len()) || means.iter().any(|mean| !mean.is_finite()) {
            return;
        }
        self.latest.push_back(means.to_vec());
        if self.latest.len() > WINDOW {
            self.latest.pop_front();
        }
        let place = self.best.partition_point(|known| average(known) <= average(means));
        self.best.insert(place, means.to_vec());
        self.best.truncate(parents);
    }

    /// Takes in what came of a generation, if candidates race at all.
    pub(super) fn note_outcomes(&mut self, outcomes: &[Outcome], documents: DocumentOptions, parents: usize) {
        if documents.racing.is_off() {
            return;
        }
        let samples = documents.samples as usize;
        let is_whole = |outcome: &&Outcome| outcome.means.len() == samples && outcome.score.value().is_some();
        for outcome in outcomes.iter().filter(is_whole) {
            self.note(&outcome.means, parents);
        }
    }

    /// The rule of the next generation; `None` where nothing is dropped: without racing, and while there are fewer
    /// candidates than parents.
    pub fn race(&self, racing: Racing, parents: usize) -> Option<Race> {
        // One-sided 99.9 % and 90 %.
        let (rank, quantile) = match racing {
            Racing::Off => return None,
            Racing::Safe => (parents, 3.090_232_306_167_813),
            Racing::Fast => ((parents / 8).max(1), 1.281_551_565_544_600_5),
        };
        if parents == 0 || self.best.len() < parents {
            return None;
        }
        let samples = self.best[0].len();
        let reference: Vec<f64> = (0..samples)
            .map(|sample| self.best.iter().map(|means| means[sample]).sum::<f64>() / self.best.len() as f64)
            .collect();
        let cut = average(&self.best[rank - 1]) - average(&reference);
        let differences: Vec<Vec<f64>> = self.latest.iter().map(|means| difference(means, &reference)).collect();
        let fits = (1..samples).map(|seen| Ahead::after(seen, &differences)).collect();
        Some(Race { reference, cut, fits, quantile })
    }

    /// Whether what was read from storage can have come from here.
    pub(super) fn is_sound(&self) -> bool {
        let mut all = self.latest.iter().chain(&self.best);
        let length = self.latest.front().map_or(0, Vec::len);
        all.all(|means| means.len() == length && means.iter().all(|mean| mean.is_finite()))
    }
}

// === impl Race ===

impl Race {
    /// How many samples there are.
    pub fn samples(&self) -> usize {
        self.reference.len()
    }

    /// Judges a candidate by its mean losses on the first samples, in nats.
    ///
    /// One that is infinite or not a number on any of them is so on all, and dropped.
    pub fn verdict(&self, means: &[f64]) -> Verdict {
        if means.iter().any(|mean| !mean.is_finite()) {
            return Verdict::Drop { estimate: f64::INFINITY };
        }
        let Some(Some(ahead)) = means.len().checked_sub(1).and_then(|seen| self.fits.get(seen)) else {
            return Verdict::Continue;
        };
        let seen = difference(means, &self.reference);
        let predicted = ahead.fit.predict(&seen);
        let error = ahead.fit.error(&seen, ahead.weight(&seen));
        // Written so that a prediction that is no number drops nobody.
        if predicted - student(self.quantile, ahead.fit.freedom()) * error > self.cut {
            Verdict::Drop { estimate: (average(&self.reference) + predicted).exp() }
        } else {
            Verdict::Continue
        }
    }
}

// === impl Ahead ===

impl Ahead {
    /// Fits the mean difference over all samples to the differences on the first `seen`.
    fn after(seen: usize, differences: &[Vec<f64>]) -> Option<Self> {
        let rows: Vec<&[f64]> = differences.iter().map(|row| &row[..seen]).collect();
        let targets: Vec<f64> = differences.iter().map(|row| average(row)).collect();
        let mut distances: Vec<f64> = rows.iter().map(|row| distance(row)).collect();
        distances.sort_by(f64::total_cmp);
        let usual = distances.get(distances.len() / 2)?;
        let floor = (FLOOR * usual).powi(2).max(f64::MIN_POSITIVE);
        let weights: Vec<f64> = rows.iter().map(|row| weight(floor, row)).collect();
        let fit = Fit::of(&rows, &targets, &weights).filter(|fit| fit.freedom() >= MIN_FREEDOM)?;
        Some(Self { fit, floor })
    }

    fn weight(&self, row: &[f64]) -> f64 {
        weight(self.floor, row)
    }
}

fn weight(floor: f64, row: &[f64]) -> f64 {
    1.0 / (floor + distance(row).powi(2))
}

/// Mean distance from the parents, sample by sample.
fn distance(row: &[f64]) -> f64 {
    row.iter().map(|difference| difference.abs()).sum::<f64>() / row.len() as f64
}

fn average(means: &[f64]) -> f64 {
    means.iter().sum::<f64>() / means.len() as f64
}

fn difference(means: &[f64], reference: &[f64]) -> Vec<f64> {
    means.iter().zip(reference).map(|(mean, reference)| mean - reference).collect()
}

/// Quantile of Student's distribution from that of the normal one: the first terms of the expansion by Cornish and
/// Fisher, which are exact to two digits from 24 degrees of freedom on.
fn student(z: f64, freedom: usize) -> f64 {
    let nu = freedom as f64;
    let (z3, z5) = (z * z * z, z * z * z * z * z);
    z + (z3 + z) / (4.0 * nu) + (5.0 * z5 + 16.0 * z3 + 3.0 * z) / (96.0 * nu * nu)
}

#[cfg(test)]
mod tests;
