//! Windows that a search must keep: how much worse a candidate may be on short documents than the model as shipped.

use crate::sample::SampleId;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A short window, and by how much its perplexity may rise.
///
/// A candidate whose mean loss on these samples exceeds that of the model as shipped by more than
/// `ln(1 + percent / 100)` is infeasible (LongRoPE2 keeps the original window in the same spirit by mixed training).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShortWindow {
    /// The length of its documents, in tokens.
    pub length: u32,
    /// Percent by which the perplexity may rise, from 0.
    pub percent: f64,
    /// Samples of that length; none until documents were drawn.
    pub samples: Vec<SampleId>,
    /// Samples of that length from documents held out: the final report measures there whether the window was kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held_out: Vec<SampleId>,
}

/// A text that states no limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no limit on a short window: give its length in tokens and the percent by which its perplexity may rise, as in \
     4096:2"
)]
pub struct InvalidShortWindow(String);

// === impl ShortWindow ===

impl ShortWindow {
    /// How far the mean loss may lie above that of the model as shipped, in nats a token.
    pub fn slack(&self) -> f64 {
        (self.percent / 100.0).ln_1p()
    }
}

impl fmt::Display for ShortWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.length, self.percent)
    }
}

impl FromStr for ShortWindow {
    type Err = InvalidShortWindow;
    fn from_str(text: &str) -> Result<Self, InvalidShortWindow> {
        let read = || {
            let (length, percent) = text.split_once(':')?;
            let percent = percent.parse().ok().filter(|percent: &f64| percent.is_finite() && *percent >= 0.0)?;
            Some(Self { length: length.parse().ok()?, percent, samples: Vec::new(), held_out: Vec::new() })
        };
        read().ok_or_else(|| InvalidShortWindow(text.chars().take(40).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_they_are_written() {
        let window: ShortWindow = "4096:2.5".parse().unwrap();
        assert_eq!((window.length, window.percent, window.to_string()), (4096, 2.5, "4096:2.5".to_owned()));
        // A perplexity of 10 may become 10.25.
        assert!(((10f64.ln() + window.slack()).exp() - 10.25).abs() < 1e-12);
        for bad in ["", "4096", "4096:", ":2", "4096:-1", "4096:NaN", "4k:2%", "-1:2"] {
            assert!(bad.parse::<ShortWindow>().is_err(), "{bad:?}");
        }
    }
}
