//! Documents of token ids from a seed.

use anyhow::Result;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Writes `count` documents of `tokens` tokens below `vocabulary` as JSON Lines with `input_ids`.
///
/// # Errors
/// When the file cannot be written.
pub fn write(folder: &Path, count: usize, tokens: usize, vocabulary: u32, seed: u64) -> Result<PathBuf> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut text = String::new();
    for _ in 0..count {
        // Short loops among noise, so that there is something to attend to.
        let period = rng.random_range(5..60);
        let mut ids: Vec<u32> = Vec::with_capacity(tokens);
        for position in 0..tokens {
            let repeated = position >= period && rng.random_bool(0.7);
            ids.push(if repeated { ids[position - period] } else { rng.random_range(0..vocabulary) });
        }
        writeln!(text, "{{\"input_ids\": {ids:?}}}")?;
    }
    let path = folder.join(format!("documents-{seed}-{count}x{tokens}.jsonl"));
    std::fs::write(&path, text)?;
    Ok(path)
}
