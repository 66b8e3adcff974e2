//! Racing: dropping a candidate before it was evaluated on every sample.
//!
//! All candidates are evaluated on the same samples, so that differences are paired: what a candidate loses on the first
//! samples, against what the nearest of those evaluated before lead to expect of it there ([`super::neighbours`]), foretells
//! what it loses on all. How well, is measured on the candidates that were evaluated in full before: their full difference
//! is fitted to their differences on the first `m` samples, and the samples that tell most come first ([`telling`]). A
//! candidate is dropped when the lower end of its prediction lies above what it would have to reach, which is what the
//! last of the parents has; in a fast race, also when it lies far enough above the best. The one-sided bound is Student's,
//! and the scatter of the fit grows with the difference to what was expected and with how unsure that was, as it does in
//! truth. What was predicted of a dropped candidate stays with it: in a fast race it can still be a parent, in the place that
//! the prediction gives it, and what is expected of its neighbours comes from it too, which are its children as often as not.
//!
//! The rule of a generation comes from closed generations, and a verdict from the rule and the candidate's own losses:
//! nobody waits for other candidates, and the order of results decides nothing. Fitting on those that survived does not
//! bend the rule, since they were picked by what the fit is given, not by what it predicts.
//!
//! Only operations that IEEE 754 rounds exactly decide, so that every platform drops the same candidates.

use super::evolution::DocumentOptions;
use super::least_squares::Fit;
use super::metric::Metric;
use super::neighbours::{Expected, Neighbour, average, expected};
use super::outcome::Outcome;
use super::score::Score;
use ropewalk_shared::candidate::Candidate;
use ropewalk_shared::racing::Racing;
use ropewalk_shared::rope::RopeGeometry;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

mod telling;

/// Candidates evaluated in full from which the rule is fitted, and dropped ones that are remembered: the latest.
pub const WINDOW: usize = 320;
/// Freedom that a fit needs before anything is dropped by it.
const MIN_FREEDOM: usize = 24;
/// Most samples with which candidates race; the rule would grow with their square.
pub const MAX_SAMPLES: usize = 32;
/// Where the scatter of a fit stops shrinking, as a share of the usual difference to what was expected.
const FLOOR: f64 = 0.5;
/// One-sided quantile of the normal distribution at 99.9 %: how sure it must be that a candidate will not become a parent.
const NO_PARENT: f64 = 3.090_232_306_167_813;
/// The same in a fast race, at 95 %: who is dropped by mistake would have been one of the last parents, mostly.
const HARDLY_A_PARENT: f64 = 1.644_853_626_951_472_2;
/// In a fast race, so many standard errors from the best a candidate is known well enough to breed by what is foretold of
/// it. Parents that are in the wrong place harm more than who is missing among them, so that far more is asked of them.
const FAR_FROM_BEST: f64 = 5.0;

/// What the candidates evaluated so far lost on each sample, as far as racing needs it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RaceMemory {
    /// The latest.
    evaluated: VecDeque<Known>,
    /// The best, best first.
    leaders: Vec<Known>,
    /// The latest that were dropped, with what was foretold of them.
    dropped: VecDeque<Known>,
    /// By what the nearest are found.
    metric: Metric,
}

/// A candidate that was evaluated, at least on some samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Known {
    candidate: Candidate,
    /// Mean losses by sample; foretold on some where it was dropped.
    means: Vec<f64>,
    /// What was expected of it, where somebody was known. What versions before stored as `expected` was expected otherwise.
    #[serde(rename = "foretold", skip_serializing_if = "Option::is_none")]
    expected: Option<Expected>,
}

/// The rule of one generation: what a candidate has to reach, and how that is foretold.
#[derive(Clone, Debug, PartialEq)]
pub struct Race {
    /// The samples, those that tell most first.
    order: Vec<usize>,
    /// Of each candidate, on the samples in that order.
    expected: Vec<Option<Expected>>,
    /// Who exceeds one of these in the mean over all samples is dropped.
    bars: Vec<Bar>,
    /// What the first sample tells, the first two, and so on.
    fits: Vec<Option<Ahead>>,
}

