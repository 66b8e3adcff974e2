//! Memory grows with the document and not with documents times layers.

use anyhow::{Context as _, Result};
use ropewalk_tests::command::ropewalk;
use ropewalk_tests::{documents, models};
use tempfile::TempDir;

const TOKENS: usize = 32_768;
const MOST_MIB: f64 = 1024.0;

#[test]
fn thirty_two_thousand_tokens_take_less_than_a_gibibyte() -> Result<()> {
    let folder = TempDir::new()?;
    let model = models::lab();
    let config: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(model.join("config.json"))?)?;
    let vocabulary = config["vocab_size"].as_u64().context("no vocabulary")? as u32;
    let tokens = documents::write(folder.path(), 1, TOKENS, vocabulary, 1)?;
    let (model, tokens, length) = (model.to_string_lossy(), tokens.to_string_lossy(), TOKENS.to_string());
    let arguments = ["eval", "--model", &model, "--tokens", &tokens, "--length", &length, "--factors", "pi", "--json"];
    let report = ropewalk(arguments)?.json()?;
    let result = &report["results"][0];
    assert_eq!((result["length"].as_u64(), result["tokens"].as_u64()), (Some(32_768), Some(32_767)), "{report:#}");
    assert!(result["nll"].as_f64().is_some_and(|nll| nll > 0.0), "{report:#}");
    // Only Linux tells.
    if let Some(peak) = result["peak_rss_mib"].as_f64() {
        assert!(peak < MOST_MIB, "{peak} MiB");
    }
    Ok(())
}
