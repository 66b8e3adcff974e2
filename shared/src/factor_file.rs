//! The factor file: what a search hands over, `ropewalk.factors/v1`.

mod windows;

pub use windows::{FactorWindow, InvalidWindows, MAX_WINDOWS};

use crate::fingerprint::Fingerprint;
use crate::job::StrategyKind;
use crate::outcome::non_finite;
use crate::rope::{InvalidRescale, Rescale, RopeGeometry};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The schema that this version reads and writes.
pub const SCHEMA: &str = "ropewalk.factors/v1";
/// Largest factor file read, in bytes.
pub const MAX_BYTES: usize = 4 << 20;

/// Under this name a file's `baselines` hold the searched factors themselves, with no starting tokens left alone: what
/// they are worth in engines that cannot do so.
pub const WITHOUT_START_TOKENS: &str = "without-start-tokens";
/// Under this name a file's `baselines` hold the searched factors with the one attention factor for all pairs: what they are
/// worth where pairs have none of their own.
pub const WITHOUT_PAIR_ATTENTION: &str = "without-pair-attention";

/// Searched factors with where they come from and what they are worth.
///
/// A file with `rescale_factors`, `start_tokens`, `attention_factor` and `pair_attention` alone is accepted too; the rest is
/// then absent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FactorFile {
    /// [`SCHEMA`].
    #[serde(default = "schema")]
    pub schema: String,
    /// The model the factors belong to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<FactorModel>,
    /// The window the model was trained with, in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original_length: Option<u32>,
    /// The window the factors are for, in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_length: Option<u32>,
    /// `target_length / original_length`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extension_ratio: Option<f64>,
    /// One factor per rotary pair, relative to the plain base.
    pub rescale_factors: Vec<f64>,
    /// Positions below this one keep the original angles.
    #[serde(default)]
    pub start_tokens: u32,
    /// Multiplies cosine and sine.
    #[serde(default = "one")]
    pub attention_factor: f64,
    /// Multiplies cosine and sine of each pair on top of that; empty: 1 for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pair_attention: Vec<f64>,
    /// One set for each range of lengths, the shortest first; the factors above are those of the last. Empty: no table.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<FactorWindow>,
    /// What was minimised, and what was reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objective: Option<Objective>,
    /// The same measure for the published methods, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub baselines: BTreeMap<String, Measured>,
    /// How the factors were found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<SearchRecord>,
    /// The program that wrote the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
}

/// The model that factors belong to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FactorModel {
    /// Its name.
    pub name: String,
    /// `model_type` of its config.json.
    pub model_type: String,
    /// Digest of its configuration and weights.
    pub fingerprint: Fingerprint,
    /// Head dimension, rotated dimensions and base.
    #[serde(flatten)]
    pub geometry: FactorGeometry,
}

/// [`RopeGeometry`] under the names of config.json.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct FactorGeometry {
    /// Dimensions of one attention head.
    pub head_dim: usize,
    /// How many of them are rotated.
    pub rotary_dim: usize,
    /// The base.
    pub rope_theta: f64,
}

/// What was minimised, and what was reached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Objective {
    /// `perplexity`; `needle` for that of answers, `mixture:W` for a mean of both with weight W of the answers.
    pub kind: String,
    /// On the samples of the search.
    #[serde(with = "non_finite")]
    pub value: f64,
    /// Number of those samples.
    pub samples: usize,
    /// On samples the search never saw; absent when there were none.
    pub held_out: Option<f64>,
    /// Perplexity of held-out documents, where something else was minimised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out_text: Option<f64>,
    /// Short windows that had to be kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept_short: Vec<KeptShort>,
}

/// What became of a short window that had to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeptShort {
    /// Its length, in tokens.
    pub length: u32,
    /// Percent by which its perplexity was allowed to rise.
    pub percent: f64,
    /// Perplexity of the factors there.
    #[serde(with = "non_finite")]
    pub value: f64,
    /// Perplexity of the model as shipped.
    #[serde(with = "non_finite")]
    pub shipped: f64,
    /// Both on held-out documents; absent where there are none, or one could not be evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out: Option<KeptHeldOut>,
}

