//! `ropewalk export --apply`: folders that are whole, or not there.

#![cfg(all(feature = "local", unix))]
#![allow(clippy::unwrap_used)] // helpers of tests are tests

use ropewalk_shared::factor_file::FactorFile;
use ropewalk_shared::model_description::ModelDescription;
use ropewalk_worker::model::fingerprint_dir;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const LONG: [f64; 8] = [1.0, 1.25, 1.5, 2.0, 3.5, 6.0, 8.0, 8.5];

/// A folder with a model and a place beside it.
struct Room {
    dir: tempfile::TempDir,
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/golden").join(name)
}

impl Room {
    /// A copy of the smallest llama with what stands beside the weights of a published model.
    fn new() -> Self {
        let room = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(room.path("model")).unwrap();
        for name in ["config.json", "model.safetensors"] {
            fs::copy(golden("llama").join(name), room.path("model").join(name)).unwrap();
        }
        for (name, content) in [
            ("tokenizer.json", "{}"),
            ("tokenizer_config.json", r#"{"model_max_length": 64, "bos_token": "<s>"}"#),
            ("generation_config.json", r#"{"bos_token_id": 1}"#),
            ("LICENSE.txt", "terms"),
            ("README.md", "the card of the model"),
            ("pytorch_model.bin", "the same weights again"),
            ("modeling_llama.py", "raise SystemExit"),
        ] {
            fs::write(room.path("model").join(name), content).unwrap();
        }
        room
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a factor file for the model with some keys changed; null takes one away.
    fn factors(&self, changes: Value) -> PathBuf {
        let mut file = json!({
            "schema": "ropewalk.factors/v1",
            "model": {"name": "tiny", "model_type": "llama", "head_dim": 16, "rotary_dim": 16, "rope_theta": 10000.0,
                "fingerprint": fingerprint_dir(&self.path("model")).map_or("0".repeat(64), String::from)},
            "original_length": 64, "target_length": 512, "extension_ratio": 8.0,
            "rescale_factors": LONG, "start_tokens": 0, "attention_factor": 1.125,
            "objective": {"kind": "perplexity", "value": 11.5, "samples": 5, "held_out": 12.625},
            "baselines": {"none": {"value": 68.5, "held_out": 53.5, "attention_factor": 1.0},
                "yarn": {"value": 12.25, "held_out": 13.375, "attention_factor": 1.2079}},
        });
        for (key, value) in changes.as_object().unwrap() {
            match value {
                Value::Null => drop(file.as_object_mut().unwrap().remove(key)),
                value => file[key] = value.clone(),
            }
        }
        let path = self.path("factors.json");
        fs::write(&path, file.to_string()).unwrap();
        path
    }

    fn export(&self, factors: &Path, options: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ropewalk"));
        command.arg("export").arg(factors).arg("--apply").arg(self.path("model"));
        command.arg("--out").arg(self.path("out")).args(options).output().unwrap()
    }

    fn refused(&self, factors: &Path, options: &[&str], expected: &str) {
        let output = self.export(factors, options);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains(expected), "{expected}: {message}");
    }

    fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path("out").join(name)).unwrap()).unwrap()
    }
}

fn succeeded(output: &Output) -> String {
    let notes = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{notes}");
    notes
}

#[test]
fn the_folder_is_a_whole_model() {
    let room = Room::new();
    let factors = room.factors(json!({}));
    fs::create_dir(room.path("out")).unwrap();
    let output = room.export(&factors, &[]);
    let notes = succeeded(&output);
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim_end(), room.path("out").to_str().unwrap());
    assert_eq!(
        room.names("out"),
        [
            "LICENSE.txt",
            "README.md",
            "config.json",
            "factors.json",
            "generation_config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json"
        ]
    );
    assert_eq!(room.names("."), ["factors.json", "model", "out"]);

    let inode = |folder: &str, name: &str| fs::metadata(room.path(folder).join(name)).unwrap().ino();
    assert_eq!(inode("out", "model.safetensors"), inode("model", "model.safetensors"));
    assert_ne!(inode("out", "tokenizer.json"), inode("model", "tokenizer.json"));
    assert!(notes.contains("hard links") && !notes.contains("patch"), "{notes}");

    let config = fs::read_to_string(room.path("out/config.json")).unwrap();
    let model = ModelDescription::from_config_json(&config).unwrap();
    let rescale = model.shipped_rescale(512);
    assert_eq!((rescale.factors.as_slice(), rescale.attention_factor), (LONG.as_slice(), 1.125));
    assert_eq!(room.json("tokenizer_config.json"), json!({"model_max_length": 512, "bos_token": "<s>"}));
    let read = |path: &Path| FactorFile::from_json(&fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(read(&room.path("out/factors.json")), read(&factors));
}

