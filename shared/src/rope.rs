//! Rotary position embedding and its rescaled form (LongRoPE, section 3).
//!
//! With head dimension `d` (the rotated part of it) and base `theta`, pair `i` of `d/2` turns by
//! `n * theta^(-2i/d)` at position `n`. A [`Rescale`] divides that angle by the pair's factor from position
//! `start_tokens` on, and multiplies cosine and sine by the attention factor:
//!
//! ```text
//! angle_i(n) = n / theta^(2i/d)                 n <  start_tokens
//! angle_i(n) = n / (lambda_i * theta^(2i/d))    n >= start_tokens
//! ```

use crate::digest;
use serde::{Deserialize, Serialize};
use std::f64::consts::TAU;
use std::fmt;

/// The rotary part of an attention head.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RopeGeometry {
    /// Dimensions of one attention head.
    pub head_dim: usize,
    /// How many of them are rotated (`head_dim` unless rotation is partial); even.
    pub rotary_dim: usize,
    /// The base, `rope_theta` in config.json.
    pub theta: f64,
}

/// Rescale factors ready to be evaluated, always relative to the plain base `theta`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rescale {
    /// One factor per rotary pair, the fastest pair first; within [`FACTOR_LIMITS`].
    #[serde(rename = "rescale_factors")]
    pub factors: Vec<f64>,
    /// Positions below this one keep the original angles.
    pub start_tokens: u32,
    /// Multiplies cosine and sine at every position, so rotated logits grow by its square; within [`ATTENTION_LIMITS`].
    pub attention_factor: f64,
    /// Multiplies cosine and sine of each pair on top of that (`m_i`), the fastest pair first, at every position; as many as
    /// factors, or none, which means 1 for all. Most engines have a place for the one attention factor alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pair_attention: Vec<f64>,
}

/// Smallest and largest rescale factor: far beyond every published one, and what angles are computed with stays exact.
pub const FACTOR_LIMITS: (f64, f64) = (1e-3, 1e6);

/// Smallest and largest attention factor: its square multiplies logits, and beyond no attention is left to speak of.
pub const ATTENTION_LIMITS: (f64, f64) = (1e-3, 1e3);

/// Smallest and largest [`Rescale::pair_attention`]: beyond, a pair would count for nothing or drown all others.
pub const PAIR_ATTENTION_LIMITS: (f64, f64) = (0.0625, 16.0);

/// Identity of a [`Rescale`]: equal exactly when all its numbers are.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RescaleId([u8; 16]);

/// Rescale factors that cannot be applied.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidRescale {
    /// The model has another number of rotary pairs.
    #[error("{got} rescale factors given, the model needs {expected} (one per rotary pair)")]
    Length {
        /// Factors given.
        got: usize,
        /// Rotary pairs of the model.
        expected: usize,
    },
    /// Out of bounds, infinite or NaN.
    #[error(
        "rescale factor {pair} is {value}: factors must be finite and greater than 0, from {} to {}",
        FACTOR_LIMITS.0,
        FACTOR_LIMITS.1
    )]
    Factor {
        /// Index of the pair.
        pair: usize,
        /// What was given.
        value: f64,
    },
    /// Out of bounds, infinite or NaN.
    #[error(
        "attention factor {0} is not usable: it must be finite and greater than 0, from {low} to {high}",
        low = ATTENTION_LIMITS.0,
        high = ATTENTION_LIMITS.1
    )]
    AttentionFactor(f64),
    /// Neither none nor one for each pair.
    #[error("{got} attention factors of single pairs given, the model needs {expected} (one per rotary pair) or none")]
    PairAttentionLength {
        /// Attention factors of single pairs given.
        got: usize,
        /// Rotary pairs of the model.
        expected: usize,
    },
    /// Out of bounds, infinite or NaN.
    #[error(
        "the attention factor of pair {pair} is {value}: it must lie from {} to {}",
        PAIR_ATTENTION_LIMITS.0,
        PAIR_ATTENTION_LIMITS.1
    )]
    PairAttention {
        /// Index of the pair.
        pair: usize,
        /// What was given.
        value: f64,
    },
}

// === impl RopeGeometry ===

impl RopeGeometry {
    /// Number of rotary pairs, which is the number of rescale factors.
    pub fn pairs(&self) -> usize {
        self.rotary_dim / 2
    }

    /// `theta^(-2i/d)`: radians per position of pair `i`.
    pub fn inverse_frequency(&self, pair: usize) -> f64 {
        self.theta.powf(-2.0 * pair as f64 / self.rotary_dim as f64)
    }

