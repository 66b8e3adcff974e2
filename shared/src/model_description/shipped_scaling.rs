//! The RoPE scaling a model was shipped with, expressed as rescale factors against its plain base.

use super::{ConfigError, MAX_LENGTH, invalid, optional, rope_dictionary};
use crate::attention_factor::AttentionFactorPolicy;
use crate::baselines::{YarnBounds, yarn_keep};
use crate::rope::{Rescale, RopeGeometry};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::f64::consts::TAU;

/// What `rope_scaling` or `rope_parameters` of config.json says, resolved to factors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum ShippedScaling {
    /// Plain RoPE.
    None,
    /// One set of factors at every length (`linear`, `llama3`, `yarn`).
    Fixed {
        /// The `rope_type` it comes from.
        rope_type: String,
        /// The factors.
        #[serde(flatten)]
        rescale: Rescale,
    },
    /// `longrope`: one set up to the original length, another beyond it.
    LongRope {
        /// Longest sequence that uses the short factors.
        original_length: u32,
        /// Factors up to the original length.
        short: Vec<f64>,
        /// Factors beyond it.
        long: Vec<f64>,
        /// Attention factor of both.
        attention_factor: f64,
    },
    /// `dynamic`: NTK with a base that grows with the sequence.
    Dynamic {
        /// Longest sequence that is left alone.
        max_position: u32,
        /// Its scaling factor.
        factor: f64,
    },
}

impl ShippedScaling {
    /// Whether the model was shipped with plain RoPE.
    pub fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    /// The `rope_type` of config.json.
    pub fn rope_type(&self) -> &str {
        match self {
            Self::None => "default",
            Self::Fixed { rope_type, .. } => rope_type,
            Self::LongRope { .. } => "longrope",
            Self::Dynamic { .. } => "dynamic",
        }
    }

    /// The factors in force for a sequence of `length` tokens.
    pub(super) fn rescale(&self, geometry: &RopeGeometry, length: usize) -> Rescale {
        match self {
            Self::None => Rescale::identity(geometry.pairs()),
            Self::Fixed { rescale, .. } => rescale.clone(),
            Self::LongRope { original_length, short, long, attention_factor } => {
                let factors = if length > *original_length as usize { long } else { short };
                Rescale { attention_factor: *attention_factor, ..Rescale::with_factors(factors.clone()) }
            }
            Self::Dynamic { max_position, factor } => {
                let stretch = (length as f64 / f64::from(*max_position)).max(1.0);
                let ratio = factor * stretch - (factor - 1.0);
                // theta grows by ratio^(d/(d-2)); pair i's period by that to the power of 2i/d.
                let d = geometry.rotary_dim as f64;
                let power = |i: usize| ratio.powf(2.0 * i as f64 / (d - 2.0).max(1.0));
                Rescale::with_factors((0..geometry.pairs()).map(power).collect())
            }
        }
    }

    /// The scaling and the original length that a config.json states.
    pub(super) fn read(
        config: &Map<String, Value>,
        geometry: &RopeGeometry,
        max_position: u32,
    ) -> Result<(Self, u32), ConfigError> {
        let Some(dictionary) = rope_dictionary(config)? else {
            return Ok((Self::None, max_position));
        };
        let reader = Reader { config, dictionary, geometry, max_position };
        let rope_type = reader.rope_type()?;
        match rope_type.as_str() {
            "default" => Ok((Self::None, max_position)),
            "linear" => {
                let rescale = Rescale::with_factors(vec![reader.positive("factor")?; geometry.pairs()]);
                Ok((Self::Fixed { rope_type, rescale }, reader.original_length()?))
            }
            "dynamic" => Ok((Self::Dynamic { max_position, factor: reader.positive("factor")? }, max_position)),
            "llama3" => Ok((Self::Fixed { rope_type, rescale: reader.llama3()? }, reader.original_length()?)),
            "yarn" => Ok((Self::Fixed { rope_type, rescale: reader.yarn()? }, reader.original_length()?)),
            "longrope" => Ok((reader.longrope()?, reader.original_length()?)),
            _ => Err(ConfigError::RopeType(rope_type.chars().take(40).collect())),
        }
    }
}

/// One config.json and its RoPE dictionary.
struct Reader<'a> {
    config: &'a Map<String, Value>,
    dictionary: &'a Map<String, Value>,
    geometry: &'a RopeGeometry,
    max_position: u32,
}