#[test]
fn the_card_holds_the_comparison_and_how_to_load() {
    let room = Room::new();
    succeeded(&room.export(&room.factors(json!({})), &[]));
    let card = fs::read_to_string(room.path("out/README.md")).unwrap();
    for part in [
        "# model, 512 tokens",
        "8 times its original 64",
        "perplexity at 512 tokens",
        "| none | 0 | 1.0000 | 68.500 | 53.500 |",
        "| yarn | 0 | 1.2079 | 12.250 | 13.375 |",
        "| searched | 0 | 1.1250 | 11.500 | 12.625 |",
        "This folder runs the row `searched`",
        "With transformers 4 or 5",
        "AutoModelForCausalLM.from_pretrained",
        "--max-model-len 512",
    ] {
        assert!(card.contains(part), "{part}:\n{card}");
    }
    let known = room.factors(json!({"objective": null, "baselines": null, "model": null}));
    fs::remove_dir_all(room.path("out")).unwrap();
    let notes = succeeded(&room.export(&known, &[]));
    assert!(notes.contains("do not name their model"), "{notes}");
    let card = fs::read_to_string(room.path("out/README.md")).unwrap();
    assert!(card.contains("records no measurement") && card.contains("does not say which model"), "{card}");
}

#[test]
fn shards_behind_symbolic_links_become_files() {
    let room = Room::new();
    fs::remove_dir_all(room.path("model")).unwrap();
    for folder in ["model", "blobs"] {
        fs::create_dir(room.path(folder)).unwrap();
    }
    // As the download cache of the hub keeps them.
    for (at, entry) in fs::read_dir(golden("llama-sharded")).unwrap().enumerate() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), room.path("blobs").join(at.to_string())).unwrap();
        symlink(format!("../blobs/{at}"), room.path("model").join(entry.file_name())).unwrap();
    }
    succeeded(&room.export(&room.factors(json!({"model": null})), &[]));
    for name in ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]
    {
        let path = room.path("out").join(name);
        assert!(path.symlink_metadata().unwrap().is_file(), "{name}");
        assert_eq!(fs::read(path).unwrap(), fs::read(golden("llama-sharded").join(name)).unwrap(), "{name}");
    }
}

#[test]
fn the_folder_of_a_search_stands_for_its_factors() {
    let room = Room::new();
    room.factors(json!({}));
    succeeded(&room.export(room.dir.path(), &[]));
    assert_eq!(room.json("factors.json")["rescale_factors"], json!(LONG));
    fs::remove_dir_all(room.path("out")).unwrap();
    room.refused(&room.path("model"), &[], "has no factors.json");
}