/// A short window on held-out documents.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeptHeldOut {
    /// Perplexity of the factors there.
    pub value: f64,
    /// Perplexity of the model as shipped.
    pub shipped: f64,
}

/// A baseline under the same measure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// On the samples of the search.
    #[serde(with = "non_finite")]
    pub value: f64,
    /// On samples the search never saw.
    pub held_out: Option<f64>,
    /// Attention factor it was measured with.
    #[serde(default = "one")]
    pub attention_factor: f64,
    /// Perplexity of held-out documents, where something else was minimised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out_text: Option<f64>,
}

/// How factors were found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SearchRecord {
    /// Name of the strategy, which for the paper's is not that of the command line ([`SearchRecord::strategy_name`]).
    pub strategy: String,
    /// Its seed.
    pub seed: u64,
    /// Generations closed after the first population.
    pub generations: u32,
    /// Candidates evaluated.
    pub evaluations: u64,
    /// Document passes: candidates times samples.
    pub passes: u64,
    /// The job.
    pub job: String,
}

/// As factor files have called the paper's search from the first.
const PAPER_STRATEGY: &str = "evolution";

// === impl SearchRecord ===

impl SearchRecord {
    /// What files call a strategy.
    pub fn strategy_in_files(kind: StrategyKind) -> &'static str {
        if kind == StrategyKind::LongRope { PAPER_STRATEGY } else { kind.name() }
    }

    /// What the command line calls the strategy of this record.
    pub fn strategy_name(&self) -> &str {
        if self.strategy == PAPER_STRATEGY { StrategyKind::LongRope.name() } else { &self.strategy }
    }
}

