//! What a model's own config.json says about its window and its RoPE.
//!
//! Read from text as transformers 4 writes it (`rope_theta`, `rope_scaling` at top level) and as 5 does
//! (`rope_parameters`). Only what the search, the exports and the scheduler need stands here; the worker reads the
//! rest of the decoder from the same file.

mod shipped_scaling;

pub use shipped_scaling::ShippedScaling;

use crate::rope::{Rescale, RopeGeometry};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The base that transformers assumes where config.json names none.
const DEFAULT_THETA: f64 = 10_000.0;
/// Bounds on what a config.json may ask for, so that a hostile one cannot make anybody allocate without end.
const MAX_LENGTH: u64 = 1 << 31;
const MAX_HEAD_DIM: u64 = 1 << 14;
const MAX_SIZE: u64 = 1 << 24;

/// The part of a model's configuration that does not depend on its weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelDescription {
    /// `model_type`, for example `llama`.
    pub model_type: String,
    /// Rotary part of the attention heads.
    pub geometry: RopeGeometry,
    /// The window the model was trained with (L): `original_max_position_embeddings` where the configuration
    /// already carries a scaling, else `max_position_embeddings`.
    pub original_length: u32,
    /// Number of token ids.
    pub vocab_size: usize,
    /// Width of the hidden state.
    pub hidden_size: usize,
    /// Number of decoder layers.
    pub layers: usize,
    /// The id that begins a document, where the model has one.
    pub bos_token_id: Option<u32>,
    /// The RoPE scaling that the model was shipped with.
    pub shipped: ShippedScaling,
}

/// A config.json that cannot be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not JSON, or not an object.
    #[error("config.json is not a JSON object: {0}")]
    Syntax(String),
    /// A field is absent.
    #[error("config.json has no {0:?}, which every supported model states")]
    Missing(&'static str),
    /// A field has a value that no model can have.
    #[error("config.json: {field} is {value}, expected {expected}")]
    Value {
        /// Name of the field.
        field: String,
        /// What stands there, shortened.
        value: String,
        /// What could stand there.
        expected: String,
    },
    /// A RoPE scaling that is not known here.
    #[error("config.json: rope type {0:?} is not supported (default, linear, dynamic, llama3, yarn and longrope are)")]
    RopeType(String),
}

impl ModelDescription {
    /// Reads the text of a config.json.
    ///
    /// # Errors
    /// [`ConfigError`] names the field and what was expected of it.
    pub fn from_config_json(text: &str) -> Result<Self, ConfigError> {
        let value: Value = serde_json::from_str(text).map_err(|e| ConfigError::Syntax(e.to_string()))?;
        let config = value.as_object().ok_or_else(|| ConfigError::Syntax("it holds another JSON value".into()))?;
        Self::from_config(config)
    }

    /// Reads a parsed config.json.
    ///
    /// # Errors
    /// [`ConfigError`] names the field and what was expected of it.
    pub fn from_config(config: &Map<String, Value>) -> Result<Self, ConfigError> {
        let model_type = match config.get("model_type") {
            Some(Value::String(name)) => name.clone(),
            Some(other) => return Err(invalid("model_type", other, "a name")),
            None => return Err(ConfigError::Missing("model_type")),
        };
        let max_position = required(config, "max_position_embeddings", 2, MAX_LENGTH)? as u32;
        let geometry = geometry(config)?;
        let (shipped, original_length) = ShippedScaling::read(config, &geometry, max_position)?;
        Ok(Self {
            model_type,
            original_length,
            vocab_size: required(config, "vocab_size", 1, MAX_SIZE)? as usize,
            hidden_size: required(config, "hidden_size", 1, MAX_SIZE)? as usize,
            layers: required(config, "num_hidden_layers", 1, 1 << 12)? as usize,
            bos_token_id: optional(config, "bos_token_id", 0, MAX_SIZE)?.map(|id| id as u32),
            geometry,
            shipped,
        })
    }

    /// The model as it is shipped, run at `length` tokens: its own scaling as factors against the plain base.
    pub fn shipped_rescale(&self, length: usize) -> Rescale {
        self.shipped.rescale(&self.geometry, length)
    }
}

/// The dictionary that states the RoPE: `rope_scaling` wins over `rope_parameters`, as in transformers 5.
fn rope_dictionary(config: &Map<String, Value>) -> Result<Option<&Map<String, Value>>, ConfigError> {
    for key in ["rope_scaling", "rope_parameters"] {
        match config.get(key) {
            None | Some(Value::Null) => {}
            Some(Value::Object(dictionary)) if dictionary.is_empty() => {}
            Some(Value::Object(dictionary)) => return Ok(Some(dictionary)),
            Some(other) => return Err(invalid(key, other, "an object")),
        }
    }
    Ok(None)
}

fn geometry(config: &Map<String, Value>) -> Result<RopeGeometry, ConfigError> {
    let dictionary = rope_dictionary(config)?;
    let heads = required(config, "num_attention_heads", 1, 1 << 14)?;
    let head_dim = match optional(config, "head_dim", 2, MAX_HEAD_DIM)? {
        Some(head_dim) => head_dim,
        // The one family whose head dimension has a default of its own.
        None if config.get("model_type").and_then(Value::as_str) == Some("qwen3") => 128,
        None => required(config, "hidden_size", 1, MAX_SIZE)? / heads,
    };
    if !(2..=MAX_HEAD_DIM).contains(&head_dim) {
        let expected = format!("{heads} heads of 2 to {MAX_HEAD_DIM} dimensions");
        return Err(invalid("hidden_size", config.get("hidden_size").unwrap_or(&Value::Null), &expected));
    }
    let number = |field: &'static str| match dictionary.and_then(|d| d.get(field)).or_else(|| config.get(field)) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_f64().map(Some).ok_or_else(|| invalid(field, value, "a number")),
    };
    // A checkpoint saved by transformers 5 keeps the base in `rope_parameters` even where a patch adds `rope_scaling`.
    let nested_theta = || config.get("rope_parameters")?.get("rope_theta")?.as_f64();
    let theta = number("rope_theta")?.or_else(nested_theta).unwrap_or(DEFAULT_THETA);
    if !(theta.is_finite() && theta > 1.0) {
        return Err(invalid("rope_theta", &Value::from(theta), "a finite number above 1"));
    }
    let partial = number("partial_rotary_factor")?.unwrap_or(1.0);
    let rotary_dim = (head_dim as f64 * partial) as u64;
    if !(partial > 0.0 && partial <= 1.0) || rotary_dim < 2 || !rotary_dim.is_multiple_of(2) {
        let expected = format!("a share of head_dim {head_dim} that leaves an even number of rotated dimensions");
        return Err(invalid("partial_rotary_factor", &Value::from(partial), &expected));
    }
    Ok(RopeGeometry { head_dim: head_dim as usize, rotary_dim: rotary_dim as usize, theta })
}

fn optional(config: &Map<String, Value>, field: &'static str, min: u64, max: u64) -> Result<Option<u64>, ConfigError> {
    match config.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64().filter(|number| (min..=max).contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(invalid(field, value, &format!("a whole number from {min} to {max}"))),
        },
    }
}

fn required(config: &Map<String, Value>, field: &'static str, min: u64, max: u64) -> Result<u64, ConfigError> {
    optional(config, field, min, max)?.ok_or(ConfigError::Missing(field))
}

fn invalid(field: &str, value: &Value, expected: &str) -> ConfigError {
    ConfigError::Value {
        field: field.to_owned(),
        value: value.to_string().chars().take(60).collect(),
        expected: expected.to_owned(),
    }
}

#[cfg(test)]
mod tests;
