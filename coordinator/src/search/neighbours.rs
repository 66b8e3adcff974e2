//! What is expected of a candidate before it is evaluated, from those evaluated that are nearest to it.
//!
//! Most candidates differ from one that is known by a few factors. What that one lost on each sample says more about
//! them than what all parents lost on average: children of a parent that trades one document for another do so too.
//! Only operations that IEEE 754 rounds exactly are used, so that every platform expects the same.

use ropewalk_shared::candidate::{ATTENTION_STEP, Candidate};
use ropewalk_shared::rope::RopeGeometry;
use serde::{Deserialize, Serialize};

/// So many of the nearest are asked.
const NEAREST: usize = 3;
/// Keeps a neighbour at no distance, which cannot be asked twice but in factors that do not count, from weighing all.
const NEAR: f64 = 1e-9;
/// A share of an attention factor changes a candidate as much as so many of the factor of a pair that turns once.
const ATTENTION: f64 = 5.0;
/// An attention factor of 1 in its points.
const ONE: u32 = (1.0 / ATTENTION_STEP) as u32;

/// By what candidates are near to one another.
///
/// The share by which a factor differs changes the loss the more the faster its pair turns: over the window that a model
/// was trained for, its slowest pairs hardly turn at all, whatever their factors are. So squared shares are weighed by
/// those turns. Without turns all pairs weigh alike, as they do in searches that were begun so.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Metric {
    /// Turns of each pair; in single precision, on which platforms agree.
    turns: Vec<f32>,
}

/// What a candidate is expected to lose.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Expected {
    /// Mean loss on each sample, in nats.
    pub means: Vec<f64>,
    /// By how much the neighbours differ, in nats.
    pub doubt: f64,
    /// The square of how far away they are; of what was stored without it, that of nobody in particular.
    #[serde(default = "unknown")]
    pub distance: f64,
}

fn unknown() -> f64 {
    1.0
}

// === impl Metric ===

impl Metric {
    /// That of a model with a window of `original_length` tokens.
    pub fn of(geometry: &RopeGeometry, original_length: u32) -> Self {
        let turns = |pair| geometry.turns(pair, original_length) as f32;
        Self { turns: (0..geometry.pairs()).map(turns).collect() }
    }

    /// Whether what was read from storage can have come from here.
    pub fn is_sound(&self) -> bool {
        self.turns.iter().all(|turns| turns.is_finite() && *turns >= 0.0)
    }

    /// The square of the distance of two candidates: of the shares by which their factors differ, weighed and added up.
    /// Numbers of starting tokens count as the factor of a pair that turns once.
    pub fn distance(&self, a: &Candidate, b: &Candidate) -> f64 {
        let weight = |pair: usize| self.turns.get(pair).map_or(1.0, |&turns| f64::from(turns));
        let factors = a.factors.iter().zip(&b.factors).enumerate();
        let factors: f64 = factors.map(|(pair, (&a, &b))| weight(pair) * share(a, b).powi(2)).sum();
        let start = share(a.start_tokens.saturating_add(1), b.start_tokens.saturating_add(1)).powi(2);
        let attention = a.attention.zip(b.attention).map_or(0.0, |(a, b)| share(a, b).powi(2));
        // Those of pairs are 1 where there are none.
        let of_pair = |candidate: &Candidate, pair: usize| candidate.pair_attention.get(pair).copied().unwrap_or(ONE);
        let pairs = 0..a.pair_attention.len().max(b.pair_attention.len());
        let of_pairs: f64 = pairs.map(|pair| share(of_pair(a, pair), of_pair(b, pair)).powi(2)).sum();
        factors + start + ATTENTION * ATTENTION * (attention + of_pairs)
    }

    /// What is expected of a candidate among known ones with their mean losses on the same samples: the mean of the
    /// nearest, weighed by the inverse square of their distance. `None` where nobody is known.
    pub fn expected<'a>(
        &self,
        candidate: &Candidate,
        known: impl Iterator<Item = (&'a Candidate, &'a [f64])>,
    ) -> Option<Expected> {
        let mut nearest: Vec<(f64, &[f64])> = Vec::with_capacity(NEAREST + 1);
        for (other, means) in known {
            let distance = self.distance(candidate, other);
            let place = nearest.partition_point(|(nearer, _)| *nearer <= distance);
            nearest.insert(place, (distance, means));
            nearest.truncate(NEAREST);
        }
        let weights: Vec<f64> = nearest.iter().map(|(distance, _)| 1.0 / (distance + NEAR)).collect();
        let total: f64 = weights.iter().sum();
        let samples = nearest.first()?.1.len();
        let weighed = |value: &dyn Fn(&[f64]) -> f64| {
            let sum: f64 = nearest.iter().zip(&weights).map(|((_, means), weight)| weight * value(means)).sum();
            sum / total
        };
        let means: Vec<f64> = (0..samples).map(|sample| weighed(&|means| means[sample])).collect();
        let middle = average(&means);
        let doubt = weighed(&|means| (average(means) - middle).powi(2)).sqrt();
        Some(Expected { means, doubt, distance: weights.len() as f64 / total })
    }
}

