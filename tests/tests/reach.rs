//! What `ropewalk plan` predicts: against what a process really takes, and against the table in the documentation.

use anyhow::{Context as _, Result};
use ropewalk_tests::command::ropewalk;
use ropewalk_tests::{documents, models};
use serde_json::Value;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The longest of the lengths; the others are halves of it.
const LONGEST: usize = 65_536;
/// How far measured memory may lie from the prediction.
const TOLERANCE: f64 = 0.10;

/// The lab model with a sliding window, so that time grows with the length alone; its memory is the same.
fn windowed(folder: &Path) -> Result<PathBuf> {
    let model = folder.join("windowed");
    std::fs::create_dir_all(&model)?;
    std::fs::copy(models::lab().join("model.safetensors"), model.join("model.safetensors"))?;
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(models::lab().join("config.json"))?)?;
    config["model_type"] = "mistral".into();
    config["sliding_window"] = 256.into();
    std::fs::write(model.join("config.json"), config.to_string())?;
    Ok(model)
}

fn plan(model: &Path, length: usize, dtype: &str) -> Result<Value> {
    let (model, length) = (model.to_string_lossy(), length.to_string());
    let arguments = ["plan", "--model", &model, "--target-length", &length, "--dtype", dtype, "--samples", "1"];
    ropewalk(arguments.into_iter().chain(["--json"]))?.json()
}

#[test]
fn measured_memory_is_the_predicted() -> Result<()> {
    let folder = TempDir::new()?;
    let model = windowed(folder.path())?;
    let tokens = documents::write(folder.path(), 1, LONGEST, 2048, 1)?;
    let mut seen = Vec::new();
    for length in [LONGEST / 8, LONGEST / 4, LONGEST / 2, LONGEST] {
        // A document's first evaluation keeps nothing for others.
        let (model_text, tokens, length_text) = (model.to_string_lossy(), tokens.to_string_lossy(), length.to_string());
        let arguments = ["eval", "--model", &model_text, "--tokens", &tokens, "--length", &length_text];
        let report = ropewalk(arguments.into_iter().chain(["--factors", "pi", "--json"]))?.json()?;
        // Only Linux tells.
        let Some(measured) = report["results"][0]["peak_rss_mib"].as_f64() else { return Ok(()) };
        let plan = plan(&model, length, "f32")?;
        let mib = |part: &str| plan["memory_gib"][part].as_f64().map(|gib| gib * 1024.0).context("no such part");
        seen.push((length, measured, mib("total")? - mib("shared_first_layer")?));
    }
    let all = seen.iter().all(|&(_, measured, predicted)| (measured / predicted - 1.0).abs() <= TOLERANCE);
    assert!(all, "tokens, measured and predicted MiB: {seen:.1?}");
    Ok(())
}

#[test]
fn two_million_tokens_of_a_7b_model_fit_one_card() -> Result<()> {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/configs/llama2-7b");
    let plan = plan(&model, 2_097_152, "bf16")?;
    let bytes = plan["memory_gib"]["total"].as_f64().context("no total")? * (1u64 << 30) as f64;
    // By hand: 6,738,415,616 weights, and for each token 4,096 numbers of hidden state and twice as many of keys and
    // values, 2 bytes each; what is left is below a gigabyte.
    let least = 2.0 * 6_738_415_616.0 + 2_097_152.0 * 3.0 * 4096.0 * 2.0;
    assert!(bytes > least && bytes < least + 1e9, "{bytes} where {least} are the least");
    assert!(bytes < 141e9);
    Ok(())
}

#[test]
fn the_documented_table_is_what_plan_says() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("../docs/reach.md"))?;
    let mut rows = 0;
    for config in std::fs::read_dir(root.join("data/configs"))? {
        let config = config?;
        for length in [131_072, 262_144, 524_288, 1_048_576, 2_097_152] {
            let (model, length) = (config.path().to_string_lossy().into_owned(), length.to_string());
            let plan = ropewalk(["plan", "--json", "--model", &model, "--target-length", &length])?.json()?;
            let gib = plan["memory_gib"]["total"].as_f64().context("no total")?;
            let name = config.file_name().to_string_lossy().into_owned();
            let total = format!("{:.1}", gib * (1u64 << 30) as f64 / 1e9);
            let row = page.lines().find(|line| {
                let mut cells = line.split('|').map(str::trim).skip(1);
                cells.next() == Some(&name) && cells.next().is_some_and(|cell| cell.replace(',', "") == length)
            });
            let row = row.with_context(|| format!("docs/reach.md has no row of {name} at {length}"))?;
            assert_eq!(row.split('|').nth(3).map(str::trim), Some(&*total), "{row}: run tests/bench/reach again");
            rows += 1;
        }
    }
    assert_eq!(rows, 20);
    Ok(())
}