/// A factor file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FactorFileError {
    /// Larger than any factor file.
    #[error("the file has {0} bytes, a factor file has at most {MAX_BYTES}")]
    TooLarge(usize),
    /// Not a factor file.
    #[error("not a factor file: {0}; it needs at least {{\"rescale_factors\": […]}}")]
    Syntax(#[from] serde_json::Error),
    /// Written by another version.
    #[error(
        "the file's schema is {0:?}, this version reads {SCHEMA:?}; use the version that wrote it, or keep only rescale_factors, start_tokens and attention_factor"
    )]
    Version(String),
    /// No factors at all.
    #[error("rescale_factors is an empty list: give one factor for each rotary pair of the model")]
    Empty,
    /// Numbers that cannot be applied.
    #[error(transparent)]
    Factors(#[from] InvalidRescale),
    /// A table that cannot be used.
    #[error(transparent)]
    Windows(#[from] InvalidWindows),
}

// === impl FactorFile ===

impl FactorFile {
    /// Reads and checks a factor file's text.
    ///
    /// # Errors
    /// [`FactorFileError`] when it is none, is of another version, or holds numbers no model can use.
    pub fn from_json(text: &str) -> Result<Self, FactorFileError> {
        if text.len() > MAX_BYTES {
            return Err(FactorFileError::TooLarge(text.len()));
        }
        // The version comes first: another version's fields may well not fit this one's types.
        #[derive(Deserialize)]
        struct Version {
            #[serde(default = "schema")]
            schema: String,
        }
        let Version { schema } = serde_json::from_str(text)?;
        if schema != SCHEMA {
            return Err(FactorFileError::Version(schema.chars().take(60).collect()));
        }
        let file: Self = serde_json::from_str(text)?;
        if file.rescale_factors.is_empty() {
            return Err(FactorFileError::Empty);
        }
        file.rescale().check(file.rescale_factors.len())?;
        windows::check(&file.windows, &file.rescale())?;
        Ok(file)
    }

    /// The file's text, with a line break at the end.
    ///
    /// # Errors
    /// Never for factors that were checked; JSON has no way to write others.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self).map(|text| text + "\n")
    }

    /// A file with nothing but the factors.
    pub fn from_rescale(rescale: Rescale) -> Self {
        Self {
            schema: schema(),
            model: None,
            original_length: None,
            target_length: None,
            extension_ratio: None,
            rescale_factors: rescale.factors,
            start_tokens: rescale.start_tokens,
            attention_factor: rescale.attention_factor,
            pair_attention: rescale.pair_attention,
            windows: Vec::new(),
            objective: None,
            baselines: BTreeMap::new(),
            search: None,
            created_by: None,
        }
    }

    /// The table's window that a sequence of `length` tokens lies in: the last that begins at or below it, else the
    /// first. Absent without a table.
    pub fn window_for(&self, length: u32) -> Option<&FactorWindow> {
        windows::for_length(&self.windows, length)
    }

    /// The factors for a sequence of `length` tokens: of the table's window it lies in, or the file's own without a table.
    pub fn rescale_for(&self, length: u32) -> Rescale {
        self.window_for(length).map_or_else(|| self.rescale(), |window| window.rescale.clone())
    }

    /// The file with one set only: that of the table's window `length` lies in, for the longest input that it serves. What was
    /// measured is kept with the last window's, which it belongs to.
    ///
    /// # Errors
    /// [`InvalidWindows::NoTable`] for a file without a table.
    pub fn at_window(&self, length: u32) -> Result<Self, InvalidWindows> {
        let window = self.window_for(length).ok_or(InvalidWindows::NoTable)?;
        let mut file = Self {
            rescale_factors: window.rescale.factors.clone(),
            start_tokens: window.rescale.start_tokens,
            attention_factor: window.rescale.attention_factor,
            pair_attention: window.rescale.pair_attention.clone(),
            ..self.clone()
        };
        let next = self.windows.iter().find(|next| next.from_length > window.from_length);
        if let Some(next) = next {
            let served = next.from_length - 1;
            file.target_length = Some(served);
            file.extension_ratio = self.original_length.map(|original| f64::from(served) / f64::from(original));
            (file.objective, file.search) = (None, None);
            file.baselines.clear();
        }
        file.windows.clear();
        Ok(file)
    }

    /// Makes `windows` the file's table, and the last one's factors the file's own.
    ///
    /// # Errors
    /// [`InvalidWindows`] for a table that no reader would accept.
    pub fn set_windows(&mut self, windows: Vec<FactorWindow>) -> Result<(), InvalidWindows> {
        let own = windows.last().map_or_else(|| self.rescale(), |last| last.rescale.clone());
        windows::check(&windows, &own)?;
        self.windows = windows;
        (self.rescale_factors, self.start_tokens) = (own.factors, own.start_tokens);
        (self.attention_factor, self.pair_attention) = (own.attention_factor, own.pair_attention);
        Ok(())
    }

    /// The factors, ready to be evaluated.
    pub fn rescale(&self) -> Rescale {
        Rescale {
            factors: self.rescale_factors.clone(),
            start_tokens: self.start_tokens,
            attention_factor: self.attention_factor,
            pair_attention: self.pair_attention.clone(),
        }
    }
}

impl From<RopeGeometry> for FactorGeometry {
    fn from(geometry: RopeGeometry) -> Self {
        Self { head_dim: geometry.head_dim, rotary_dim: geometry.rotary_dim, rope_theta: geometry.theta }
    }
}

fn schema() -> String {
    SCHEMA.to_owned()
}

