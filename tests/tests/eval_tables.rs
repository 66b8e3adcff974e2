//! `ropewalk eval` with factor tables, at windows of deployed models, and by sliding windows.

use anyhow::{Context as _, Result, ensure};
use ropewalk_tests::command::{Ended, ropewalk};
use ropewalk_tests::{documents, models};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Token ids of the bundled model, whose documents begin with 0.
const VOCABULARY: u32 = 2048;

fn eval(tokens: &Path, options: &[&str]) -> Result<Ended> {
    let paths = [models::lab(), tokens.to_owned()].map(|path| path.to_string_lossy().into_owned());
    ropewalk([&["eval", "--model", &paths[0], "--tokens", &paths[1], "--samples", "2"], options].concat())
}

fn results(ended: Ended) -> Result<Vec<Value>> {
    ensure!(ended.status == Some(0), "{ended}");
    let report: Value = serde_json::from_str(&ended.stdout)?;
    Ok(report["results"].as_array().context("no results")?.clone())
}

fn perplexity(results: &[Value], length: u64, factors: &str) -> Result<f64> {
    let of = results.iter().find(|of| of["length"] == length && of["factors"] == factors);
    of.and_then(|of| of["perplexity"].as_f64()).with_context(|| format!("{factors} at {length}: {results:?}"))
}

fn written(folder: &TempDir, name: &str, content: &str) -> Result<PathBuf> {
    let path = folder.path().join(name);
    std::fs::write(&path, content)?;
    Ok(path)
}

#[test]
fn each_length_has_its_set_of_a_table() -> Result<()> {
    let folder = TempDir::new()?;
    let tokens = documents::write(folder.path(), 2, 512, VOCABULARY, 3)?;
    let (ones, long) = (vec![1.0; 32], vec![2.0; 32]);
    let windows = json!([{"from_length": 256, "rescale_factors": ones}, {"from_length": 300, "rescale_factors": long}]);
    let table = json!({"rescale_factors": long, "windows": windows}).to_string();
    let table = written(&folder, "table.json", &table)?.to_string_lossy().into_owned();
    // A length that is named twice is measured once.
    let options = ["--length", "256,256,299,512", "--factors", "none,pi,dynamic-ntk", "--factors", &table];
    let results = results(eval(&tokens, &[&options[..], &["--json"]].concat())?)?;
    let at = |length, factors| perplexity(&results, length, factors);
    assert_eq!(at(256, "table.json")?, at(256, "none")?);
    assert_eq!(at(299, "table.json")?, at(299, "none")?);
    assert_eq!(at(512, "table.json")?, at(512, "pi")?);
    let from: Vec<&Value> =
        results.iter().filter(|of| of["factors"] == "table.json").map(|of| &of["window_from"]).collect();
    assert_eq!(from, [256, 256, 300]);

    let printed = eval(&tokens, &options)?.done()?.stdout;
    let lines: Vec<&str> = printed.lines().collect();
    assert!(lines[1].starts_with("length  documents") && lines[1].contains("dynamic-ntk"), "{printed}");
    assert!(lines.len() == 5 && lines[4].starts_with("512") && lines[4].ends_with("(set from 300)"), "{printed}");
    Ok(())
}

#[test]
fn a_deployed_window_is_the_same_at_every_length_but_for_dynamic_ntk() -> Result<()> {
    let folder = TempDir::new()?;
    let tokens = documents::write(folder.path(), 2, 512, VOCABULARY, 4)?;
    let common = ["--length", "256,512", "--factors", "ntk,dynamic-ntk", "--json"];
    let by_length = results(eval(&tokens, &common)?)?;
    let deployed = results(eval(&tokens, &[&common[..], &["--target-length", "512"]].concat())?)?;
    for length in [256, 512] {
        let dynamic = perplexity(&by_length, length, "dynamic-ntk")?;
        assert_eq!(perplexity(&by_length, length, "ntk")?, dynamic);
        assert_eq!(perplexity(&deployed, length, "dynamic-ntk")?, dynamic);
    }
    assert_eq!(perplexity(&deployed, 512, "ntk")?, perplexity(&by_length, 512, "ntk")?);
    assert_ne!(perplexity(&deployed, 256, "ntk")?, perplexity(&by_length, 256, "ntk")?);
    Ok(())
}

/// By the definition: the first window whole, of the second what the first has not seen, both of the same weight.
#[test]
fn sliding_windows_are_those_of_the_definition() -> Result<()> {
    let folder = TempDir::new()?;
    let text: Vec<u32> = (0..160_u32).map(|i| 1 + (i * i * 7 + i) % 500).collect();
    let document = |name: &str, ids: &[u32]| {
        let ids = [&[0], ids].concat();
        written(&folder, name, &format!("{{\"input_ids\": {ids:?}}}\n"))
    };
    // Windows of 128 tokens: the beginning and 127 of the text, from 0 and from 32; one from 64 would pass the end.
    let (whole, second) = (document("whole.jsonl", &text)?, document("second.jsonl", &text[32..])?);
    let nll = |path: &Path, length: &str| -> Result<f64> {
        let results = results(eval(path, &["--length", length, "--json"])?)?;
        Ok(results[0]["nll"].as_f64().context("nll")? * results[0]["tokens"].as_f64().context("tokens")?)
    };
    let first = nll(&whole, "128")? / 127.0;
    let rest = (nll(&second, "128")? - nll(&second, "96")?) / 32.0;
    let options = ["--length", "128", "--sliding-window", "32", "--document-tokens", "161", "--json"];
    let results = results(eval(&whole, &options)?)?;
    let got = results[0]["nll"].as_f64().context("nll")?;
    assert_eq!((&results[0]["samples"].as_array().map(Vec::len), &results[0]["tokens"]), (&Some(2), &json!(127 + 32)));
    assert!((got - (first + rest) / 2.0).abs() < 1e-4, "{got} for {first} and {rest}");
    eval(&whole, &["--length", "128", "--sliding-window", "128"])?
        .assert_failed(2, &["--sliding-window", "at most 126"]);
    eval(&whole, &["--document-tokens", "128"])?.assert_failed(2, &["--sliding-window"]);
    Ok(())
}
