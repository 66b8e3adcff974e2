//! What a job evaluates at one time: candidates in slots, each on every sample.

use super::short::{self, Kept};
use crate::scheduler::UnitKey;
use crate::search::{Outcome, Race, Score, Slope, Verdict};
use ropewalk_shared::outcome::{Loss, LossSlope, perplexity, weighted_perplexity};
use ropewalk_shared::rope::{Rescale, RescaleId};
use ropewalk_shared::sample::SampleId;
use ropewalk_shared::work::Measure;
use std::collections::HashMap;

/// Candidates under evaluation. Complete when every unit has a result or its candidate has failed.
#[derive(Debug)]
pub(super) struct Stage {
    slots: Vec<Slot>,
    by_id: HashMap<RescaleId, u32>,
    samples: HashMap<SampleId, u32>,
    /// Units without a result whose candidate has not failed.
    open: u64,
    measure: Measure,
    /// Of each sample in a candidate's score; absent where all weigh alike. Samples of short windows weigh nothing.
    weights: Option<Vec<f64>>,
    /// The rule by which candidates are dropped, where they are: then the samples of each follow one another.
    race: Option<Race>,
    /// Short windows that candidates must keep.
    kept: Vec<Kept>,
    /// Samples that count as document passes: the first ones, those of short windows left out.
    counted: usize,
}

/// What follows for a candidate from the results that it has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Raced {
    /// Nothing: it is settled, or all its units were open from the start.
    Nothing,
    /// This unit is open now.
    Next(UnitKey),
    /// The candidate was dropped.
    Dropped,
}

/// One candidate.
#[derive(Debug)]
pub(super) struct Slot {
    pub rescale: Rescale,
    pub id: RescaleId,
    /// In the order of the samples.
    losses: Vec<Option<Loss>>,
    /// In the order of the samples; empty where only losses are wanted.
    slopes: Vec<Option<LossSlope>>,
    failure: Option<String>,
    /// What is foretold of its mean losses on all samples, once it was dropped.
    dropped: Option<Vec<f64>>,
    /// Results on which a verdict was given.
    judged: usize,
    missing: u32,
}

// === impl Stage ===

impl Stage {
    /// A stage whose units are all open. Candidates that are given twice share a slot.
    pub fn new(rescales: impl IntoIterator<Item = Rescale>, samples: &[SampleId], measure: Measure) -> Self {
        let mut stage = Self {
            slots: Vec::new(),
            by_id: HashMap::new(),
            samples: samples.iter().zip(0..).map(|(sample, index)| (*sample, index)).collect(),
            open: 0,
            measure,
            weights: None,
            race: None,
            kept: Vec::new(),
            counted: samples.len(),
        };
        for rescale in rescales {
            let id = rescale.id();
            if stage.by_id.contains_key(&id) {
                continue;
            }
            stage.by_id.insert(id, stage.slots.len() as u32);
            let missing = samples.len() as u32;
            let slopes = if measure == Measure::Gradient { vec![None; samples.len()] } else { Vec::new() };
            stage.slots.push(Slot {
                rescale,
                id,
                losses: vec![None; samples.len()],
                slopes,
                failure: None,
                dropped: None,
                judged: 0,
                missing,
            });
            stage.open += u64::from(missing);
        }
        stage
    }

    /// The same with a weight for each sample, in their order.
    pub fn weighted(self, weights: Option<Vec<f64>>) -> Self {
        Self { weights, ..self }
    }

    /// The same stage, whose candidates are dropped by this rule; a rule for other samples drops nobody.
    pub fn racing(mut self, race: Option<Race>) -> Self {
        self.race = race.filter(|race| race.order().len() == self.samples.len());
        self
    }

    /// The same, of whose candidates some windows are asked to be kept.
    pub fn keeping(mut self, kept: Vec<Kept>) -> Self {
        self.counted = kept.first().map_or(self.counted, |window| window.samples.start);
        self.keep(kept);
        self
    }

    /// Replaces what is known of the windows to be kept.
    pub fn keep(&mut self, kept: Vec<Kept>) {
        self.kept = kept;
    }

    pub fn kept(&self) -> &[Kept] {
        &self.kept
    }

    /// What is wanted of each unit.
    pub fn measure(&self) -> Measure {
        self.measure
    }

    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    pub fn slot(&self, index: u32) -> Option<&Slot> {
        self.slots.get(index as usize)
    }

    /// The unit of a candidate on a sample, if this stage has it.
    pub fn unit(&self, rescale: RescaleId, sample: SampleId) -> Option<UnitKey> {
        Some(UnitKey::now(*self.by_id.get(&rescale)?, *self.samples.get(&sample)?))
    }