    /// How often pair `i` turns over a window of so many tokens, without rescaling.
    pub fn turns(&self, pair: usize, length: u32) -> f64 {
        f64::from(length) * self.inverse_frequency(pair) / TAU
    }
}

// === impl Rescale ===

impl Rescale {
    /// The original RoPE of a model with this many pairs.
    pub fn identity(pairs: usize) -> Self {
        Self::with_factors(vec![1.0; pairs])
    }

    /// These factors from position 0 on, attention factor 1.
    pub fn with_factors(factors: Vec<f64>) -> Self {
        Self { factors, start_tokens: 0, attention_factor: 1.0, pair_attention: Vec::new() }
    }

    /// Whether its starting tokens change anything: the first of them stands at position 0, which no factor moves.
    pub fn has_start_tokens(&self) -> bool {
        self.start_tokens > 1
    }

    /// Checks that a model with this many rotary pairs can be run with these numbers.
    ///
    /// # Errors
    /// [`InvalidRescale`] names the first number that is out of order.
    pub fn check(&self, pairs: usize) -> Result<(), InvalidRescale> {
        if self.factors.len() != pairs {
            return Err(InvalidRescale::Length { got: self.factors.len(), expected: pairs });
        }
        if let Some(pair) = self.factors.iter().position(|&f| !within(f, FACTOR_LIMITS)) {
            return Err(InvalidRescale::Factor { pair, value: self.factors[pair] });
        }
        if !within(self.attention_factor, ATTENTION_LIMITS) {
            return Err(InvalidRescale::AttentionFactor(self.attention_factor));
        }
        if ![0, pairs].contains(&self.pair_attention.len()) {
            return Err(InvalidRescale::PairAttentionLength { got: self.pair_attention.len(), expected: pairs });
        }
        if let Some(pair) = self.pair_attention.iter().position(|&m| !within(m, PAIR_ATTENTION_LIMITS)) {
            return Err(InvalidRescale::PairAttention { pair, value: self.pair_attention[pair] });
        }
        Ok(())
    }

    /// What cosine and sine of a pair are multiplied by: `f m_i`.
    pub fn attention_of(&self, pair: usize) -> f64 {
        self.pair_attention.get(pair).map_or(self.attention_factor, |m| self.attention_factor * m)
    }

    /// Whether pairs have attention factors of their own, which most engines have no place for.
    pub fn has_pair_attention(&self) -> bool {
        !self.pair_attention.is_empty()
    }

    /// The same with the one attention factor for all pairs.
    pub fn without_pair_attention(&self) -> Self {
        Self { pair_attention: Vec::new(), ..self.clone() }
    }

    /// The same factors for another extension ratio, as the authors rescale what a second search starts from:
    /// `1 + (lambda - 1)(s_target - 1)/(s_origin - 1)`.
    ///
    /// A pair that was left alone stays alone, and one that was interpolated in full (`lambda = s_origin`) is so again.
    /// What the attention factor has above 1 grows as YaRN's does, with the logarithm of the ratio: `1 + (a - 1) ln
    /// s_target / ln s_origin`. Starting tokens are kept. Where one of both windows is not extended (a ratio of 1 or less, or
    /// no number), there is no such formula, and everything is kept.
    #[must_use]
    pub fn for_ratio(&self, origin: f64, target: f64) -> Self {
        if [origin, target].iter().any(|ratio| !ratio.is_finite() || *ratio <= 1.0) {
            return self.clone();
        }
        let scale = (target - 1.0) / (origin - 1.0);
        let growth = target.ln() / origin.ln();
        Self {
            factors: self.factors.iter().map(|factor| 1.0 + (factor - 1.0) * scale).collect(),
            // Below 1 it would shrink to nothing.
            attention_factor: match self.attention_factor {
                above if above > 1.0 => 1.0 + (above - 1.0) * growth,
                other => other,
            },
            ..self.clone()
        }
    }

    /// A digest of every number, for storage keys and for finding what was evaluated before.
    pub fn id(&self) -> RescaleId {
        let mut hash = blake3::Hasher::new_derive_key("ropewalk rescale v1");
        hash.update(&self.start_tokens.to_le_bytes());
        hash.update(&self.attention_factor.to_bits().to_le_bytes());
        for factor in &self.factors {
            hash.update(&factor.to_bits().to_le_bytes());
        }
        // Left out where there are none, so that ids of other factors stay what they were.
        if self.has_pair_attention() {
            hash.update(b"pair attention");
            for factor in &self.pair_attention {
                hash.update(&factor.to_bits().to_le_bytes());
            }
        }
        let mut id = [0; 16];
        id.copy_from_slice(&hash.finalize().as_bytes()[..16]);
        RescaleId(id)
    }
}

