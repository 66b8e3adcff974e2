//! `ropewalk eval` with factor tables, at windows of deployed models, and by sliding windows.

use anyhow::{Context as _, Result, ensure};
#[cfg(target_os = "linux")]
use ropewalk_tests::binaries;
use ropewalk_tests::command::{Ended, ropewalk};
use ropewalk_tests::{documents, models};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
#[cfg(target_os = "linux")]
use std::{
    process::{Command, Stdio},
    time::Duration,
};
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

#[test]
fn files_of_the_same_name_are_told_apart_and_those_of_other_models_told_of() -> Result<()> {
    let folder = TempDir::new()?;
    let tokens = documents::write(folder.path(), 2, 256, VOCABULARY, 5)?;
    let ones = vec![1.0; 32];
    let model = |fingerprint: &str| {
        json!({"name": "some", "model_type": "llama", "fingerprint": fingerprint, "head_dim": 64, "rotary_dim": 64,
            "rope_theta": 10000.0})
    };
    let own = ropewalk_worker::model::fingerprint_dir(&models::lab())?.to_string();
    let other = "ab".repeat(32);
    let factors = |name: &str, content: Value| -> Result<String> {
        std::fs::create_dir_all(folder.path().join(name))?;
        let path = written(&folder, &format!("{name}/factors.json"), &content.to_string())?;
        Ok(path.to_string_lossy().into_owned())
    };
    let files = [
        factors("a", json!({"rescale_factors": ones, "model": model(&own)}))?,
        factors("b", json!({"rescale_factors": ones, "model": model(&other)}))?,
        factors("c", json!({"rescale_factors": ones}))?,
    ];
    let options = ["--length", "256", "--factors", &files.join(","), "--json"];
    let ended = eval(&tokens, &options)?.done()?;
    let notes: Vec<&str> = ended.stderr.lines().filter(|line| line.contains("another model")).collect();
    assert!(notes.len() == 1 && notes[0].starts_with(&files[1]), "{ended}");
    assert!(notes[0].contains(&other[..12]) && notes[0].contains(&own[..12]), "{ended}");
    let names: Vec<Value> = results(ended)?.iter().map(|of| of["factors"].clone()).collect();
    assert_eq!(names, ["a/factors.json", "b/factors.json", "c/factors.json"]);

    let out = folder.path().join("out");
    let options =
        ["--passkey", "--depths", "1", "--trials", "1", "--length", "256", "--factors", &files[..2].join(",")];
    let paths = [models::lab(), out.clone()].map(|path| path.to_string_lossy().into_owned());
    ropewalk([&["eval", "--model", &paths[0], "--out", &paths[1]][..], &options].concat())?.done()?;
    for name in ["passkey-0-a-factors.json.svg", "passkey-1-b-factors.json.svg"] {
        assert!(out.join(name).is_file(), "{name}");
    }
    Ok(())
}

/// Whether the process has come so far that it catches SIGINT.
#[cfg(target_os = "linux")]
fn catches_interrupts(process: u32) -> Result<bool> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).context("no SigCgt")?;
    // Signals count from 1, and SIGINT is the second.
    Ok(u64::from_str_radix(caught.trim(), 16)? & 0b10 != 0)
}

/// The first length takes a moment and the second a minute.
#[cfg(target_os = "linux")]
#[test]
fn an_interruption_keeps_what_was_finished() -> Result<()> {
    let folder = TempDir::new()?;
    let tokens = documents::write(folder.path(), 1, 65_536, VOCABULARY, 6)?.to_string_lossy().into_owned();
    let model = models::lab().to_string_lossy().into_owned();
    let mut command = Command::new(binaries::ropewalk()?);
    command.args(["eval", "--model", &model, "--tokens", &tokens, "--length", "128,65536", "--samples", "1", "--json"]);
    let mut child = command.args(["--threads", "1"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    while !catches_interrupts(child.id())? {
        ensure!(child.try_wait()?.is_none(), "it has ended by itself");
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_secs(1));
    ensure!(Command::new("kill").args(["-INT", &child.id().to_string()]).status()?.success(), "cannot signal it");
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(report["interrupted"], true);
    let results = report["results"].as_array().context("no results")?;
    assert!(said.contains(&format!("interrupted; {} of 2 measurements", results.len())), "{said}");
    // On a machine with much else to do a moment may be longer than a second.
    assert!(results.iter().map(|of| &of["length"]).eq([128].iter().take(results.len())), "{results:?}");
    Ok(())
}
