//! The fine-tuning on PyTorch in `deploy/finetune`, run for real with two processes, and a search that starts from its
//! checkpoint. Needs a Python with torch, accelerate and transformers, which `ROPEWALK_TEST_PYTHON` names.

use anyhow::{Context as _, Result, ensure};
use ropewalk_tests::command::ropewalk;
use ropewalk_tests::models;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const PYTHON_VARIABLE: &str = "ROPEWALK_TEST_PYTHON";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[test]
fn the_external_fine_tuning_makes_a_checkpoint_to_search_from() -> Result<()> {
    let Some(python) = std::env::var_os(PYTHON_VARIABLE) else {
        eprintln!("SKIPPED: {PYTHON_VARIABLE} names no Python with torch, accelerate and transformers");
        return Ok(());
    };
    let folder = TempDir::new()?;
    let (out, factors) = (folder.path().join("out"), folder.path().join("factors.json"));
    let numbers: Vec<String> = (0..32).map(|pair| format!("{}", 1.0 + f64::from(pair) / 31.0)).collect();
    std::fs::write(&factors, format!("{{\"rescale_factors\": [{}], \"start_tokens\": 4}}", numbers.join(", ")))?;
    let (model, deploy, readme) = (models::lab(), repository().join("deploy/finetune"), repository().join("README.md"));

    let mut command = Command::new(python);
    command.args(["-m", "accelerate.commands.launch", "--config_file"]).arg(deploy.join("cpu.yaml"));
    command.arg(deploy.join("finetune.py")).args(["--length", "512", "--batch", "2", "--warm-up", "1"]);
    // The rest by environment, as a plan hands it over.
    command.env("ROPEWALK_MODEL", &model).env("ROPEWALK_FACTORS", &factors).env("ROPEWALK_DATA", &readme);
    command.env("ROPEWALK_OUT", &out).env("ROPEWALK_STEPS", "3").env("ROPEWALK_LEARNING_RATE", "1e-3");
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{said}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).matches("\"loss\"").count(), 3, "once, not by every process");
    // Whoever runs it again, after a kill that came too late, trains nothing.
    let again = command.output()?;
    let said = String::from_utf8_lossy(&again.stdout);
    ensure!(again.status.success() && said.contains("done before") && !said.contains("\"loss\""), "{said}");

    let nll = |model: &Path| -> Result<f64> {
        let (model, data, factors) = (text(model), text(&readme), text(&factors));
        let arguments = ["--model", &model, "--data", &data, "--length", "512", "--factors", &factors, "--json"];
        let report = ropewalk(["eval"].iter().chain(&arguments))?.json()?;
        report["results"][0]["nll"].as_f64().context("no loss")
    };
    let (before, after) = (nll(&model)?, nll(&out)?);
    assert!(after < before, "{before} before, {after} after");
    // The plain RoPE of before: factors are relative to it.
    assert_eq!(std::fs::read(out.join("config.json"))?, std::fs::read(model.join("config.json"))?);

    let (checkpoint, data, init, result) = (text(&out), text(&readme), text(&factors), folder.path().join("search"));
    let paths = ["search", "--model", &checkpoint, "--data", &data, "--init", &init, "--out", &text(&result)];
    let sizes = ["--target-length", "1024", "--samples", "1", "--held-out", "0", "--max-evaluations", "6"];
    let space = ["--population", "4", "--mutations", "2", "--crossovers", "0", "--generations", "1", "--parents", "2"];
    ropewalk(paths.iter().chain(&sizes).chain(&space))?.done()?;
    assert!(result.join("factors.json").is_file());
    Ok(())
}
