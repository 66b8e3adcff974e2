//! `ropewalk eval --passkey` and `--needle` on the bundled model, which was trained to retrieve within 256 tokens.

use anyhow::{Context as _, Result};
use ropewalk_tests::command::{Ended, ropewalk};
use ropewalk_tests::models;
use serde_json::Value;
use tempfile::TempDir;

fn eval(arguments: &[&str]) -> Result<Ended> {
    let model = models::lab().to_string_lossy().into_owned();
    ropewalk([&["eval", "--model", &model], arguments].concat())
}

/// PyTorch finds every number at 256 tokens and, at 512, every one under YaRN and none without it.
#[test]
fn numbers_are_found_where_pytorch_finds_them() -> Result<()> {
    for kind in ["passkey", "needle"] {
        let folder = TempDir::new()?;
        let (out, task) = (folder.path().to_string_lossy().into_owned(), format!("--{kind}"));
        let common = ["--length", "256,512", "--factors", "none,yarn", "--trials", "1", "--json"];
        let ended = eval(&[&[task.as_str(), "--out", &out][..], &common].concat())?;
        assert_eq!(ended.status, Some(0), "{ended}");
        let report: Value = serde_json::from_str(&ended.stdout)?;
        let accuracy = |length: u64, factors: &str| -> Result<f64> {
            let results = report["results"].as_array().context("no results")?;
            let of = results.iter().find(|of| of["length"] == length && of["factors"] == factors);
            of.and_then(|of| of["accuracy"].as_f64()).context("no such result")
        };
        assert_eq!(accuracy(256, "none")?, 1.0, "{kind}: {report}");
        assert_eq!(accuracy(512, "none")?, 0.0, "{kind}: {report}");
        assert_eq!(accuracy(512, "yarn")?, 1.0, "{kind}: {report}");
        for file in [format!("{kind}.json"), format!("{kind}-0-none.svg"), format!("{kind}-1-yarn.svg")] {
            assert!(folder.path().join(&file).is_file(), "{file}");
        }
    }
    Ok(())
}

/// At 512 tokens NTK finds some and YaRN all: decoding and one pass agree on which.
#[test]
fn decoding_gives_what_one_pass_says() -> Result<()> {
    let common = ["--needle", "--length", "512", "--factors", "ntk,yarn", "--trials", "2", "--json"];
    let depths = |options: &[&str]| -> Result<Vec<Value>> {
        let ended = eval(&[&common, options].concat())?;
        assert_eq!(ended.status, Some(0), "{ended}");
        let report: Value = serde_json::from_str(&ended.stdout)?;
        assert_eq!(report["generated"], !options.is_empty());
        Ok(report["results"].as_array().context("no results")?.iter().map(|of| of["depths"].clone()).collect())
    };
    assert_eq!(depths(&["--generate"])?, depths(&[])?);
    Ok(())
}

#[test]
fn wrong_requests_say_what_to_do() -> Result<()> {
    eval(&["--passkey", "--length", "40"])?.assert_failed(2, &["40 tokens", "ask for a longer one"]);
    eval(&["--passkey", "--filler", "documents"])?.assert_failed(2, &["--data or --tokens"]);
    eval(&["--passkey", "--data", "."])?.assert_failed(2, &["--filler documents"]);
    eval(&["--depths", "3", "--data", "."])?.assert_failed(2, &["--passkey"]);
    eval(&["--passkey", "--gradient"])?.assert_failed(2, &["--gradient"]);
    eval(&["--passkey", "--needle"])?.assert_failed(2, &["--needle"]);
    eval(&[])?.assert_failed(2, &["--data"]);
    Ok(())
}
