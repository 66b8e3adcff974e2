//! How far candidates are from one another, in operations that IEEE 754 rounds exactly.

use ropewalk_shared::candidate::{ATTENTION_STEP, Candidate};
use ropewalk_shared::rope::RopeGeometry;
use serde::{Deserialize, Serialize};

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
        self.distance_below(a, b, f64::INFINITY).unwrap_or(f64::INFINITY)
    }

    /// The same where it is less than a limit: of those far away, most of the work is spared.
    pub fn distance_below(&self, a: &Candidate, b: &Candidate, limit: f64) -> Option<f64> {
        let mut factors = 0.0;
        for (pair, (&a, &b)) in a.factors.iter().zip(&b.factors).enumerate() {
            factors += self.turns.get(pair).map_or(1.0, |&turns| f64::from(turns)) * share(a, b).powi(2);
            if factors >= limit {
                return None;
            }
        }
        let start = share(a.start_tokens.saturating_add(1), b.start_tokens.saturating_add(1)).powi(2);
        let attention = a.attention.zip(b.attention).map_or(0.0, |(a, b)| share(a, b).powi(2));
        // Those of pairs are 1 where there are none.
        let of_pair = |candidate: &Candidate, pair: usize| candidate.pair_attention.get(pair).copied().unwrap_or(ONE);
        let pairs = 0..a.pair_attention.len().max(b.pair_attention.len());
        let of_pairs: f64 = pairs.map(|pair| share(of_pair(a, pair), of_pair(b, pair)).powi(2)).sum();
        Some(factors + start + ATTENTION * ATTENTION * (attention + of_pairs)).filter(|distance| *distance < limit)
    }
}

/// The difference of two numbers as a share of their mean; 0 for two zeros.
fn share(a: u32, b: u32) -> f64 {
    if a == b { 0.0 } else { 2.0 * (f64::from(a) - f64::from(b)) / (f64::from(a) + f64::from(b)) }
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
        assert_eq!(alike.distance_below(&a, &candidate([300, 100], 2), 3.1), Some(3.0));
        // Too far by all, or already by a factor.
        assert_eq!([3.0, 0.5].map(|limit| alike.distance_below(&a, &candidate([300, 100], 2), limit)), [None; 2]);
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
}
