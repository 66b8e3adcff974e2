//! The files of a model that go along unchanged, or nearly so.

use super::CheckpointError;
use serde_json::{Map, Value};
use std::fs;
use std::path::{Path, PathBuf};

/// Where tokenizers say how long a text may be.
pub(super) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
/// Says which shard holds which tensor.
const INDEX: &str = "model.safetensors.index.json";
/// Tokenizer and generation files of the supported families.
const CARRIED: [&str; 10] = [
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    TOKENIZER_CONFIG,
    "vocab.json",
];
/// Terms that stay with the weights, whatever follows these words in the name.
const TERMS: [&str; 3] = ["LICENSE", "NOTICE", "USE_POLICY"];
/// Largest tokenizer_config.json that is looked into, in bytes; some list thousands of added tokens.
const MAX_TOKENIZER_CONFIG_BYTES: u64 = 16 << 20;

/// The files besides config.json and weights, in the order of their names.
pub(super) fn of_model(model: &Path, weights: &[PathBuf]) -> Result<Vec<PathBuf>, CheckpointError> {
    let single = weights.iter().any(|path| path.file_name().is_some_and(|name| name == "model.safetensors"));
    let mut files = Vec::new();
    for entry in fs::read_dir(model).map_err(CheckpointError::io("look into", model))? {
        let path = entry.map_err(CheckpointError::io("look into", model))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let terms = TERMS.iter().any(|term| name.to_ascii_uppercase().starts_with(term));
        if (CARRIED.contains(&name) || terms || (name == INDEX && !single)) && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The tokenizer's configuration with the new window, where it states a shorter one: tokenizers cut texts there when
/// asked to, and warn when not.
pub(super) fn raised_tokenizer(files: &[PathBuf], target: u32) -> Result<Option<(PathBuf, String)>, CheckpointError> {
    let Some(path) = files.iter().find(|path| path.ends_with(TOKENIZER_CONFIG)) else { return Ok(None) };
    let size = fs::metadata(path).map_err(CheckpointError::io("read", path))?.len();
    if size > MAX_TOKENIZER_CONFIG_BYTES {
        return Ok(None);
    }
    let text = fs::read(path).map_err(CheckpointError::io("read", path))?;
    // A file that is none is passed on as it is: whether it can be used is for its readers to say.
    let Ok(mut config) = serde_json::from_slice::<Map<String, Value>>(&text) else { return Ok(None) };
    match config.get_mut("model_max_length") {
        Some(length) if length.as_f64().is_some_and(|length| length < f64::from(target)) => *length = target.into(),
        _ => return Ok(None),
    }
    let text = Value::Object(config);
    Ok(Some((path.clone(), format!("{text:#}\n"))))
}

/// What is not carried although config.json speaks of it.
pub(super) fn left_out(config_json: &str) -> Option<String> {
    let config: Map<String, Value> = serde_json::from_str(config_json).ok()?;
    config.contains_key("auto_map").then(|| {
        "the model's own Python files are left out: load without trust_remote_code, with the engine's own code for the \
         family"
            .to_owned()
    })
}