/// What a candidate has to reach.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Bar {
    /// The mean over all samples, in nats.
    at: f64,
    /// How sure it must be that it is exceeded, as a quantile of the normal distribution.
    confidence: f64,
}

/// What is foretold of a candidate, in nats.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Forecast<'a> {
    /// What was expected on each sample, in the order of the race.
    expected: &'a [f64],
    /// The mean over all samples.
    predicted: f64,
    /// Its standard error.
    error: f64,
    /// Degrees of freedom of the fit that it comes from.
    freedom: usize,
}

/// What becomes of a candidate.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It goes on to the next sample.
    Continue,
    /// It is not evaluated any further.
    Drop {
        /// Its mean losses on all samples by their numbers, in nats: as measured where they were, and foretold for the others.
        means: Vec<f64>,
    },
}

#[derive(Clone, Debug, PartialEq)]
struct Ahead {
    fit: Fit,
    /// Square of the size at which the scatter stops shrinking, for a candidate of which was expected with variance 1.
    floor: f64,
}

/// A candidate that was evaluated in full, against what was expected of it.
#[derive(Clone, Debug, PartialEq)]
struct Past {
    /// Differences on the samples, those that tell most first.
    differences: Vec<f64>,
    /// Of what was expected.
    variance: f64,
}

// === impl RaceMemory ===

impl RaceMemory {
    /// Nothing is known yet of candidates for a model with a window of `original_length` tokens.
    pub fn of(geometry: &RopeGeometry, original_length: u32) -> Self {
        Self { metric: Metric::of(geometry, original_length), ..Self::default() }
    }

    /// Takes in a closed generation, as far as it was evaluated in full: candidates and their mean losses, in nats. The
    /// best `parents` are kept for good.
    fn note(&mut self, generation: &[(&Candidate, &[f64])], parents: usize) {
        let samples = self.evaluated.front().map(|first| first.means.len());
        let is_usable = |means: &[f64]| {
            samples.is_none_or(|samples| samples == means.len())
                && (2..=MAX_SAMPLES).contains(&means.len())
                && means.iter().all(|mean| mean.is_finite())
        };
        let usable = generation.iter().filter(|(_, means)| is_usable(means));
        // What is expected of a candidate comes from generations before it.
        let before = self.known();
        let new = usable.map(|&(candidate, means)| Known {
            candidate: candidate.clone(),
            means: means.to_vec(),
            expected: expected(&self.metric, candidate, before.iter().copied()),
        });
        for known in new.collect::<Vec<_>>() {
            let place = self.leaders.partition_point(|leader| average(&leader.means) <= average(&known.means));
            self.leaders.insert(place, known.clone());
            self.leaders.truncate(parents);
            self.evaluated.push_back(known);
        }
        self.evaluated.drain(..self.evaluated.len().saturating_sub(WINDOW));
    }

    /// Takes in who was dropped of that generation, with what was foretold of them ([`Verdict::Drop`]).
    fn note_dropped(&mut self, dropped: &[(&Candidate, &[f64])]) {
        let Some(samples) = self.evaluated.front().map(|first| first.means.len()) else { return };
        let is_usable = |means: &[f64]| means.len() == samples && means.iter().all(|mean| mean.is_finite());
        let usable = dropped.iter().filter(|(_, means)| is_usable(means));
        let new = usable.map(|&(candidate, means)| Known {
            candidate: candidate.clone(),
            means: means.to_vec(),
            expected: None,
        });
        self.dropped.extend(new);
        self.dropped.drain(..self.dropped.len().saturating_sub(WINDOW));
    }

    /// Takes in what came of a generation, if candidates race at all. The best `parents` are kept for good.
    pub fn note_outcomes(
        &mut self,
        (asked, outcomes): (&[Candidate], &[Outcome]),
        documents: DocumentOptions,
        parents: usize,
    ) {
        if documents.racing.is_off() {
            return;
        }
        let samples = documents.samples as usize;
        let with_means = |wanted: fn(Score) -> bool| {
            let all = asked.iter().zip(outcomes);
            let wanted = all.filter(move |(_, outcome)| outcome.means.len() == samples && wanted(outcome.score));
            wanted.map(|(candidate, outcome)| (candidate, outcome.means.as_slice())).collect::<Vec<_>>()
        };
        self.note(&with_means(|score| score.value().is_some()), parents);
        self.note_dropped(&with_means(|score| score.estimate().is_some()));
    }