/// The difference of two numbers as a share of their mean; 0 for two zeros.
fn share(a: u32, b: u32) -> f64 {
    if a == b { 0.0 } else { 2.0 * (f64::from(a) - f64::from(b)) / (f64::from(a) + f64::from(b)) }
}

/// The mean of mean losses.
pub fn average(means: &[f64]) -> f64 {
    means.iter().sum::<f64>() / means.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(factors: [u32; 2], start_tokens: u32) -> Candidate {
        Candidate { factors: factors.to_vec(), start_tokens, attention: None, pair_attention: Vec::new() }
    }

    #[test]
    fn distances_are_shares() {
        let (alike, a) = (Metric::default(), candidate([100, 300], 0));
        assert_eq!(alike.distance(&a, &a), 0.0);
        // 2 (300 - 100) / 400 = 1 for either pair; from 0 starting tokens to 2: 2 (3 - 1) / 4 = 1.
        assert_eq!(alike.distance(&a, &candidate([300, 100], 2)), 3.0);
        let attentive = |point| Candidate { attention: Some(point), pair_attention: vec![1000, point], ..a.clone() };
        assert_eq!(alike.distance(&attentive(1000), &attentive(3000)), 50.0);
        let even = Candidate { pair_attention: vec![], ..attentive(1000) };
        assert_eq!(alike.distance(&attentive(1000), &even), 0.0);
    }

    /// A pair that turns once weighs 1; over 100 tokens one of a radian per token turns 100 / 2 pi times.
    #[test]
    fn fast_pairs_tell_more() {
        let geometry = RopeGeometry { head_dim: 4, rotary_dim: 4, theta: 10_000.0 };
        let metric = Metric::of(&geometry, 100);
        let a = candidate([100, 100], 0);
        let [fast, slow] = [[300, 100], [100, 300]].map(|factors| metric.distance(&a, &candidate(factors, 0)));
        assert!((fast - 100.0 / std::f64::consts::TAU).abs() < 1e-5, "{fast}");
        assert!((fast / slow - 100.0).abs() < 1e-4, "the second pair turns a hundred times slower: {slow}");
        assert_eq!(metric.distance(&a, &candidate([100, 100], 2)), 1.0);
        assert!(metric.is_sound());
        let read = serde_json::from_str::<Metric>(&serde_json::to_string(&metric).unwrap()).unwrap();
        assert_eq!(read, metric);
        assert!(!Metric { turns: vec![1.0, f32::NAN] }.is_sound());
    }

    #[test]
    fn the_nearest_are_asked_by_their_distance() {
        let known = [
            (candidate([100, 100], 0), vec![1.0, 3.0]),
            (candidate([100, 300], 0), vec![2.0, 2.0]),
            (candidate([100, 300], 2), vec![4.0, 2.0]),
            (candidate([900, 900], 256), vec![100.0, 100.0]),
        ];
        let alike = Metric::default();
        let all = || known.iter().map(|(candidate, means)| (candidate, means.as_slice()));
        let same = alike.expected(&known[0].0, all()).unwrap();
        assert!((same.means[0] - 1.0).abs() < 1e-6 && (same.means[1] - 3.0).abs() < 1e-6, "{same:?}");
        // Squares of distances 1, 2 and 3; the fourth is too far away.
        let between = alike.expected(&candidate([300, 100], 0), all()).unwrap();
        let squares = known.each_ref().map(|(other, _)| alike.distance(&candidate([300, 100], 0), other));
        assert_eq!(squares[..3], [1.0, 2.0, 3.0]);
        let by_hand = |values: [f64; 3]| (values[0] + values[1] / 2.0 + values[2] / 3.0) / (1.0 + 0.5 + 1.0 / 3.0);
        assert!((between.means[0] - by_hand([1.0, 2.0, 4.0])).abs() < 1e-6, "{between:?}");
        assert!((between.means[1] - by_hand([3.0, 2.0, 2.0])).abs() < 1e-6, "{between:?}");
        let middle = by_hand([2.0, 2.0, 3.0]);
        assert!((between.distance - 3.0 / (1.0 + 0.5 + 1.0 / 3.0)).abs() < 1e-6, "{between:?}");
        let doubt = by_hand([2.0f64, 2.0, 3.0].map(|value| (value - middle).powi(2))).sqrt();
        assert!((between.doubt - doubt).abs() < 1e-6, "{between:?}");
        assert_eq!(alike.expected(&known[0].0, std::iter::empty()), None);
    }
}
