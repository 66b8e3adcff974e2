//! The number formats of the CPU on the bundled model and text.

use anyhow::{Context as _, Result, ensure};
use ropewalk_tests::command::ropewalk;
use ropewalk_tests::models;
use serde_json::Value;

/// Loss in nats per token of the bundled text, and peak memory in MiB.
fn measured(dtype: &str, length: &str) -> Result<(f64, f64)> {
    let model = models::lab().to_string_lossy().into_owned();
    let text = models::lab().with_file_name("text").to_string_lossy().into_owned();
    let ended = ropewalk([
        "eval",
        "--model",
        &model,
        "--data",
        &text,
        "--length",
        length,
        "--samples",
        "1",
        "--dtype",
        dtype,
        "--json",
    ])?;
    ensure!(ended.status == Some(0), "{ended}");
    let report: Value = serde_json::from_str(&ended.stdout)?;
    ensure!(report["dtype"] == dtype, "{report}");
    let of = |key: &str| report["results"][0][key].as_f64().with_context(|| format!("no {key} in {report}"));
    Ok((of("nll")?, of("peak_rss_mib")?))
}

#[test]
fn bf16_keeps_the_loss_and_takes_less_memory() -> Result<()> {
    let (f32_loss, f32_memory) = measured("f32", "2048")?;
    let (bf16_loss, bf16_memory) = measured("bf16", "2048")?;
    ensure!(bf16_loss != f32_loss && (bf16_loss - f32_loss).abs() < 5e-3, "{bf16_loss} for {f32_loss}");
    ensure!(bf16_memory < f32_memory, "{bf16_memory} MiB for {f32_memory}");
    Ok(())
}

#[test]
fn f32_fast_keeps_the_loss() -> Result<()> {
    // No multiple of any block.
    let (f32_loss, fast_loss) = (measured("f32", "2049")?.0, measured("f32-fast", "2049")?.0);
    ensure!((fast_loss - f32_loss).abs() < 1e-4, "{fast_loss} for {f32_loss}");
    Ok(())
}

#[test]
fn f16_is_refused_on_the_cpu() -> Result<()> {
    let error = measured("f16", "512").map(|_| String::new()).unwrap_or_else(|error| error.to_string());
    ensure!(error.contains("use f32 or bf16"), "{error}");
    Ok(())
}