fn one() -> f64 {
    1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_numbers_alone_are_enough() {
        let file = FactorFile::from_json(r#"{"rescale_factors": [1.0, 1.19], "start_tokens": 4}"#).unwrap();
        assert_eq!(
            file.rescale(),
            Rescale { factors: vec![1.0, 1.19], start_tokens: 4, attention_factor: 1.0, pair_attention: Vec::new() }
        );
    }

    #[test]
    fn a_file_survives_its_text() {
        let mut file = FactorFile::from_rescale(Rescale {
            factors: vec![1.0, 2.37],
            start_tokens: 0,
            attention_factor: 1.1,
            pair_attention: Vec::new(),
        });
        file.objective = Some(Objective {
            kind: "perplexity".into(),
            value: 9.37,
            samples: 5,
            held_out: None,
            held_out_text: None,
            kept_short: Vec::new(),
        });
        file.baselines.insert(
            "none".into(),
            Measured { value: f64::INFINITY, held_out: None, attention_factor: 1.0, held_out_text: None },
        );
        let text = file.to_json().unwrap();
        assert_eq!(FactorFile::from_json(&text).unwrap(), file);
    }

    #[test]
    fn a_table_survives_its_text_and_gives_a_set_for_each_length() {
        let text = r#"{"rescale_factors": [1.0, 8.0], "attention_factor": 1.2, "target_length": 4096, "windows": [
            {"from_length": 256, "rescale_factors": [1.0, 1.0]},
            {"from_length": 512, "rescale_factors": [1.0, 8.0], "start_tokens": 0, "attention_factor": 1.2}],
            "objective": {"kind": "perplexity", "value": 9.0, "samples": 5, "held_out": null}}"#;
        let file = FactorFile::from_json(text).unwrap();
        assert_eq!(FactorFile::from_json(&file.to_json().unwrap()).unwrap(), file);
        let short =
            Rescale { factors: vec![1.0, 1.0], start_tokens: 0, attention_factor: 1.0, pair_attention: Vec::new() };
        assert_eq!((file.rescale_for(511), file.rescale_for(512)), (short.clone(), file.rescale()));

        let one = file.at_window(300).unwrap();
        assert_eq!((one.rescale(), one.windows.len(), &one.objective), (short, 0, &None));
        assert_eq!((one.target_length, one.extension_ratio), (Some(511), None));
        let known = FactorFile { original_length: Some(256), extension_ratio: Some(16.0), ..file.clone() };
        assert_eq!(known.at_window(300).unwrap().extension_ratio, Some(511.0 / 256.0));
        assert_eq!(known.at_window(600).unwrap().extension_ratio, Some(16.0));
        assert_eq!(file.at_window(5000).unwrap(), FactorFile { windows: Vec::new(), ..file.clone() });
        assert_eq!(one.at_window(300), Err(InvalidWindows::NoTable));

        let mut made = FactorFile::from_rescale(Rescale::identity(2));
        made.set_windows(file.windows.clone()).unwrap();
        assert_eq!(made.rescale(), file.rescale());
        assert!(made.set_windows(file.windows.iter().rev().cloned().collect()).is_err());
        let differs = text.replacen("8.0", "7.0", 1);
        assert!(matches!(FactorFile::from_json(&differs), Err(FactorFileError::Windows(InvalidWindows::LastDiffers))));
    }

    #[test]
    fn other_versions_and_bad_numbers_are_refused() {
        let error = FactorFile::from_json(r#"{"schema": "ropewalk.factors/v9", "rescale_factors": "later"}"#);
        assert!(matches!(error, Err(FactorFileError::Version(_))), "{error:?}");
        for text in [
            r#"{"rescale_factors": []}"#,
            r#"{"rescale_factors": [1.0, 0.0]}"#,
            r#"{"rescale_factors": [-1.0]}"#,
            r#"{"rescale_factors": [1e999]}"#,
            r#"{"rescale_factors": [NaN]}"#,
            r#"{"rescale_factors": [1.0], "attention_factor": 0.0}"#,
            r#"{"rescale_factors": [1.0], "attention_factor": 1e308}"#,
            r#"{"rescale_factors": [1e-308]}"#,
            r#"{"start_tokens": 4}"#,
            "[]",
            "",
        ] {
            assert!(FactorFile::from_json(text).is_err(), "{text}");
        }
        let empty = FactorFile::from_json(r#"{"rescale_factors": []}"#).unwrap_err().to_string();
        assert!(empty.contains("empty list") && !empty.contains("needs 1"), "{empty}");
    }
}
