//! Format `hf`: a patch of a model's config.json, as transformers 4 and 5, vLLM and SGLang read it.
//!
//! A patch is an object whose keys replace those of config.json; null deletes one. The form is chosen so that every
//! reader gets the same numbers: transformers 4 reads `rope_scaling` and the original length at top level only,
//! transformers 5 takes whichever dictionary there is, vLLM and SGLang take the attention factor from the mscale
//! keys, and Phi's own code accepts exactly three keys.

mod notes;
mod short;
mod windows;

pub use short::ShortSet;

use super::{DroppedStartTokens, Export, ExportError, Format, refuse_pair_attention, refuse_start_tokens};
use ropewalk_shared::attention_factor::AttentionFactorPolicy;
use ropewalk_shared::factor_file::FactorFile;
use ropewalk_shared::model_description::{ConfigError, ModelDescription};
use ropewalk_shared::rope::Rescale;
use serde_json::{Map, Value, json};

/// Families whose own code reads `rope_scaling`, and takes no other keys than three.
const PHI_FAMILIES: [&str; 3] = ["phi3", "phimoe", "phi4_multimodal"];
/// Engines hold attention factors in f32: closer than this is the same.
const SAME_ATTENTION: f64 = 1e-6;

/// Whether engines compute the attention factor of this `model_type` themselves, and take no other.
pub fn computes_attention(model_type: &str) -> bool {
    PHI_FAMILIES.contains(&model_type)
}

/// Whether engines tell two attention factors apart.
pub fn is_same_attention(a: f64, b: f64) -> bool {
    (a - b).abs() <= SAME_ATTENTION
}

/// What an export needs to know besides the factors.
#[derive(Clone, Debug, Default)]
pub struct HfOptions {
    /// Where the factors for windows up to the original length come from; absent for the file's own table where it has
    /// one, or else the set the model was shipped with, or else the long one.
    pub short: Option<ShortSet>,
    /// The window, where the factors come without one.
    pub target_length: Option<u32>,
    /// Starting tokens that were dropped knowingly.
    pub dropped: Option<DroppedStartTokens>,
    /// Allow a form that only transformers 5 reads where no common one exists (Phi with an attention factor of its own).
    pub hf5_only: bool,
}

/// Everything that is written, worked out.
struct Plan {
    model: ModelDescription,
    original: u32,
    target: u32,
    factor: f64,
    attention_factor: f64,
    /// Of the short set: the form has no place for another than the long one's.
    short_attention: f64,
    /// What engines compute where they are not told.
    computed_attention: f64,
    partial_rotary_factor: Option<f64>,
    long: Vec<f64>,
    short: Vec<f64>,
    short_set: ShortSet,
}

/// The patch for the model with this config.json.
///
/// # Errors
/// [`ExportError`] when the factors do not fit the model, or the form has no way to say them.
pub fn export(file: &FactorFile, config_json: &str, options: &HfOptions) -> Result<Export, ExportError> {
    let mut patched = patch(file, config_json, options)?;
    patched.notes.push(notes::PATCH.to_owned());
    Ok(patched.export(serde_json::to_string_pretty(&patched.patch)? + "\n"))
}

/// The whole config.json with the patch applied.
///
/// # Errors
/// Those of [`export`].
pub fn whole(file: &FactorFile, config_json: &str, options: &HfOptions) -> Result<Export, ExportError> {
    let patched = patch(file, config_json, options)?;
    Ok(patched.export(apply(config_json, &serde_json::to_string(&patched.patch)?)?))
}

/// What is changed in config.json, and what is to be said of it.
struct Patched {
    patch: Map<String, Value>,
    notes: Vec<String>,
    left_out_windows: Vec<u32>,
}

impl Patched {
    fn export(&self, content: String) -> Export {
        Export { content, notes: self.notes.clone(), left_out_windows: self.left_out_windows.clone() }
    }
}

