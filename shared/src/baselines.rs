//! The published ways to stretch RoPE, as vectors of rescale factors.
//!
//! They are the search's seeds and what its result is compared with. None of them leaves starting tokens alone.

use crate::rope::RopeGeometry;
use serde::{Deserialize, Serialize};
use std::f64::consts::TAU;
use std::fmt;

/// A published set of rescale factors, a function of the model's geometry and the extension ratio.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Baseline {
    /// Position interpolation: every factor is the extension ratio.
    Pi,
    /// NTK-aware: a larger base, so that factors grow from 1 to the ratio geometrically.
    Ntk,
    /// YaRN as its paper defines it: frequencies are blended between kept and interpolated.
    Yarn,
    /// YaRN as the LongRoPE authors seed their search: the factors themselves are blended.
    YarnFactors,
}

/// Rotations within the original window that bound YaRN's ramp.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct YarnBounds {
    /// Pairs that turn more often than this keep their frequency.
    pub beta_fast: f64,
    /// Pairs that turn less often than this are interpolated in full.
    pub beta_slow: f64,
    /// Whether the ramp's ends are moved outward to whole pairs, as YaRN's code does by default.
    pub truncate: bool,
}

impl Default for YarnBounds {
    fn default() -> Self {
        Self { beta_fast: 32.0, beta_slow: 1.0, truncate: true }
    }
}

// === impl Baseline ===

impl Baseline {
    /// All of them, in the order in which tables list them.
    pub const ALL: [Self; 4] = [Self::Pi, Self::Ntk, Self::Yarn, Self::YarnFactors];

    /// One factor per rotary pair for extension ratio `ratio` of a model with `original_length` tokens.
    pub fn factors(self, geometry: &RopeGeometry, original_length: u32, ratio: f64) -> Vec<f64> {
        let keep = || yarn_keep(geometry, original_length, YarnBounds::default());
        match self {
            Self::Pi => vec![ratio; geometry.pairs()],
            Self::Ntk => ntk(geometry, ratio),
            Self::Yarn => keep().iter().map(|keep| 1.0 / (keep + (1.0 - keep) / ratio)).collect(),
            Self::YarnFactors => keep().iter().map(|keep| ratio * (1.0 - keep) + keep).collect(),
        }
    }

    /// The name used in options, tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pi => "pi",
            Self::Ntk => "ntk",
            Self::Yarn => "yarn",
            Self::YarnFactors => "yarn-factors",
        }
    }
}

impl fmt::Display for Baseline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// `theta' = theta * s^(d/(d-2))`, hence `lambda_i = s^(2i/(d-2))`.
///
/// With a single pair the formula has no value; that pair is then interpolated.
fn ntk(geometry: &RopeGeometry, ratio: f64) -> Vec<f64> {
    let last = geometry.pairs().saturating_sub(1);
    if last == 0 {
        return vec![ratio; geometry.pairs()];
    }
    (0..geometry.pairs()).map(|i| ratio.powf(i as f64 / last as f64)).collect()
}

/// The pairs between which YaRN's ramp lies: up to the first one frequencies are kept, from the second on interpolated.
///
/// `dim(r) = d ln(L / 2 pi r) / (2 ln theta)` is the pair that turns `r` times within the original window.
pub fn yarn_ramp(geometry: &RopeGeometry, original_length: u32, bounds: YarnBounds) -> (f64, f64) {
    let d = geometry.rotary_dim as f64;
    let pair_turning =
        |rotations: f64| d * (f64::from(original_length) / (TAU * rotations)).ln() / (2.0 * geometry.theta.ln());
    let (mut low, mut high) = (pair_turning(bounds.beta_fast), pair_turning(bounds.beta_slow));
    if bounds.truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(d - 1.0));
    if low == high {
        high += 0.001;
    }
    (low, high)
}

/// How much of its own frequency each pair keeps under YaRN: 1 for fast pairs, 0 for slow ones, a [ramp](yarn_ramp)
/// between.
pub fn yarn_keep(geometry: &RopeGeometry, original_length: u32, bounds: YarnBounds) -> Vec<f64> {
    let (low, high) = yarn_ramp(geometry, original_length, bounds);
    (0..geometry.pairs()).map(|i| 1.0 - ((i as f64 - low) / (high - low)).clamp(0.0, 1.0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn baselines_are_monotone_and_stay_between_one_and_the_ratio(
            pairs in 1usize..=128,
            theta in 1_000.0f64..1e7,
            original in 128u32..200_000,
            ratio in 1.0f64..512.0,
        ) {
            let geometry = RopeGeometry { head_dim: 2 * pairs, rotary_dim: 2 * pairs, theta };
            for baseline in Baseline::ALL {
                let factors = baseline.factors(&geometry, original, ratio);
                prop_assert_eq!(factors.len(), pairs);
                prop_assert!(factors.is_sorted(), "{}: {:?}", baseline, factors);
                prop_assert!(factors.iter().all(|f| (1.0 - 1e-12..=ratio * (1.0 + 1e-12)).contains(f)));
            }
        }
    }
}