#[test]
fn factors_that_are_not_for_this_model_are_refused() {
    let room = Room::new();
    let with = |changes| room.factors(changes);
    let model = |theta: f64, print: &str| json!({"model": {"name": "tiny", "model_type": "llama", "head_dim": 16, "rotary_dim": 16, "rope_theta": theta, "fingerprint": print}});
    room.refused(&with(model(10000.0, &"ab".repeat(32))), &[], "fingerprint abababababab");
    room.refused(&with(model(5e5, &"ab".repeat(32))), &[], "rope_theta 500000, this model has 10000");
    room.refused(&with(json!({"rescale_factors": [1.0, 2.0]})), &[], "the model needs 8");
    room.refused(&with(json!({"original_length": 128})), &[], "original length 128");
    room.refused(&with(json!({"start_tokens": 4})), &[], "--drop-start-tokens");
    room.refused(&with(json!({"target_length": null})), &[], "--target-length");
    room.refused(&room.path("none.json"), &[], "no such factor file");
    assert_eq!(room.names("."), ["factors.json", "model"]);

    // One weight changed: the shape says nothing, the fingerprint does.
    let factors = with(json!({}));
    let weights = room.path("model/model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&weights, &bytes).unwrap();
    room.refused(&factors, &[], "other weights");
    fs::remove_file(&weights).unwrap();
    room.refused(&factors, &[], "model.safetensors");
    assert_eq!(room.names("."), ["factors.json", "model"]);
}

#[test]
fn nothing_is_overwritten_and_options_that_contradict_are_refused() {
    let room = Room::new();
    let factors = room.factors(json!({}));
    for options in [&["--format", "csv"][..], &["--whole"], &["--model", "."]] {
        room.refused(&factors, options, "cannot be used with");
    }
    fs::create_dir(room.path("out")).unwrap();
    fs::write(room.path("out/mine"), "mine").unwrap();
    room.refused(&factors, &[], "is not empty");
    assert_eq!(room.names("out"), ["mine"]);
    fs::remove_dir_all(room.path("out")).unwrap();
    fs::write(room.path("out"), "a file").unwrap();
    room.refused(&factors, &[], "no place for a folder");
    assert_eq!(fs::read_to_string(room.path("out")).unwrap(), "a file");
}

#[test]
fn starting_tokens_are_dropped_when_asked_to() {
    let room = Room::new();
    let factors = room.factors(json!({"start_tokens": 4, "baselines":
        {"without-start-tokens": {"value": 11.75, "held_out": 12.875, "attention_factor": 1.125}}}));
    let notes = succeeded(&room.export(&factors, &["--drop-start-tokens"]));
    assert!(notes.contains("12.6250 with them, 12.8750 as exported"), "{notes}");
    let written = room.json("factors.json");
    assert_eq!(written["start_tokens"], json!(0));
    assert_eq!(
        written["dropped_start_tokens"],
        json!({"start_tokens": 4, "with": 12.625, "without": 12.875, "held_out": true})
    );
    // It says what its own factors are worth.
    let objective = &written["objective"];
    assert_eq!((&objective["value"], &objective["held_out"]), (&json!(11.75), &json!(12.875)));
    assert!(!written["baselines"].to_string().contains("without-start-tokens"), "{written}");
    let card = fs::read_to_string(room.path("out/README.md")).unwrap();
    assert!(card.contains("| without-start-tokens | 0 | 1.1250 | 11.750 | 12.875 |"), "{card}");
    assert!(card.contains("leaves 4 starting tokens unscaled") && card.contains("12.8750 as exported"), "{card}");
}

#[test]
fn a_window_given_beside_the_factors_is_recorded() {
    let room = Room::new();
    let factors = room.path("factors.csv");
    fs::write(&factors, LONG.map(|factor| factor.to_string()).join("\n")).unwrap();
    succeeded(&room.export(&factors, &["--target-length", "512"]));
    let written = room.json("factors.json");
    assert_eq!((&written["target_length"], &written["rescale_factors"]), (&json!(512), &json!(LONG)));
    assert_eq!(room.json("config.json")["max_position_embeddings"], json!(512));
}

#[test]
fn a_disk_that_fills_up_leaves_nothing_behind() {
    let room = Room::new();
    let factors = room.factors(json!({}));
    fs::write(room.path("model/tokenizer.json"), vec![b' '; 200_000]).unwrap();
    // Files of at most 100 or 200 blocks of 512 bytes, and an error instead of a signal: writing fails halfway, after
    // the weights are in place.
    let script = r#"trap '' XFSZ; ulimit -f 100; exec "$0" "$@""#;
    let mut command = Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_ropewalk"), "export"]).arg(&factors);
    command.arg("--apply").arg(room.path("model")).arg("--out").arg(room.path("out"));
    let output = command.output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("cannot write") && message.contains("tokenizer.json"), "{message}");
    assert_eq!(room.names("."), ["factors.json", "model"]);
    succeeded(&room.export(&factors, &[]));
}