    /// Units that wait for a result, candidate by candidate; in a race, the next one of each.
    pub fn open_units(&self) -> impl Iterator<Item = UnitKey> + '_ {
        let at_once = if self.race.is_some() { 1 } else { usize::MAX };
        self.slots.iter().zip(0..).filter(|(slot, _)| !slot.is_settled()).flat_map(move |(slot, index)| {
            let open = self.order().filter(|&sample| slot.losses[sample].is_none());
            open.take(at_once).map(move |sample| UnitKey::now(index, sample as u32))
        })
    }

    /// The samples in the order in which a candidate is evaluated on them, by their numbers.
    fn order(&self) -> impl Iterator<Item = usize> + '_ {
        let place = |place| self.race.as_ref().map_or(place, |race| race.order()[place]);
        (0..self.samples.len()).map(place)
    }

    /// Judges a candidate by the results it has, sample by sample in the order of the race; the answer depends on nothing else.
    pub fn judge(&mut self, index: u32) -> Raced {
        let (Some(race), Some(slot)) = (&self.race, self.slots.get_mut(index as usize)) else { return Raced::Nothing };
        let means = slot.means(self.weights.as_deref(), race.order().iter().copied());
        // Also where everything is known already: the answer is the same as it would have been one by one.
        while slot.failure.is_none() && slot.dropped.is_none() && slot.judged < means.len() {
            slot.judged += 1;
            if let Verdict::Drop { means } = race.verdict(index as usize, &means[..slot.judged]) {
                slot.dropped = Some(means);
                self.open -= u64::from(slot.missing);
                return Raced::Dropped;
            }
        }
        if slot.is_settled() {
            return Raced::Nothing;
        }
        Raced::Next(UnitKey::now(index, race.order()[means.len()] as u32))
    }

    pub fn is_complete(&self) -> bool {
        self.open == 0
    }

    /// Units that are settled, and all.
    pub fn progress(&self) -> (u64, u64) {
        let all = (self.slots.len() * self.samples.len()) as u64;
        (all - self.open, all)
    }

    /// Candidates that are settled.
    pub fn settled(&self) -> u64 {
        self.slots.iter().filter(|slot| slot.is_settled()).count() as u64
    }

    /// Takes in a result; false when the unit is settled already, or a slope is wanted and missing.
    pub fn complete(&mut self, unit: UnitKey, loss: Loss, slope: Option<LossSlope>) -> bool {
        if self.measure == Measure::Gradient && slope.is_none() {
            return false;
        }
        let Some(slot) = self.slots.get_mut(unit.slot as usize) else { return false };
        let Some(place) = slot.losses.get_mut(unit.sample as usize) else { return false };
        if slot.failure.is_some() || slot.dropped.is_some() || place.is_some() {
            return false;
        }
        *place = Some(loss);
        if let Some(place) = slot.slopes.get_mut(unit.sample as usize) {
            *place = slope;
        }
        slot.missing -= 1;
        self.open -= 1;
        true
    }

    /// Gives a candidate up; false when it is settled already.
    pub fn fail(&mut self, slot: u32, reason: String) -> bool {
        let Some(slot) = self.slots.get_mut(slot as usize).filter(|slot| !slot.is_settled()) else { return false };
        self.open -= u64::from(slot.missing);
        slot.failure = Some(reason);
        true
    }

    /// What came of all candidates, in slot order.
    pub fn outcomes(&self) -> Vec<Outcome> {
        self.slots.iter().map(|slot| self.outcome(slot)).collect()
    }

    fn outcome(&self, slot: &Slot) -> Outcome {
        let cost = self.measure.cost();
        if let Some(means) = &slot.dropped {
            // What was known beyond the samples it was judged by was evaluated for something else.
            return Outcome::dropped(means.clone(), slot.judged as u64 * cost);
        }
        // Which unit of a failed candidate failed is up to the workers, and must not be seen.
        let means = slot.failure.is_none().then(|| slot.means(self.weights.as_deref(), 0..self.counted));
        Outcome {
            score: self.score(slot),
            means: means.unwrap_or_default(),
            slope: slot.slope(self.weights.as_deref()),
            passes: self.counted as u64 * cost,
        }
    }

    /// The score of a candidate: the perplexity over all samples of the stage by their weights, once all are there.
    fn score(&self, slot: &Slot) -> Score {
        if let Some(means) = &slot.dropped {
            return Score::foretold(means);
        }
        if slot.failure.is_none()
            && let Some(excess) = short::excess(&self.kept, &slot.losses).filter(|excess| *excess > 0.0)
        {
            return Score::infeasible(excess);
        }
        let losses: Option<Vec<Loss>> = slot.losses.iter().copied().collect();
        match (losses, &self.weights) {
            (Some(losses), None) if slot.failure.is_none() => Score::new(perplexity(&losses)),
            (Some(losses), Some(weights)) if slot.failure.is_none() => {
                Score::new(weighted_perplexity(&losses, weights))
            }
            _ => Score::FAILED,
        }
    }

    /// The score of a candidate whose evaluation is over.
    pub fn settled_score(&self, slot: &Slot) -> Option<Score> {
        (slot.is_settled() && self.knows_limits()).then(|| self.score(slot))
    }

    /// Whether every candidate was evaluated, and not one gave a finite loss.
    pub fn has_no_number(&self) -> bool {
        let no_number = |slot: &Slot| slot.failure.is_none() && self.score(slot).is_failed();
        !self.slots.is_empty() && self.slots.iter().all(no_number)
    }

    /// A reason for which a candidate failed, where one did.
    pub fn any_failure(&self) -> Option<&str> {
        self.slots.iter().rev().find_map(|slot| slot.failure.as_deref())
    }
}

