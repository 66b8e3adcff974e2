//! `ropewalk export` of attention factors of single rotary pairs: folded into a model's weights, refused elsewhere.

#![cfg(feature = "local")]
#![allow(clippy::unwrap_used)] // helpers of tests are tests

use ropewalk_shared::factor_file::FactorFile;
use ropewalk_shared::rope::Rescale;
use ropewalk_worker::cancel::CancelFlag;
use ropewalk_worker::device::{DeviceChoice, Dtype};
use ropewalk_worker::evaluator::{Evaluator, EvaluatorOptions};
use ropewalk_worker::model::Model;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const LONG: [f64; 8] = [1.0, 1.25, 1.5, 2.0, 3.5, 6.0, 8.0, 8.5];
/// Powers of two, which no format of weights rounds.
const PROFILE: [f64; 8] = [2.0, 2.0, 1.0, 1.0, 0.5, 1.0, 0.5, 0.5];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/golden").join(name)
}

/// Writes a factor file with a profile, and some keys changed.
fn factors(room: &Path, changes: Value) -> PathBuf {
    let mut file = json!({
        "schema": "ropewalk.factors/v1", "target_length": 512, "rescale_factors": LONG, "attention_factor": 1.125,
        "pair_attention": PROFILE, "objective": {"kind": "perplexity", "value": 11.5, "samples": 5, "held_out": 12.625},
        "baselines": {"without-pair-attention": {"value": 11.75, "held_out": 12.875, "attention_factor": 1.125}},
    });
    for (key, value) in changes.as_object().unwrap() {
        file[key] = value.clone();
    }
    let path = room.join("factors.json");
    fs::write(&path, file.to_string()).unwrap();
    path
}

fn export(factors: &Path, options: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ropewalk")).arg("export").arg(factors).args(options).output().unwrap()
}

fn apply(factors: &Path, case: &str, options: &[&str]) -> Output {
    let (model, out) = (golden(case), factors.with_file_name("out"));
    let own = ["--apply", model.to_str().unwrap(), "--out", out.to_str().unwrap()];
    export(factors, &[&own, options].concat())
}

fn loss(dir: &Path, rescale: Option<&Rescale>, length: usize) -> f64 {
    let model = Model::load(dir, &DeviceChoice::Cpu.open().unwrap(), Dtype::F32).unwrap();
    let shipped = model.description().shipped_rescale(512);
    let options = EvaluatorOptions { threads: 1, chunk_tokens: 64, ..Default::default() };
    let tokens: Vec<u32> = (0..length as u32).map(|i| i * i * 31 % 96).collect();
    let evaluator = Evaluator::new(model.into(), options).unwrap();
    evaluator.evaluate(rescale.unwrap_or(&shipped), &tokens, &CancelFlag::new(), &mut |_| {}).unwrap().nll_sum
}

/// What an engine loads computes, under its own config.json alone, what was searched with a profile.
#[test]
fn the_folder_computes_with_the_profile_in_its_weights() {
    for case in ["llama", "llama-sharded", "mistral", "qwen2", "qwen3"] {
        let room = tempfile::tempdir().unwrap();
        let path = factors(room.path(), json!({}));
        let output = apply(&path, case, &["--json"]);
        let notes = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{case}: {notes}");
        assert!(notes.contains("folded into the query and key weights") && !notes.contains("hard links"), "{notes}");

        let (out, searched) =
            (room.path().join("out"), FactorFile::from_json(&fs::read_to_string(&path).unwrap()).unwrap());
        let (with, folded) = (loss(&golden(case), Some(&searched.rescale()), 300), loss(&out, None, 300));
        assert!((folded / with - 1.0).abs() < 2e-6, "{case}: {folded} for {with}");
        let without = loss(&golden(case), Some(&searched.rescale().without_pair_attention()), 300);
        assert!((without / with - 1.0).abs() > 1e-5, "{case}: the profile changes nothing");

        // What stands beside the weights goes with them: nothing is multiplied twice.
        let text = fs::read_to_string(out.join("factors.json")).unwrap();
        let beside = FactorFile::from_json(&text).unwrap();
        assert!(beside.pair_attention.is_empty() && beside.model.is_none(), "{text}");
        assert_eq!(beside.rescale(), searched.rescale().without_pair_attention());
        let card = fs::read_to_string(out.join("README.md")).unwrap();
        assert!(
            card.contains("Query and key weights are multiplied") && !card.contains("weights are unchanged"),
            "{card}"
        );
    }
}

#[test]
fn forms_that_have_one_attention_factor_say_what_to_do() {
    let room = tempfile::tempdir().unwrap();
    let path = factors(room.path(), json!({}));
    let model = golden("llama");
    for options in [&["--format", "csv"][..], &["--format", "hf", "--model", model.to_str().unwrap()]] {
        let output = export(&path, options);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{message}");
        for part in ["no place for", "12.8750 without them, 12.6250 with", "--apply MODEL"] {
            assert!(message.contains(part), "{part}: {message}");
        }
    }
    let output = export(&path, &["--format", "json"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(FactorFile::from_json(&text).unwrap().pair_attention, PROFILE);
}

/// Weights have one profile for all lengths.
#[test]
fn tables_with_several_profiles_are_refused() {
    let room = tempfile::tempdir().unwrap();
    let window = |from: u32, factors: [f64; 8], profile: Value| {
        let mut window = json!({"from_length": from, "rescale_factors": factors, "attention_factor": 1.125});
        if !profile.is_null() {
            window["pair_attention"] = profile;
        }
        window
    };
    let long = window(65, LONG, json!(PROFILE));
    let mixed = factors(room.path(), json!({"windows": [window(1, [1.0; 8], Value::Null), long]}));
    let output = apply(&mixed, "llama", &[]);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("from 1 tokens has other") && message.contains("--window LENGTH"), "{message}");
    assert!(!room.path().join("out").exists());
    assert_eq!(apply(&mixed, "llama", &["--window", "512"]).status.code(), Some(0));

    // The same in all, and short factors from a file that has another.
    fs::remove_dir_all(room.path().join("out")).unwrap();
    let alike = factors(room.path(), json!({"windows": [window(1, [1.0; 8], json!(PROFILE)), long]}));
    assert_eq!(apply(&alike, "llama", &[]).status.code(), Some(0));
    fs::remove_dir_all(room.path().join("out")).unwrap();
    let short = room.path().join("short.json");
    fs::write(&short, json!({"rescale_factors": vec![1.0; 8]}).to_string()).unwrap();
    let plain = factors(room.path(), json!({}));
    let output = apply(&plain, "llama", &["--short", short.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
}
