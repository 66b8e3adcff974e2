//! Searches that judge by hidden numbers, on the bundled model and text.

use anyhow::{Context as _, Result};
use ropewalk_shared::factor_file::FactorFile;
use ropewalk_tests::command::{Ended, ropewalk};
use ropewalk_tests::models;
use std::path::Path;
use tempfile::TempDir;

fn search(out: &Path, options: &[&str]) -> Result<Ended> {
    let model = models::lab();
    let text = model.with_file_name("text");
    let paths = [model, text, out.to_owned()].map(|path| path.to_string_lossy().into_owned());
    let small =
        ["--target-length", "512", "--samples", "2", "--held-out", "1", "--population", "6", "--generations", "1"];
    let common = ["--mutations", "1", "--crossovers", "1", "--parents", "2", "--start-tokens", "0"];
    let arguments = [&["search", "--model", &paths[0], "--data", &paths[1], "--out", &paths[2]], &small[..], &common];
    ropewalk([arguments.concat(), options.to_vec()].concat())
}

/// What is known of the model from PyTorch: at 512 tokens YaRN finds every number, and the model as shipped none.
#[test]
fn numbers_are_judged_and_text_is_reported_beside() -> Result<()> {
    let folder = TempDir::new()?;
    let mut texts = Vec::new();
    for workers in ["1", "2"] {
        let out = folder.path().join(workers);
        search(&out, &["--objective", "needle", "--workers", workers])?.done()?;
        texts.push(std::fs::read_to_string(out.join("factors.json"))?);
    }
    assert_eq!(texts[0], texts[1], "results depend on the number of workers");
    let file = FactorFile::from_json(&texts[0])?;
    let objective = file.objective.context("no objective")?;
    assert_eq!((objective.kind.as_str(), objective.samples), ("needle", 4));
    let held_out = |name: &str| file.baselines.get(name).and_then(|measured| measured.held_out);
    let (none, yarn) = (held_out("none").context("none")?, held_out("yarn").context("yarn")?);
    assert!(yarn < 1.2 && none > 2.0, "{yarn} and {none}");
    assert!(objective.value < 1.2, "{}", objective.value);
    let text = objective.held_out_text.context("no text")?;
    assert!(text > 5.0 && text < 100.0, "{text}");
    Ok(())
}

#[test]
fn gradients_follow_answers_too() -> Result<()> {
    let folder = TempDir::new()?;
    let options = ["--objective", "mixture:0.3", "--strategy", "ropewalk", "--max-evaluations", "30", "--needles", "1"];
    search(folder.path(), &options)?.done()?;
    let file = FactorFile::from_json(&std::fs::read_to_string(folder.path().join("factors.json"))?)?;
    let objective = file.objective.context("no objective")?;
    assert_eq!((objective.kind.as_str(), objective.samples), ("mixture:0.3", 4));
    let yarn = file.baselines.get("yarn").context("yarn")?;
    assert!(objective.value <= yarn.value, "{} above {}", objective.value, yarn.value);
    Ok(())
}

#[test]
fn contradictions_are_refused() -> Result<()> {
    let folder = TempDir::new()?;
    let refused = |options: &[&str], expected: &[&str]| -> Result<()> {
        search(folder.path(), options)?.assert_failed(2, expected);
        Ok(())
    };
    refused(&["--needles", "3"], &["--needles", "--objective needle"])?;
    refused(&["--objective", "mixture:2"], &["mixture:2", "between 0 and 1"])?;
    refused(&["--objective", "needle", "--needle-answer", " no number"], &["answer", "{key}"])?;
    refused(&["--objective", "needle", "--needle-question", "Is it {key}?"], &["gives the number away"])?;
    refused(&["--objective", "needle", "--needle-depth", "2"], &["--needle-depth"])?;
    Ok(())
}