    /// The rule of the next generation; `None` where nothing is dropped: without racing, and while there are fewer
    /// candidates than parents.
    pub fn race(&self, racing: Racing, parents: usize, generation: &[Candidate]) -> Option<Race> {
        let ranks: &[(usize, f64)] = match racing {
            Racing::Off => return None,
            Racing::Safe => &[(parents, NO_PARENT)],
            Racing::Fast => &[(parents, HARDLY_A_PARENT), (1, FAR_FROM_BEST)],
        };
        if parents == 0 || self.leaders.len() < parents {
            return None;
        }
        let samples = self.leaders[0].means.len();
        let past = self.evaluated.iter().filter_map(|known| Some((known, known.expected.as_ref()?)));
        let (differences, expectations): (Vec<Vec<f64>>, Vec<&Expected>) =
            past.map(|(known, expected)| (difference(&known.means, &expected.means), expected)).unzip();
        let order = telling::order(samples, &differences);
        let in_order = |of: &[f64]| order.iter().map(|&sample| of[sample]).collect::<Vec<f64>>();
        let past = differences.iter().zip(expectations);
        let past: Vec<Past> =
            past.map(|(by, expected)| Past { differences: in_order(by), variance: expected.variance }).collect();
        let fits = (1..samples).map(|seen| Ahead::after(seen, &past)).collect();
        let known = self.known();
        let expected = generation.iter().map(|candidate| {
            let expected = expected(&self.metric, candidate, known.iter().copied())?;
            Some(Expected { means: in_order(&expected.means), ..expected })
        });
        let bars = ranks.iter().map(|&(rank, confidence)| Bar { at: self.cut(rank), confidence }).collect();
        Some(Race { expected: expected.collect(), bars, fits, order })
    }

    /// What the leader of a rank has lost.
    fn cut(&self, rank: usize) -> f64 {
        average(&self.leaders[rank - 1].means)
    }

    /// Who can be asked what is expected: the latest and the best, of which one that is both comes only once, and the dropped.
    fn known(&self) -> Vec<Neighbour<'_>> {
        let is_late = |leader: &Known| self.evaluated.iter().any(|known| known.candidate == leader.candidate);
        let older = self.leaders.iter().filter(|leader| !is_late(leader));
        let measured = self.evaluated.iter().chain(older).map(|known| known.neighbour(false));
        measured.chain(self.dropped.iter().map(|known| known.neighbour(true))).collect()
    }

    /// Whether what was read from storage can have come from here.
    pub(super) fn is_sound(&self) -> bool {
        if !self.metric.is_sound() {
            return false;
        }
        let length = self.evaluated.front().map_or(0, |first| first.means.len());
        let is_sound = |means: &[f64]| means.len() == length && means.iter().all(|mean| mean.is_finite());
        self.evaluated.iter().chain(&self.leaders).chain(&self.dropped).all(|known| {
            let of_expected = known.expected.as_ref();
            is_sound(&known.means)
                && of_expected.is_none_or(|expected| {
                    is_sound(&expected.means) && expected.variance > 0.0 && expected.variance.is_finite()
                })
        })
    }
}

// === impl Known ===

impl Known {
    fn neighbour(&self, is_foretold: bool) -> Neighbour<'_> {
        Neighbour { candidate: &self.candidate, means: &self.means, is_foretold }
    }
}

// === impl Race ===

impl Race {
    /// The samples in the order in which candidates are evaluated on them, by their numbers.
    pub fn order(&self) -> &[usize] {
        &self.order
    }

