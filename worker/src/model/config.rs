//! What a decoder looks like, read from the model's own config.json (as transformers 4 and 5 write it).
//!
//! All supported families are one decoder; they differ in the fields of [`DecoderSpec`] and in nothing else.

use super::LoadError;
use ropewalk_shared::model_description::ModelDescription;
use serde_json::{Map, Value};

/// Values of `model_type` that are supported.
pub const SUPPORTED: [&str; 5] = ["llama", "mistral", "qwen2", "qwen3", "phi3"];

/// A decoder: embedding, layers of attention and gated feed-forward, final norm, output head.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderSpec {
    /// Number of token ids.
    pub vocab: usize,
    /// Width of the hidden state.
    pub hidden: usize,
    /// Width of the feed-forward block.
    pub intermediate: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Dimensions of a head, not always `hidden / heads`.
    pub head_dim: usize,
    /// Rotated dimensions of a head, even; the rest passes as it is.
    pub rotary_dim: usize,
    /// Added to the mean square in every norm.
    pub norm_eps: f64,
    /// Queries, keys and values have biases.
    pub qkv_bias: bool,
    /// The attention's output has a bias.
    pub output_bias: bool,
    /// The feed-forward block has biases.
    pub mlp_bias: bool,
    /// Queries and keys are normalised per head before the rotation.
    pub head_norm: bool,
    /// Queries, keys and values are stored as one tensor, gate and up as another.
    pub fused_tensors: bool,
    /// The output head is the embedding.
    pub tied: bool,
    /// For each layer how many keys a query sees, itself included; all where `None`.
    pub windows: Vec<Option<usize>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
    Phi3,
}

// === impl DecoderSpec ===

impl DecoderSpec {
    /// Reads the text of a config.json.
    ///
    /// # Errors
    /// [`LoadError::ModelType`], [`LoadError::Config`] or [`LoadError::Field`] for what is missing or out of bounds,
    /// [`LoadError::Quantised`] for weights that are not plain numbers.
    pub fn from_config_json(text: &str) -> Result<Self, LoadError> {
        // Syntax, sizes and rotary geometry are checked there, once for the whole program.
        let description = ModelDescription::from_config_json(text)?;
        let value: Value = serde_json::from_str(text).unwrap_or_default();
        let fields = Fields(value.as_object().cloned().unwrap_or_default());
        let family = Family::of(&description.model_type)?;
        if let Some(quantisation) = fields.0.get("quantization_config").filter(|value| !value.is_null()) {
            let method = quantisation.get("quant_method").unwrap_or(quantisation).to_string();
            return Err(LoadError::Quantised { method: method.chars().take(60).collect() });
        }

        let heads = fields.number("num_attention_heads", 1, 1 << 14)?.unwrap_or(1);
        let kv_heads = match fields.number("num_key_value_heads", 1, heads)? {
            Some(kv_heads) => kv_heads,
            None if matches!(family, Family::Llama | Family::Phi3) => heads,
            // The other classes' defaults (8 or 32) are those of one particular model: nobody means them.
            None => fields.required("num_key_value_heads", 1, heads)?,
        };
        if heads % kv_heads != 0 {
            return Err(fields.wrong("num_key_value_heads", format!("a divisor of num_attention_heads {heads}")));
        }
        let activation = fields.0.get("hidden_act").filter(|value| !value.is_null());
        if activation.is_some_and(|name| !matches!(name.as_str(), Some("silu" | "swish"))) {
            return Err(fields.wrong("hidden_act", "\"silu\", the only activation of these families".into()));
        }
        let geometry = description.geometry;
        if geometry.rotary_dim != geometry.head_dim && family != Family::Phi3 {
            let expected = "1.0: only phi3 rotates part of a head".to_owned();
            return Err(fields.wrong("partial_rotary_factor", expected));
        }
        let attention_bias = matches!(family, Family::Llama | Family::Qwen3) && fields.flag("attention_bias")?;
        Ok(Self {
            vocab: description.vocab_size,
            hidden: description.hidden_size,
            intermediate: fields.required("intermediate_size", 1, 1 << 24)?,
            heads,
            kv_heads,
            head_dim: geometry.head_dim,
            rotary_dim: geometry.rotary_dim,
            norm_eps: fields.epsilon(family)?,
            qkv_bias: attention_bias || family == Family::Qwen2,
            output_bias: attention_bias,
            mlp_bias: family == Family::Llama && fields.flag("mlp_bias")?,
            head_norm: family == Family::Qwen3,
            fused_tensors: family == Family::Phi3,
            tied: fields.flag("tie_word_embeddings")?,
            windows: windows(&fields, family, description.layers)?,
        })
    }

