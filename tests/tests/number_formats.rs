//! The number formats of the CPU on the bundled model and text.

use anyhow::{Context as _, Result, ensure};
use ropewalk_tests::command::ropewalk;
use ropewalk_tests::models;
use serde_json::Value;

/// Loss in nats per token of the bundled text, peak memory in MiB, and whether a matrix unit computed.
fn measured(dtype: &str, length: &str) -> Result<(f64, f64, bool)> {
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
    let kernels = report["kernels"].as_str().context("no kernels")?;
    Ok((of("nll")?, of("peak_rss_mib")?, kernels.contains("(bf16")))
}

#[test]
fn bf16_keeps_the_loss_and_takes_less_memory() -> Result<()> {
    let (f32_loss, f32_memory, _) = measured("f32", "2048")?;
    let (bf16_loss, bf16_memory, _) = measured("bf16", "2048")?;
    ensure!(bf16_loss != f32_loss && (bf16_loss - f32_loss).abs() < 5e-3, "{bf16_loss} for {f32_loss}");
    ensure!(bf16_memory < f32_memory, "{bf16_memory} MiB for {f32_memory}");
    Ok(())
}

#[test]
fn f32_fast_keeps_the_loss() -> Result<()> {
    // No multiple of any block.
    let (f32_loss, _, by_unit) = measured("f32", "2049")?;
    ensure!(!by_unit);
    let (fast_loss, _, by_unit) = measured("f32-fast", "2049")?;
    ensure!((fast_loss - f32_loss).abs() < 1e-4, "{fast_loss} for {f32_loss}");
    ensure!((fast_loss != f32_loss) == by_unit, "without a matrix unit it is f32: {fast_loss}, {f32_loss}");
    Ok(())
}

#[test]
fn f16_is_refused_on_the_cpu() -> Result<()> {
    let error = measured("f16", "512").map(|_| String::new()).unwrap_or_else(|error| error.to_string());
    ensure!(error.contains("use f32 or bf16"), "{error}");
    Ok(())
}