    /// Judges the candidate of a slot by its mean losses on the first samples of [`Self::order`], in nats.
    ///
    /// One that is infinite or not a number on any of them is so on all, and dropped.
    pub fn verdict(&self, slot: usize, means: &[f64]) -> Verdict {
        if means.iter().any(|mean| !mean.is_finite()) {
            return Verdict::Drop { means: vec![f64::INFINITY; self.order.len()] };
        }
        match self.forecast(slot, means) {
            // Written so that a prediction that is no number drops nobody.
            Some(forecast) if self.bars.iter().any(|bar| forecast.exceeds(bar)) => {
                Verdict::Drop { means: self.by_number(means, &forecast) }
            }
            _ => Verdict::Continue,
        }
    }

    /// Mean losses on all samples by their numbers, of which the first ones of the order are known: those that are foretold
    /// lie as far from what was expected as makes the mean what is foretold.
    fn by_number(&self, known: &[f64], forecast: &Forecast<'_>) -> Vec<f64> {
        let rest = &forecast.expected[known.len()..];
        let sum = self.order.len() as f64 * forecast.predicted - known.iter().sum::<f64>();
        let off = sum / rest.len() as f64 - average(rest);
        let mut means = vec![0.0; self.order.len()];
        let foretold = rest.iter().map(|expected| expected + off);
        for (&sample, mean) in self.order.iter().zip(known.iter().copied().chain(foretold)) {
            means[sample] = mean;
        }
        means
    }

    /// What becomes of the candidate of a slot whose mean losses on all samples are known, by their numbers: after how many of
    /// them it is dropped, and what is foretold of it then; `None` where it goes all the way.
    pub fn dropped(&self, slot: usize, means: &[f64]) -> Option<(usize, Vec<f64>)> {
        let means: Vec<f64> = self.order.iter().map_while(|&sample| means.get(sample).copied()).collect();
        (1..self.order.len()).find_map(|seen| match self.verdict(slot, means.get(..seen)?) {
            Verdict::Drop { means } => Some((seen, means)),
            Verdict::Continue => None,
        })
    }

    /// What the first samples foretell of the candidate of a slot, where enough is known for that.
    fn forecast(&self, slot: usize, means: &[f64]) -> Option<Forecast<'_>> {
        let ahead = self.fits.get(means.len().checked_sub(1)?)?.as_ref()?;
        let expected = self.expected.get(slot)?.as_ref()?;
        let seen = difference(means, &expected.means);
        let predicted = average(&expected.means) + ahead.fit.predict(&seen);
        let error = ahead.fit.error(&seen, weight(ahead.floor, &seen, expected.variance));
        Some(Forecast { expected: &expected.means, predicted, error, freedom: ahead.fit.freedom() })
    }
}

// === impl Forecast ===

impl Forecast<'_> {
    /// Whether the lower end of the interval lies above a bar.
    fn exceeds(&self, bar: &Bar) -> bool {
        self.predicted - student(bar.confidence, self.freedom) * self.error > bar.at
    }
}

// === impl Ahead ===

impl Ahead {
    /// Fits the mean difference over all samples to the differences on the first `seen`.
    fn after(seen: usize, past: &[Past]) -> Option<Self> {
        let rows: Vec<&[f64]> = past.iter().map(|past| &past.differences[..seen]).collect();
        let targets: Vec<f64> = past.iter().map(|past| average(&past.differences)).collect();
        let usual = middle(rows.iter().map(|row| size(row)))? / middle(past.iter().map(|past| past.variance))?;
        let floor = (FLOOR * FLOOR * usual).clamp(f64::MIN_POSITIVE, f64::MAX);
        let weights: Vec<f64> = rows.iter().zip(past).map(|(row, past)| weight(floor, row, past.variance)).collect();
        let fit = Fit::of(&rows, &targets, &weights).filter(|fit| fit.freedom() >= MIN_FREEDOM)?;
        Some(Self { fit, floor })
    }
}

/// The weight of a candidate by its differences on the first samples and the variance of what was expected.
fn weight(floor: f64, seen: &[f64], variance: f64) -> f64 {
    1.0 / (floor * variance + size(seen))
}

/// The square of what scatter grows with: the mean difference to what was expected.
fn size(row: &[f64]) -> f64 {
    (row.iter().map(|difference| difference.abs()).sum::<f64>() / row.len() as f64).powi(2)
}

/// The upper one of the middle values.
fn middle(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
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