    /// Number of layers.
    pub fn layers(&self) -> usize {
        self.windows.len()
    }

    /// Width of all queries of a token.
    pub fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of all keys, or values, of a token.
    pub fn key_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}

/// The sliding window of each layer, by transformers' rules.
fn windows(fields: &Fields, family: Family, layers: usize) -> Result<Vec<Option<usize>>, LoadError> {
    /// What transformers' classes assume when the field is absent.
    const DEFAULT_WINDOW: usize = 4096;
    const DEFAULT_FULL_LAYERS: usize = 28;
    let stated = fields.number("sliding_window", 1, 1 << 31)?;
    let absent = !fields.0.contains_key("sliding_window");
    match family {
        Family::Llama => Ok(vec![None; layers]),
        Family::Phi3 => Ok(vec![stated; layers]),
        Family::Mistral => Ok(vec![stated.or(absent.then_some(DEFAULT_WINDOW)); layers]),
        Family::Qwen2 | Family::Qwen3 if !fields.flag("use_sliding_window")? => Ok(vec![None; layers]),
        Family::Qwen2 | Family::Qwen3 => {
            let window = stated.or(absent.then_some(DEFAULT_WINDOW));
            let slides = match fields.0.get("layer_types").filter(|types| !types.is_null()) {
                Some(types) => layer_types(fields, types, layers)?,
                None => {
                    let full = fields.number("max_window_layers", 0, usize::MAX)?.unwrap_or(DEFAULT_FULL_LAYERS);
                    (0..layers).map(|layer| layer >= full).collect()
                }
            };
            Ok(slides.into_iter().map(|slides| window.filter(|_| slides)).collect())
        }
    }
}

/// Which layers slide, by an explicit list.
fn layer_types(fields: &Fields, types: &Value, layers: usize) -> Result<Vec<bool>, LoadError> {
    let expected = || format!("a list of {layers} times \"full_attention\" or \"sliding_attention\"");
    let list = types.as_array().filter(|list| list.len() == layers);
    let list = list.ok_or_else(|| fields.wrong("layer_types", expected()))?;
    list.iter()
        .map(|kind| match kind.as_str() {
            Some("full_attention") => Ok(false),
            Some("sliding_attention") => Ok(true),
            _ => Err(fields.wrong("layer_types", expected())),
        })
        .collect()
}

// === impl Family ===

impl Family {
    fn of(model_type: &str) -> Result<Self, LoadError> {
        match model_type {
            "llama" => Ok(Self::Llama),
            "mistral" => Ok(Self::Mistral),
            "qwen2" => Ok(Self::Qwen2),
            "qwen3" => Ok(Self::Qwen3),
            "phi3" => Ok(Self::Phi3),
            _ => Err(LoadError::ModelType { model_type: model_type.chars().take(60).collect() }),
        }
    }
}

/// Checked access to config.json.
struct Fields(Map<String, Value>);

impl Fields {
    fn number(&self, field: &'static str, min: usize, max: usize) -> Result<Option<usize>, LoadError> {
        let Some(value) = self.0.get(field).filter(|value| !value.is_null()) else { return Ok(None) };
        let number = value.as_u64().and_then(|number| usize::try_from(number).ok());
        match number.filter(|number| (min..=max).contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong(field, format!("a whole number from {min} to {max}"))),
        }
    }

    fn required(&self, field: &'static str, min: usize, max: usize) -> Result<usize, LoadError> {
        let missing = || self.wrong(field, format!("a whole number from {min} to {max}"));
        self.number(field, min, max)?.ok_or_else(missing)
    }

    fn flag(&self, field: &'static str) -> Result<bool, LoadError> {
        match self.0.get(field) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(self.wrong(field, "true or false".into())),
        }
    }

    fn epsilon(&self, family: Family) -> Result<f64, LoadError> {
        const FIELD: &str = "rms_norm_eps";
        let default = if family == Family::Phi3 { 1e-5 } else { 1e-6 };
        let Some(value) = self.0.get(FIELD).filter(|value| !value.is_null()) else { return Ok(default) };
        let usable = value.as_f64().filter(|eps| (0.0..=1.0).contains(eps));
        usable.ok_or_else(|| self.wrong(FIELD, "a number from 0 to 1".into()))
    }

    fn wrong(&self, field: &'static str, expected: String) -> LoadError {
        let value = match self.0.get(field) {
            Some(value) => value.to_string().chars().take(60).collect(),
            None => "absent".to_owned(),
        };
        LoadError::Field { field, value, expected }
    }
}

#[cfg(test)]
mod tests;