/// NaN lies within no limits.
fn within(number: f64, (low, high): (f64, f64)) -> bool {
    (low..=high).contains(&number)
}

// === impl RescaleId ===

impl RescaleId {
    /// The digest.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl From<[u8; 16]> for RescaleId {
    fn from(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for RescaleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        digest::write_hex(&self.0, f)
    }
}

impl fmt::Debug for RescaleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RescaleId({self})")
    }
}

/// The angle of every pair at every position, in double precision.
///
/// Single precision is not enough to multiply positions with frequencies: at position 131,071 its cosines are off
/// by up to 4e-3.
#[derive(Clone, Debug, PartialEq)]
pub struct AngleRule {
    original: Vec<f64>,
    rescaled: Vec<f64>,
    start_tokens: u64,
    /// `f m_i` of each pair.
    attention: Vec<f64>,
}

impl AngleRule {
    /// The rule for a model under these factors.
    ///
    /// # Errors
    /// [`InvalidRescale`] when the factors do not fit the model.
    pub fn new(geometry: &RopeGeometry, rescale: &Rescale) -> Result<Self, InvalidRescale> {
        rescale.check(geometry.pairs())?;
        let original: Vec<f64> = (0..geometry.pairs()).map(|i| geometry.inverse_frequency(i)).collect();
        let rescaled = original.iter().zip(&rescale.factors).map(|(frequency, factor)| frequency / factor).collect();
        Ok(Self {
            original,
            rescaled,
            start_tokens: rescale.start_tokens.into(),
            attention: (0..geometry.pairs()).map(|pair| rescale.attention_of(pair)).collect(),
        })
    }

    /// Number of rotary pairs.
    pub fn pairs(&self) -> usize {
        self.original.len()
    }

    /// Radians by which `pair` is turned at `position`.
    pub fn angle(&self, pair: usize, position: u64) -> f64 {
        let frequencies = if position < self.start_tokens { &self.original } else { &self.rescaled };
        position as f64 * frequencies[pair]
    }