// === impl Slot ===

impl Slot {
    fn is_settled(&self) -> bool {
        self.missing == 0 || self.failure.is_some() || self.dropped.is_some()
    }

    /// The mean losses on samples given by number, as far as they are known one after the other, each as it weighs in the
    /// score: their average over all samples is the logarithm of the score.
    fn means(&self, weights: Option<&[f64]>, samples: impl Iterator<Item = usize>) -> Vec<f64> {
        let count = self.losses.len() as f64;
        let known = samples.map_while(|sample| Some((sample, self.losses.get(sample)?.as_ref()?.mean())));
        let weighed = |(sample, mean): (usize, f64)| match weights.map(|weights| weights[sample]) {
            None => mean,
            // A sample that does not count may be as bad as it likes.
            Some(0.0) => 0.0,
            Some(weight) => mean * weight * count,
        };
        known.map(weighed).collect()
    }

    /// The derivatives of the logarithm of the score: the mean over samples of the per-sample mean loss.
    fn slope(&self, weights: Option<&[f64]>) -> Option<Slope> {
        if self.failure.is_some() || self.slopes.is_empty() {
            return None;
        }
        let pairs = self.rescale.factors.len();
        let mut mean = Slope { log_factors: vec![0.0; pairs], log_attention_factor: 0.0 };
        for (place, (loss, slope)) in self.losses.iter().zip(&self.slopes).enumerate() {
            let (loss, slope) = ((*loss)?, slope.as_ref()?);
            let weight = match weights {
                None => 1.0 / (loss.tokens as f64 * self.losses.len() as f64),
                Some(weights) => weights.get(place)? / loss.tokens as f64,
            };
            for (sum, by) in mean.log_factors.iter_mut().zip(&slope.log_factors) {
                *sum += weight * by;
            }
            mean.log_attention_factor += weight * slope.log_attention_factor;
        }
        Some(mean)
    }

    /// The losses in the order of the stage's samples.
    pub fn losses(&self) -> &[Option<Loss>] {
        &self.losses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage() -> Stage {
        let rescale = |factor| Rescale::with_factors(vec![factor]);
        Stage::new([1.0, 2.0, 1.0].map(rescale), &[SampleId::from([1; 32]), SampleId::from([2; 32])], Measure::Loss)
    }

    #[test]
    fn slopes_are_weighed_as_losses_are() {
        let mut stage = Stage::new(
            [Rescale::with_factors(vec![1.0])],
            &[SampleId::from([1; 32]), SampleId::from([2; 32])],
            Measure::Gradient,
        )
        .weighted(Some(vec![0.25, 0.75]));
        for (sample, tokens, by) in [(0, 10, 5.0), (1, 2, 8.0)] {
            let slope = LossSlope { log_factors: vec![by], log_attention_factor: -by, log_pair_attention: Vec::new() };
            let loss = Loss { nll_sum: tokens as f64, tokens };
            assert!(stage.complete(UnitKey::now(0, sample), loss, Some(slope)));
        }
        // 5 nats over 10 tokens at a quarter, 8 over 2 at three quarters.
        let slope = stage.outcomes().remove(0).slope.unwrap();
        assert_eq!((slope.log_factors, slope.log_attention_factor), (vec![3.125], -3.125));
    }

    #[test]
    fn a_stage_ends_when_every_unit_is_settled() {
        let mut stage = stage();
        assert_eq!(stage.slots().len(), 2, "a candidate given twice is evaluated once");
        let units: Vec<UnitKey> = stage.open_units().collect();
        assert_eq!(units.len(), 4);
        let loss = Loss { nll_sum: 2.0, tokens: 2 };
        assert!(stage.complete(units[0], loss, None));
        assert!(!stage.complete(units[0], loss, None));
        assert!(stage.fail(1, "no".into()));
        assert!(!stage.complete(units[3], loss, None), "a failed candidate takes no results");
        assert_eq!(stage.progress(), (3, 4));
        assert!(stage.complete(units[1], loss, None));
        assert!(stage.is_complete());
        let outcomes = stage.outcomes();
        assert_eq!(
            outcomes.iter().map(|outcome| outcome.score).collect::<Vec<_>>(),
            [Score::new(1f64.exp()), Score::FAILED]
        );
        assert_eq!(outcomes[0].means, [1.0, 1.0]);
        // The failed one counts in full.
        assert_eq!(outcomes.iter().map(|outcome| outcome.passes).collect::<Vec<_>>(), [2, 2]);
        assert!(!stage.fail(0, "late".into()));
    }
}
