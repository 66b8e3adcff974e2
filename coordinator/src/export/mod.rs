//! Factors on their way out, in the forms engines load, and on their way in.
//!
//! One file a format. Every export says in its notes how it is used and where an engine would do something else than
//! what was searched.

pub mod checkpoint;
pub mod csv;
mod error;
pub mod hf;
pub mod json;
mod read;

pub use error::{ExportError, InvalidFactors, ReadFactorsError};
pub use hf::{HfOptions, ShortSet, same_model};
pub use read::{ReadFactors, parse_factors, read_factors};

use ropewalk_shared::factor_file::{FactorFile, WITHOUT_PAIR_ATTENTION, WITHOUT_START_TOKENS};
use ropewalk_shared::rope::Rescale;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A form of export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The factor file.
    Json,
    /// A patch of a Hugging Face config.json, which transformers, vLLM and SGLang read.
    Hf,
    /// One factor a line, as the LongRoPE authors' code reads them.
    Csv,
}

/// A text that names no format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no export format: give json, hf or csv")]
pub struct InvalidFormat(String);

/// An export, ready to be written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Export {
    /// The file's text.
    pub content: String,
    /// For the user: how to use it, and what to know before.
    pub notes: Vec<String>,
    /// Where the windows of a factor table begin, in tokens, whose factors this form has no place for; a note says so too.
    pub left_out_windows: Vec<u32>,
}

/// Starting tokens that were given up so that engines can run the factors, and what that costs.
///
/// No engine can leave starting tokens alone. A search measures at its end what they are worth; other files do not say it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct DroppedStartTokens {
    /// How many the search had found.
    pub start_tokens: u32,
    /// What they are worth, where it was measured.
    #[serde(flatten)]
    pub worth: Option<StartTokensWorth>,
}

/// Perplexity of the same factors with starting tokens and without.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StartTokensWorth {
    /// With them.
    pub with: f64,
    /// From the first token on.
    pub without: f64,
    /// On samples that the search never saw; otherwise on its own.
    pub held_out: bool,
}

// === impl DroppedStartTokens ===

impl DroppedStartTokens {
    /// Those of a factor file; `None` where it has none that matter.
    pub fn of(file: &FactorFile) -> Option<Self> {
        let (objective, without) = (file.objective.as_ref(), file.baselines.get(WITHOUT_START_TOKENS));
        let worth = objective.zip(without).map(|(with, without)| match with.held_out.zip(without.held_out) {
            Some((with, without)) => StartTokensWorth { with, without, held_out: true },
            None => StartTokensWorth { with: with.value, without: without.value, held_out: false },
        });
        file.rescale().has_start_tokens().then_some(Self { start_tokens: file.start_tokens, worth })
    }
}

impl fmt::Display for DroppedStartTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} starting tokens of the search are dropped: ", self.start_tokens)?;
        match self.worth {
            Some(StartTokensWorth { with, without, held_out }) => {
                let on = if held_out { "held-out perplexity" } else { "perplexity on the samples of the search" };
                write!(f, "{on} {with:.4} with them, {without:.4} as exported")
            }
            None => f.write_str("what that costs was not measured; `ropewalk eval` does it"),
        }
    }
}

// === impl Format ===

impl Format {
    /// The name used on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Hf => "hf",
            Self::Csv => "csv",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = InvalidFormat;
    fn from_str(text: &str) -> Result<Self, InvalidFormat> {
        [Self::Json, Self::Hf, Self::Csv]
            .into_iter()
            .find(|format| format.name() == text)
            .ok_or_else(|| InvalidFormat(text.chars().take(40).collect()))
    }
}

/// Refuses attention factors of single pairs in a format that has one for all.
fn refuse_pair_attention(file: &FactorFile, format: Format) -> Result<(), ExportError> {
    let own = file.rescale();
    if ![&own].into_iter().chain(file.windows.iter().map(|window| &window.rescale)).any(Rescale::has_pair_attention) {
        return Ok(());
    }
    let with = file.objective.as_ref().and_then(|objective| objective.held_out);
    let without = file.baselines.get(WITHOUT_PAIR_ATTENTION).and_then(|measured| measured.held_out);
    let cost = with.zip(without).map_or(String::new(), |(with, without)| {
        format!(" (held-out perplexity {without:.4} without them, {with:.4} with)")
    });
    Err(ExportError::PairAttention { format, cost })
}

/// Refuses starting tokens in a format that cannot carry them, unless they were dropped knowingly.
fn refuse_start_tokens(
    file: &FactorFile,
    format: Format,
    dropped: Option<&DroppedStartTokens>,
) -> Result<Option<String>, ExportError> {
    match dropped {
        Some(dropped) => Ok(Some(dropped.to_string())),
        None if file.rescale().has_start_tokens() => {
            Err(ExportError::StartTokens { start_tokens: file.start_tokens, format })
        }
        None => Ok(None),
    }
}
