//! Factor tables on their way out: nothing is dropped without a word.

#![cfg(feature = "local")]
#![allow(clippy::unwrap_used)] // helpers of tests are tests

use ropewalk_coordinator::export::{ExportError, HfOptions, ShortSet, csv, hf, json};
use ropewalk_shared::factor_file::FactorFile;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

const SHORT: [f64; 4] = [1.0, 1.0, 1.0, 1.0];
const MIDDLE: [f64; 4] = [1.0, 1.5, 1.75, 2.0];
const LONG: [f64; 4] = [1.0, 2.0, 5.0, 8.0];

/// Sets from 64, 128 and 512 tokens for a model of 64.
fn table() -> Value {
    json!({
        "rescale_factors": LONG, "attention_factor": 1.25, "target_length": 512,
        "windows": [
            {"from_length": 64, "rescale_factors": SHORT},
            {"from_length": 128, "rescale_factors": MIDDLE, "attention_factor": 1.125},
            {"from_length": 512, "rescale_factors": LONG, "attention_factor": 1.25},
        ],
    })
}

fn file(changes: impl FnOnce(&mut Value)) -> FactorFile {
    let mut table = table();
    changes(&mut table);
    FactorFile::from_json(&table.to_string()).unwrap()
}

fn config() -> Value {
    json!({"model_type": "llama", "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 64, "rope_theta": 10000.0})
}

#[test]
fn two_sets_are_taken_and_the_third_is_named() {
    let export = hf::export(&file(|_| {}), &config().to_string(), &HfOptions::default()).unwrap();
    let patch: Value = serde_json::from_str(&export.content).unwrap();
    let dictionary = &patch["rope_scaling"];
    assert_eq!((&dictionary["short_factor"], &dictionary["long_factor"]), (&json!(SHORT), &json!(LONG)));
    assert_eq!((&dictionary["short_mscale"], &dictionary["long_mscale"]), (&json!(1.25), &json!(1.25)));
    assert_eq!(dictionary["attention_factor"], json!(1.25));
    assert_eq!(export.left_out_windows, [128]);
    let notes = export.notes.join("\n");
    for said in ["left out is the set from 128 tokens", "every engine multiplies by 1.250000 at every length"] {
        assert!(notes.contains(said), "{said}: {notes}");
    }
}

#[test]
fn other_short_factors_leave_the_tables_out() {
    let options = HfOptions { short: Some(ShortSet::Same), ..HfOptions::default() };
    let export = hf::export(&file(|_| {}), &config().to_string(), &options).unwrap();
    let patch: Value = serde_json::from_str(&export.content).unwrap();
    assert_eq!(patch["rope_scaling"]["short_factor"], json!(LONG));
    assert_eq!(export.left_out_windows, [64, 128]);
    assert!(export.notes.join("\n").contains("left out are the sets from 64, 128 tokens"), "{:?}", export.notes);
}

#[test]
fn a_short_window_that_leaves_starting_tokens_alone_is_refused() {
    let file = file(|table| table["windows"][0]["start_tokens"] = json!(4));
    let error = hf::export(&file, &config().to_string(), &HfOptions::default()).unwrap_err();
    assert!(matches!(error, ExportError::ShortStartTokens { start_tokens: 4, original: 64 }), "{error}");
    assert_eq!(FactorFile::from_json(&json::export(&file, None).unwrap().content).unwrap(), file);
}

#[test]
fn one_set_is_refused_or_chosen() {
    let refused = csv::export(&file(|_| {}), None).unwrap_err().to_string();
    for said in ["3 sets", "64", "512", "--window"] {
        assert!(refused.contains(said), "{said}: {refused}");
    }
    let chosen = csv::export(&file(|_| {}).at_window(200).unwrap(), None).unwrap();
    assert_eq!(chosen.content, "1.0\n1.5\n1.75\n2.0\n");
}

fn export(factors: &Path, options: &[&str]) -> (Option<i32>, String, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_ropewalk")).arg("export").arg(factors).args(options).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_command_says_to_programs_what_is_left_out() {
    let room = tempfile::tempdir().unwrap();
    let (factors, model) = (room.path().join("table.json"), room.path().join("model"));
    std::fs::write(&factors, table().to_string()).unwrap();
    std::fs::create_dir(&model).unwrap();
    std::fs::write(model.join("config.json"), config().to_string()).unwrap();
    let model = model.to_str().unwrap();

    let (status, stdout, stderr) = export(&factors, &["--format", "hf", "--model", model, "--json"]);
    assert_eq!(status, Some(0), "{stderr}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&report["format"], &report["left_out_windows"]), (&json!("hf"), &json!([128])));
    let patch: Value = serde_json::from_str(report["content"].as_str().unwrap()).unwrap();
    assert_eq!(patch["rope_scaling"]["short_factor"], json!(SHORT));
    assert!(stderr.contains("left out is the set from 128 tokens"), "{stderr}");

    let (status, _, stderr) = export(&factors, &["--format", "csv"]);
    assert_eq!((status, stderr.contains("--window")), (Some(2), true), "{stderr}");
    let (status, stdout, _) = export(&factors, &["--format", "csv", "--window", "64"]);
    assert_eq!((status, stdout.as_str()), (Some(0), "1.0\n1.0\n1.0\n1.0\n"));
    let (status, stdout, _) = export(&factors, &[]);
    assert_eq!(status, Some(0));
    assert_eq!(FactorFile::from_json(&stdout).unwrap(), file(|_| {}));
    std::fs::write(&factors, json!({"rescale_factors": LONG}).to_string()).unwrap();
    let (status, _, stderr) = export(&factors, &["--window", "64"]);
    assert_eq!((status, stderr.contains("no table of windows")), (Some(2), true), "{stderr}");
}
