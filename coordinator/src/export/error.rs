//! What stands in the way of an export or an import.

use super::Format;
use ropewalk_shared::factor_file::FactorFileError;
use ropewalk_shared::model_description::ConfigError;
use ropewalk_shared::rope::InvalidRescale;
use std::io;
use std::path::PathBuf;

/// Factors that cannot be exported as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// A format that has no place for starting tokens.
    #[error(
        "the factors leave {start_tokens} starting tokens unscaled, which no engine can do and only format json can say; \
         export with --drop-start-tokens, which says what they are worth where that was measured, or search with \
         --start-tokens 0"
    )]
    StartTokens {
        /// How many.
        start_tokens: u32,
        /// The format asked for.
        format: Format,
    },
    /// A format that has one attention factor for all rotary pairs.
    #[error(
        "the factors have attention factors of single rotary pairs, which format {format} has no place for{cost}; write a \
         whole model with --apply MODEL --out DIR, which folds them into its query and key weights, or take \
         \"pair_attention\" out of the factor file to do without them"
    )]
    PairAttention {
        /// The format asked for.
        format: Format,
        /// What doing without them costs, where it was measured.
        cost: String,
    },
    /// Sets of a table with other attention factors of pairs.
    #[error(
        "the set of factors from {from_length} tokens has other attention factors of single rotary pairs than the last one, \
         and weights into which they are folded have one for all lengths; choose one set with --window LENGTH"
    )]
    PairAttentionDiffers {
        /// Where the set begins, in tokens.
        from_length: u32,
    },
    /// A format that holds one set of factors.
    #[error(
        "the factor file holds {count} sets of factors, the first from {first} tokens and the last from {last}, and format \
         {format} holds one; choose with --window LENGTH, or export all with --format json"
    )]
    ManyWindows {
        /// How many.
        count: usize,
        /// Where the first begins, in tokens.
        first: u32,
        /// Where the last begins, in tokens.
        last: u32,
        /// The format asked for.
        format: Format,
    },
    /// The set for short inputs leaves starting tokens alone.
    #[error(
        "the factors for inputs up to {original} tokens leave {start_tokens} starting tokens unscaled, which no engine can \
         do; search that window with --start-tokens 0, or export other short factors with --short same|ones|FILE"
    )]
    ShortStartTokens {
        /// How many.
        start_tokens: u32,
        /// The model's original length.
        original: u32,
    },
    /// The model's configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Numbers that the model cannot be run with.
    #[error(transparent)]
    Factors(#[from] InvalidRescale),
    /// The same, of the short set.
    #[error("short factors: {0}")]
    Short(#[source] InvalidRescale),
    /// The factors were searched for another geometry.
    #[error("the factors were searched with {field} {searched}, this model has {model}: they belong to another model")]
    OtherModel {
        /// The name in config.json.
        field: &'static str,
        /// Value of the factor file.
        searched: String,
        /// Value of the model.
        model: String,
    },
    /// The file has no target length and none was given.
    #[error("the factors come without a target length; give --target-length")]
    NoTargetLength,
    /// Two target lengths.
    #[error(
        "the factors were searched for {stated} tokens, and the target length given is {given}; leave out --target-length, or \
         take factors for that length"
    )]
    OtherTargetLength {
        /// In the file.
        stated: u32,
        /// Beside it.
        given: u32,
    },
    /// Nothing is extended.
    #[error("the target length {target} is not above the original length {original}")]
    NotExtended {
        /// M.
        target: u32,
        /// O.
        original: u32,
    },
    /// Layers that rotate differently.
    #[error("config.json has one RoPE dictionary for each layer type; such models are not supported")]
    PerLayerType,
    /// Phi's configuration has no place for the attention factor.
    #[error(
        "attention factor {attention_factor} is not the one Phi models compute themselves ({computed}), and their \
         configuration has no key for it; search with --attention-factor longrope, or export with --hf5-only for \
         transformers 5 alone"
    )]
    PhiAttentionFactor {
        /// Of the factors.
        attention_factor: f64,
        /// What every engine computes for Phi.
        computed: f64,
    },
    /// JSON cannot be written.
    #[error("the export cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Factors that cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadFactorsError {
    /// The file is not readable.
    #[error("cannot read factors from {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not usable.
    #[error("{}: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: InvalidFactors,
    },
}

/// Why a text does not hold factors.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidFactors {
    /// A factor file that is none.
    #[error(transparent)]
    FactorFile(#[from] FactorFileError),
    /// Numbers that the model cannot be run with.
    #[error(transparent)]
    Rescale(#[from] InvalidRescale),
    /// Not UTF-8.
    #[error("not a text file")]
    NotText,
    /// Nothing in it.
    #[error("the file is empty; it needs one factor per rotary pair")]
    Empty,
    /// Something that is no number.
    #[error("line {line}: {text:?} is no number")]
    NotANumber {
        /// From 1.
        line: usize,
        /// What stands there, shortened.
        text: String,
    },
    /// Rows of different length.
    #[error("line {line} has {got} numbers, the lines before have {expected}")]
    Ragged {
        /// From 1.
        line: usize,
        /// Its numbers.
        got: usize,
        /// Those of the first line.
        expected: usize,
    },
    /// Layers with factors of their own.
    #[error(
        "line {line} differs from the first: factors that differ from layer to layer run in no engine and are not searched"
    )]
    LayersDiffer {
        /// From 1.
        line: usize,
    },
    /// The form that some programs write, with more than factors in it.
    #[error(
        "{got} numbers, the model needs {pairs}: the leading {extra} look like {meaning}; remove them, so that one factor \
         per rotary pair is left"
    )]
    Leading {
        /// Numbers found.
        got: usize,
        /// Rotary pairs of the model.
        pairs: usize,
        /// The numbers that are too many.
        extra: String,
        /// What programs that write such files put there.
        meaning: &'static str,
    },
}
