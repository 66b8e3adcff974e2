//! The attention factor: what cosine and sine are multiplied by.
//!
//! Longer contexts flatten attention; a factor above 1 sharpens it again (rotated logits grow by its square). The
//! factor is not in the LongRoPE paper: the authors' code applies [`AttentionFactorPolicy::LongRope`] while searching.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// How the attention factor follows from the extension ratio `s` and the original length `L`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum AttentionFactorPolicy {
    /// Always 1.
    None,
    /// `sqrt(1 + ln s / ln L)`, the authors' policy (also called `su`).
    #[default]
    LongRope,
    /// `0.1 ln s + 1`, YaRN's policy.
    Yarn,
    /// Searched together with the rescale factors.
    Search,
    /// This number.
    Fixed(f64),
}

/// A text that names no policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no attention factor: give none, longrope, yarn, search or a number greater than 0")]
pub struct InvalidPolicy(String);

impl AttentionFactorPolicy {
    /// The factor for extension ratio `ratio` of a model with `original_length` tokens; 1 when nothing is extended.
    pub fn value(self, ratio: f64, original_length: u32) -> f64 {
        match self {
            Self::Fixed(value) => value,
            Self::None => 1.0,
            _ if ratio <= 1.0 => 1.0,
            // Searched factors start from the authors' policy.
            Self::LongRope | Self::Search => (1.0 + ratio.ln() / f64::from(original_length).ln()).sqrt(),
            Self::Yarn => 0.1 * ratio.ln() + 1.0,
        }
    }
}

// === conversions ===

impl FromStr for AttentionFactorPolicy {
    type Err = InvalidPolicy;
    fn from_str(text: &str) -> Result<Self, InvalidPolicy> {
        match text {
            "none" => Ok(Self::None),
            "longrope" | "su" => Ok(Self::LongRope),
            "yarn" => Ok(Self::Yarn),
            "search" => Ok(Self::Search),
            _ => match text.parse::<f64>() {
                Ok(value) if value.is_finite() && value > 0.0 => Ok(Self::Fixed(value)),
                _ => Err(InvalidPolicy(text.chars().take(40).collect())),
            },
        }
    }
}

impl fmt::Display for AttentionFactorPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::LongRope => f.write_str("longrope"),
            Self::Yarn => f.write_str("yarn"),
            Self::Search => f.write_str("search"),
            Self::Fixed(value) => write!(f, "{value}"),
        }
    }
}

impl TryFrom<String> for AttentionFactorPolicy {
    type Error = InvalidPolicy;
    fn try_from(text: String) -> Result<Self, InvalidPolicy> {
        text.parse()
    }
}

impl From<AttentionFactorPolicy> for String {
    fn from(policy: AttentionFactorPolicy) -> String {
        policy.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_survive_their_text() {
        for policy in [
            AttentionFactorPolicy::None,
            AttentionFactorPolicy::LongRope,
            AttentionFactorPolicy::Yarn,
            AttentionFactorPolicy::Search,
            AttentionFactorPolicy::Fixed(1.173),
        ] {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        for text in ["", "0", "-1", "nan", "inf", "LongRoPE2"] {
            assert!(text.parse::<AttentionFactorPolicy>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_window_that_is_not_extended_keeps_its_attention() {
        for policy in [AttentionFactorPolicy::LongRope, AttentionFactorPolicy::Yarn, AttentionFactorPolicy::None] {
            assert_eq!(policy.value(1.0, 4096), 1.0);
            assert_eq!(policy.value(0.5, 4096), 1.0);
        }
    }
}