impl Reader<'_> {
    fn rope_type(&self) -> Result<String, ConfigError> {
        let stated = self.dictionary.get("rope_type").or_else(|| self.dictionary.get("type"));
        match stated {
            None => Ok("default".to_owned()),
            // Earlier names: LongRoPE was `su`, and Phi-3's first releases said `yarn` for it.
            Some(Value::String(name)) if name == "su" => Ok("longrope".to_owned()),
            Some(Value::String(name)) if name == "yarn" && self.dictionary.contains_key("long_factor") => {
                Ok("longrope".to_owned())
            }
            Some(Value::String(name)) => Ok(name.clone()),
            Some(other) => Err(invalid("rope_type", other, "a name")),
        }
    }

    /// Top level first, then the dictionary, else the model's window.
    fn original_length(&self) -> Result<u32, ConfigError> {
        const FIELD: &str = "original_max_position_embeddings";
        for source in [self.config, self.dictionary] {
            if let Some(length) = optional(source, FIELD, 2, MAX_LENGTH)? {
                return Ok(length as u32);
            }
        }
        Ok(self.max_position)
    }

    fn positive(&self, field: &'static str) -> Result<f64, ConfigError> {
        self.positive_or_absent(field)?.ok_or(ConfigError::Missing(field))
    }

    fn positive_or_absent(&self, field: &'static str) -> Result<Option<f64>, ConfigError> {
        match self.dictionary.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_f64().filter(|number| number.is_finite() && *number > 0.0) {
                Some(number) => Ok(Some(number)),
                None => Err(invalid(field, value, "a number above 0")),
            },
        }
    }

    /// Llama 3.1: slow pairs are interpolated, fast ones kept, those between blended by wavelength.
    fn llama3(&self) -> Result<Rescale, ConfigError> {
        let factor = self.positive("factor")?;
        let (low, high) = (self.positive("low_freq_factor")?, self.positive("high_freq_factor")?);
        let original = f64::from(self.original_length()?);
        let scaled = |pair: usize| {
            let frequency = self.geometry.inverse_frequency(pair);
            let turns = original * frequency / TAU;
            if turns > high {
                1.0
            } else if turns < low {
                factor
            } else {
                let smooth = (turns - low) / (high - low);
                1.0 / ((1.0 - smooth) / factor + smooth)
            }
        };
        Ok(Rescale::with_factors((0..self.geometry.pairs()).map(scaled).collect()))
    }

    fn yarn(&self) -> Result<Rescale, ConfigError> {
        let original = self.original_length()?;
        let factor = match self.positive_or_absent("factor")? {
            Some(factor) => factor,
            None => f64::from(self.max_position) / f64::from(original),
        };
        let defaults = YarnBounds::default();
        let bounds = YarnBounds {
            beta_fast: self.positive_or_absent("beta_fast")?.unwrap_or(defaults.beta_fast),
            beta_slow: self.positive_or_absent("beta_slow")?.unwrap_or(defaults.beta_slow),
            truncate: self.dictionary.get("truncate").and_then(Value::as_bool).unwrap_or(defaults.truncate),
        };
        let mscale = |weight: f64| if factor <= 1.0 { 1.0 } else { 0.1 * weight * factor.ln() + 1.0 };
        let weights = (self.positive_or_absent("mscale")?, self.positive_or_absent("mscale_all_dim")?);
        let attention_factor = match (self.positive_or_absent("attention_factor")?, weights) {
            (Some(stated), _) => stated,
            (None, (Some(numerator), Some(denominator))) => mscale(numerator) / mscale(denominator),
            (None, _) => mscale(1.0),
        };
        let keep = yarn_keep(self.geometry, original, bounds);
        let factors = keep.iter().map(|keep| 1.0 / (keep + (1.0 - keep) / factor)).collect();
        Ok(Rescale { attention_factor, ..Rescale::with_factors(factors) })
    }

    fn longrope(&self) -> Result<ShippedScaling, ConfigError> {
        let original_length = self.original_length()?;
        let ratio = match self.positive_or_absent("factor")? {
            Some(factor) => factor,
            None => f64::from(self.max_position) / f64::from(original_length),
        };
        let attention_factor = match self.positive_or_absent("attention_factor")? {
            Some(stated) => stated,
            None => AttentionFactorPolicy::LongRope.value(ratio, original_length),
        };
        let (short, long) = (self.factors("short_factor")?, self.factors("long_factor")?);
        Ok(ShippedScaling::LongRope { original_length, short, long, attention_factor })
    }

    fn factors(&self, field: &'static str) -> Result<Vec<f64>, ConfigError> {
        let value = self.dictionary.get(field).ok_or(ConfigError::Missing(field))?;
        let numbers = value.as_array().and_then(|list| list.iter().map(Value::as_f64).collect::<Option<Vec<_>>>());
        match numbers {
            Some(factors) if Rescale::with_factors(factors.clone()).check(self.geometry.pairs()).is_ok() => Ok(factors),
            _ => Err(invalid(field, value, &format!("{} numbers above 0", self.geometry.pairs()))),
        }
    }
}