    /// Cosine and sine of the angle, each times the attention factor of the pair.
    pub fn cos_sin(&self, pair: usize, position: u64) -> (f64, f64) {
        let (sin, cos) = self.angle(pair, position).sin_cos();
        (cos * self.attention[pair], sin * self.attention[pair])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GEOMETRY: RopeGeometry = RopeGeometry { head_dim: 8, rotary_dim: 8, theta: 10_000.0 };

    #[test]
    fn starting_tokens_keep_their_angle() {
        let rescale = Rescale {
            factors: vec![1.0, 2.0, 4.0, 8.0],
            start_tokens: 3,
            attention_factor: 1.0,
            pair_attention: Vec::new(),
        };
        let rule = AngleRule::new(&GEOMETRY, &rescale).unwrap();
        // theta^(2/8) = 10 for d = 8: pair 1 turns by a tenth of a radian per position.
        assert!((rule.angle(1, 2) - 0.2).abs() < 1e-15);
        assert!((rule.angle(1, 3) - 0.15).abs() < 1e-15);
        assert!((rule.angle(3, 1000) - 0.125).abs() < 1e-15);
    }

    /// By hand: from 8 to 64 times the differences from 1 grow by 63 / 7 = 9, and ln 64 / ln 8 = 2.
    #[test]
    fn pairs_left_alone_and_pairs_interpolated_in_full_stay_so_at_another_ratio() {
        let short =
            Rescale { start_tokens: 4, attention_factor: 1.17, ..Rescale::with_factors(vec![1.0, 1.5, 8.0, 10.0]) };
        let long = short.for_ratio(8.0, 64.0);
        assert_eq!(long.factors, [1.0, 5.5, 64.0, 82.0]);
        assert!((long.attention_factor - 1.34).abs() < 1e-12 && long.start_tokens == 4);
        let back = long.for_ratio(64.0, 8.0);
        assert!((back.attention_factor - 1.17).abs() < 1e-12);
        assert!(back.factors.iter().zip(&short.factors).all(|(a, b)| (a - b).abs() < 1e-12));
    }

    #[test]
    fn factors_of_windows_that_are_not_extended_are_kept() {
        let two = Rescale { attention_factor: 0.9, ..Rescale::with_factors(vec![2.0]) };
        for (origin, target) in [(1.0, 8.0), (2.0, 1.0), (2.0, 0.5), (f64::NAN, 2.0), (2.0, f64::INFINITY)] {
            assert_eq!(two.for_ratio(origin, target), two);
        }
        assert_eq!(two.for_ratio(2.0, 8.0), Rescale { factors: vec![8.0], ..two.clone() });
    }

    #[test]
    fn factors_that_cannot_be_applied_are_named() {
        let with = |factors: Vec<f64>, attention_factor| Rescale { attention_factor, ..Rescale::with_factors(factors) };
        assert_eq!(with(vec![1.0; 3], 1.0).check(4), Err(InvalidRescale::Length { got: 3, expected: 4 }));
        for bad in [0.0, -1.0, 1e-308, 9e-4, 1.1e6, f64::INFINITY, f64::NEG_INFINITY] {
            let error = with(vec![1.0, bad], 1.0).check(2);
            assert_eq!(error, Err(InvalidRescale::Factor { pair: 1, value: bad }));
            assert!(error.unwrap_err().to_string().ends_with("from 0.001 to 1000000"));
        }
        for bad in [1e308, 1.1e3, 9e-4] {
            let error = with(vec![1.0], bad).check(1);
            assert_eq!(error, Err(InvalidRescale::AttentionFactor(bad)));
            assert!(error.unwrap_err().to_string().ends_with("from 0.001 to 1000"));
        }
        // The bounds themselves, and the largest factor that a search can be told to try.
        assert_eq!(with(vec![1e-3, 1e5, 1e6], 1e3).check(3), Ok(()));
        assert_eq!(with(vec![1.0], 1e-3).check(1), Ok(()));
        assert!(with(vec![f64::NAN], 1.0).check(1).is_err());
        assert!(with(vec![1.0], f64::NAN).check(1).is_err());
        assert!(with(vec![1.0], 0.0).check(1).is_err());
        let with = |pair_attention: &[f64]| {
            Rescale { pair_attention: pair_attention.to_vec(), ..Rescale::identity(2) }.check(2)
        };
        assert_eq!((with(&[]), with(&[0.0625, 16.0])), (Ok(()), Ok(())));
        assert_eq!(with(&[1.0]), Err(InvalidRescale::PairAttentionLength { got: 1, expected: 2 }));
        for bad in [0.0, -1.0, 0.06, 17.0, f64::INFINITY] {
            assert_eq!(with(&[1.0, bad]), Err(InvalidRescale::PairAttention { pair: 1, value: bad }));
        }
        assert!(with(&[f64::NAN, 1.0]).is_err());
    }

    #[test]
    fn attention_factors_of_pairs_multiply_cosine_and_sine() {
        let one =
            Rescale { start_tokens: 3, attention_factor: 1.25, ..Rescale::with_factors(vec![1.0, 2.0, 4.0, 8.0]) };
        let each = Rescale { pair_attention: vec![1.0, 0.5, 2.0, 1.0], ..one.clone() };
        let (one, each) = (AngleRule::new(&GEOMETRY, &one).unwrap(), AngleRule::new(&GEOMETRY, &each).unwrap());
        for position in [0, 2, 3, 777] {
            for (pair, m) in [1.0, 0.5, 2.0, 1.0].into_iter().enumerate() {
                let (cos, sin) = one.cos_sin(pair, position);
                assert_eq!(each.cos_sin(pair, position), (m * cos, m * sin));
            }
        }
    }

    #[test]
    fn the_identity_of_factors_covers_every_number() {
        let base = Rescale::with_factors(vec![1.0, 2.0]);
        let mut others = vec![base.clone(); 5];
        others[0].factors[1] = 2.0 + f64::EPSILON * 2.0;
        others[1].start_tokens = 1;
        others[2].attention_factor = 1.1;
        others[3].pair_attention = vec![1.0, 1.25];
        others[4].pair_attention = vec![1.25, 1.0];
        assert_eq!(base.id(), base.clone().id());
        let ids: std::collections::BTreeSet<RescaleId> = others.iter().map(Rescale::id).collect();
        assert!(ids.len() == 5 && !ids.contains(&base.id()));
        // What stores hold from before pairs had attention factors of their own.
        assert_eq!(base.id().to_string(), "e429384018f6c248e68e6fcedd3a74cc");
        let text = serde_json::to_string(&base).unwrap();
        assert!(!text.contains("pair_attention"), "{text}");
        for other in others {
            assert_eq!(serde_json::from_str::<Rescale>(&serde_json::to_string(&other).unwrap()).unwrap(), other);
        }
    }
}