fn patch(file: &FactorFile, config_json: &str, options: &HfOptions) -> Result<Patched, ExportError> {
    refuse_pair_attention(file, Format::Hf)?;
    let mut notes: Vec<String> = refuse_start_tokens(file, Format::Hf, options.dropped.as_ref())?.into_iter().collect();
    let config: Map<String, Value> =
        serde_json::from_str(config_json).map_err(|error| ConfigError::Syntax(error.to_string()))?;
    let plan = Plan::new(file, &config, options)?;
    let patch = if plan.is_phi() { plan.phi(options.hf5_only)? } else { plan.generic() };
    let left_out_windows = windows::left_out(file, &plan);
    notes.extend(windows::note(file, &plan, &left_out_windows));
    notes.extend(notes::notes(&plan, &config));
    Ok(Patched { patch, notes, left_out_windows })
}

/// A config.json with a patch applied: the file to put beside the weights.
///
/// # Errors
/// [`ExportError`] when one of both is not a JSON object.
pub fn apply(config_json: &str, patch: &str) -> Result<String, ExportError> {
    let object = |text: &str| -> Result<Map<String, Value>, ExportError> {
        serde_json::from_str(text).map_err(|error| ConfigError::Syntax(error.to_string()).into())
    };
    let mut config = object(config_json)?;
    for (key, value) in object(patch)? {
        match value {
            Value::Null => config.remove(&key),
            value => config.insert(key, value),
        };
    }
    Ok(serde_json::to_string_pretty(&config)? + "\n")
}

// === impl Plan ===

impl Plan {
    fn new(file: &FactorFile, config: &Map<String, Value>, options: &HfOptions) -> Result<Self, ExportError> {
        let model = ModelDescription::from_config(config)?;
        if dictionaries(config).any(|dictionary| dictionary.values().any(Value::is_object)) {
            return Err(ExportError::PerLayerType);
        }
        same_model(file, &model)?;
        file.rescale().check(model.geometry.pairs())?;

        let original = model.original_length;
        let target = match (file.target_length, options.target_length) {
            (Some(stated), Some(given)) if stated != given => {
                return Err(ExportError::OtherTargetLength { stated, given });
            }
            (stated, given) => stated.or(given).ok_or(ExportError::NoTargetLength)?,
        };
        if target <= original {
            return Err(ExportError::NotExtended { target, original });
        }
        let factor = f64::from(target) / f64::from(original);
        let short_set = options.short.clone().unwrap_or_else(|| ShortSet::default_for(&model, file));
        if let Some(start_tokens) = short_set.start_tokens() {
            return Err(ExportError::ShortStartTokens { start_tokens, original });
        }
        let long = file.rescale_factors.clone();
        let short = short_set.factors(&model, &long);
        Rescale::with_factors(short.clone()).check(model.geometry.pairs()).map_err(ExportError::Short)?;
        let stated = config.get("partial_rotary_factor").filter(|value| !value.is_null());
        let nested = || dictionaries(config).find_map(|dictionary| dictionary.get("partial_rotary_factor"));
        Ok(Self {
            original,
            target,
            factor,
            attention_factor: file.attention_factor,
            short_attention: short_set.attention_factor().unwrap_or(file.attention_factor),
            computed_attention: AttentionFactorPolicy::LongRope.value(factor, original),
            partial_rotary_factor: stated.or_else(nested).and_then(Value::as_f64),
            long,
            short,
            short_set,
            model,
        })
    }

    fn is_phi(&self) -> bool {
        computes_attention(&self.model.model_type)
    }

    /// Whether engines that compute the attention factor themselves get the one that was searched with.
    fn attention_is_computed(&self) -> bool {
        is_same_attention(self.attention_factor, self.computed_attention)
    }

    /// What stands beside the dictionary in both forms.
    fn top_level(&self) -> Map<String, Value> {
        let mut patch = Map::new();
        patch.insert("max_position_embeddings".into(), json!(self.target));
        patch.insert("original_max_position_embeddings".into(), json!(self.original));
        patch.insert("rope_theta".into(), json!(self.model.geometry.theta));
        if let Some(partial) = self.partial_rotary_factor {
            patch.insert("partial_rotary_factor".into(), json!(partial));
        }
        patch
    }

