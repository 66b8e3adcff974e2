//! Models for tests.

use anyhow::{Context as _, Result};
use std::path::{Path, PathBuf};

/// A model of two layers that was trained for nothing: 64 tokens, 96 token ids, 8 rotary pairs.
pub const TINY: &str = "llama-v4";
/// Token ids of [`TINY`].
pub const TINY_VOCABULARY: u32 = 96;

/// The folder with all tiny models.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/golden")
}

/// The folder of [`TINY`].
pub fn tiny() -> PathBuf {
    root().join(TINY)
}

/// The trained model that the product ships.
pub fn lab() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../coordinator/assets/lab-model")
}

/// Copies [`TINY`] below `root` under another name, to be spoiled.
///
/// # Errors
/// When files cannot be copied.
pub fn copy_of_tiny(root: &Path, name: &str) -> Result<PathBuf> {
    let folder = root.join(name);
    std::fs::create_dir_all(&folder)?;
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(tiny().join(file), folder.join(file)).with_context(|| file.to_owned())?;
    }
    Ok(folder)
}

/// Replaces a text in a model's config.json.
///
/// # Errors
/// When the file cannot be read or written, or does not have the text.
pub fn edit_config(folder: &Path, from: &str, to: &str) -> Result<()> {
    let path = folder.join("config.json");
    let text = std::fs::read_to_string(&path)?;
    anyhow::ensure!(text.contains(from), "{} has no {from}", path.display());
    Ok(std::fs::write(path, text.replace(from, to))?)
}
