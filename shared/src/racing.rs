//! Racing: whether a candidate is dropped before it was evaluated on every sample.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// When a candidate is dropped. A candidate counts as hopeless by its own losses so far, compared with those of
/// candidates that were evaluated in full on the same samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Racing {
    /// Never: every candidate is evaluated on every sample. What a job means that says nothing.
    #[default]
    Off,
    /// Once it will not become a parent, at a confidence of 99.9 % each time it is judged.
    Safe,
    /// Once it will not become a parent, at a confidence of 95 %, or lies five standard errors from the best of all: it can
    /// still be a parent, by what is foretold of it.
    Fast,
}

/// A text that names none of them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no way of racing: give off, safe or fast")]
pub struct InvalidRacing(String);

// === impl Racing ===

impl Racing {
    /// Whether nothing is ever dropped.
    pub fn is_off(&self) -> bool {
        *self == Self::Off
    }

    /// The name on the command line and in job files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Safe => "safe",
            Self::Fast => "fast",
        }
    }
}

impl fmt::Display for Racing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Racing {
    type Err = InvalidRacing;
    fn from_str(text: &str) -> Result<Self, InvalidRacing> {
        let known = [Self::Off, Self::Safe, Self::Fast].into_iter().find(|racing| racing.name() == text);
        known.ok_or_else(|| InvalidRacing(text.chars().take(80).collect()))
    }
}