    fn generic(&self) -> Map<String, Value> {
        let mut patch = self.top_level();
        // Several families multiply by head_dim without asking whether it is there.
        patch.insert("head_dim".into(), json!(self.model.geometry.head_dim));
        let dictionary = self.full_dictionary("rope_type");
        // transformers 4 and others read the first key, transformers 5 either; the same in both misleads nobody.
        patch.insert("rope_scaling".into(), dictionary.clone());
        patch.insert("rope_parameters".into(), dictionary);
        patch
    }

    fn phi(&self, hf5_only: bool) -> Result<Map<String, Value>, ExportError> {
        let mut patch = self.top_level();
        let dictionary = if self.attention_is_computed() {
            json!({"type": "longrope", "short_factor": self.short, "long_factor": self.long})
        } else if hf5_only {
            self.full_dictionary("type")
        } else {
            return Err(ExportError::PhiAttentionFactor {
                attention_factor: self.attention_factor,
                computed: self.computed_attention,
            });
        };
        patch.insert("rope_scaling".into(), dictionary);
        patch.insert("rope_parameters".into(), Value::Null);
        Ok(patch)
    }

    fn full_dictionary(&self, type_key: &str) -> Value {
        let mut dictionary = Map::new();
        dictionary.insert(type_key.into(), json!("longrope"));
        dictionary.insert("rope_theta".into(), json!(self.model.geometry.theta));
        dictionary.insert("factor".into(), json!(self.factor));
        dictionary.insert("original_max_position_embeddings".into(), json!(self.original));
        // Always: a reader that has to compute it would apply it to searches that ran without.
        dictionary.insert("attention_factor".into(), json!(self.attention_factor));
        if !self.attention_is_computed() {
            // The same for both: transformers knows one for all lengths, and engines should agree.
            dictionary.insert("short_mscale".into(), json!(self.attention_factor));
            dictionary.insert("long_mscale".into(), json!(self.attention_factor));
        }
        if let Some(partial) = self.partial_rotary_factor {
            dictionary.insert("partial_rotary_factor".into(), json!(partial));
        }
        dictionary.insert("short_factor".into(), json!(self.short));
        dictionary.insert("long_factor".into(), json!(self.long));
        Value::Object(dictionary)
    }
}

fn dictionaries(config: &Map<String, Value>) -> impl Iterator<Item = &Map<String, Value>> {
    ["rope_scaling", "rope_parameters"].into_iter().filter_map(|key| config.get(key)?.as_object())
}

/// Refuses factors that were searched for a model of another shape. Fingerprints are the caller's to compare: the
/// same factors may well be wanted for a fine-tuned model.
///
/// # Errors
/// [`ExportError::OtherModel`] names the first difference.
pub fn same_model(file: &FactorFile, model: &ModelDescription) -> Result<(), ExportError> {
    let differ = |field, searched: String, model: String| Err(ExportError::OtherModel { field, searched, model });
    if let Some(searched) = file.original_length
        && searched != model.original_length
    {
        return differ("original length", searched.to_string(), model.original_length.to_string());
    }
    let Some(searched) = file.model.as_ref() else { return Ok(()) };
    if searched.model_type != model.model_type {
        return differ("model_type", searched.model_type.clone(), model.model_type.clone());
    }
    let (a, b) = (searched.geometry, model.geometry);
    let fields = [
        ("head_dim", a.head_dim as f64, b.head_dim as f64),
        ("rotary dimensions", a.rotary_dim as f64, b.rotary_dim as f64),
        ("rope_theta", a.rope_theta, b.theta),
    ];
    match fields.into_iter().find(|(_, a, b)| a != b) {
        Some((field, a, b)) => differ(field, a.to_string(), b.to_string()),
        None => Ok(()),
    }
}
