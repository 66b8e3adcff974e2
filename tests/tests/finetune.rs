//! `ropewalk finetune`: killed at any moment it ends with the same weights; what is wrong is said.

use anyhow::{Context as _, Result, ensure};
use ropewalk_tests::command::{Ended, ropewalk};
use ropewalk_tests::models::{self, TINY_VOCABULARY};
use ropewalk_tests::{binaries, documents};
use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// Steps of the trainings here.
const STEPS: usize = 12;

/// A training of the tiny model, in a folder of its own.
struct Training {
    folder: TempDir,
    tokens: PathBuf,
}

impl Training {
    fn new() -> Result<Self> {
        let folder = TempDir::new()?;
        let tokens = documents::write(folder.path(), 7, 300, TINY_VOCABULARY, 3)?;
        Ok(Self { folder, tokens })
    }

    fn out(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn arguments(&self, out: &str) -> Vec<String> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let (model, tokens, out) = (text(&models::tiny()), text(&self.tokens), text(&self.out(out)));
        let steps = STEPS.to_string();
        let paths = ["finetune", "--model", &model, "--tokens", &tokens, "--out", &out, "--factors", "yarn"];
        let numbers = ["--length", "256", "--steps", &steps, "--batch", "2", "--learning-rate", "3e-3"];
        let mix = ["--short-share", "0.25", "--checkpoint-every", "1", "--json"];
        [&paths[..], &numbers, &mix].concat().into_iter().map(str::to_owned).collect()
    }

    fn run(&self, out: &str, more: &[&str]) -> Result<Ended> {
        let more = more.iter().map(|argument| (*argument).to_owned());
        ropewalk(self.arguments(out).into_iter().chain(more))
    }

    /// Kills the training with SIGKILL as soon as it tells of its step `step`.
    fn killed(&self, out: &str, step: usize) -> Result<()> {
        let mut command = Command::new(binaries::ropewalk()?);
        command.args(self.arguments(out)).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let lines = BufReader::new(child.stdout.take().context("no standard output")?).lines();
        for line in lines {
            let event: Value = serde_json::from_str(&line?)?;
            if event["event"] == "step" && event["step"] == step {
                break;
            }
        }
        child.kill()?;
        ensure!(!child.wait()?.success(), "it ended before it was killed");
        Ok(())
    }

    fn weights(&self, out: &str) -> Result<Vec<u8>> {
        Ok(std::fs::read(self.out(out).join("model/model.safetensors"))?)
    }
}

/// The events of a training that ended well.
fn events(ended: Ended) -> Result<Vec<Value>> {
    let ended = ended.done()?;
    ended.stdout.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

#[test]
fn a_training_that_is_killed_again_and_again_ends_with_the_same_weights() -> Result<()> {
    let training = Training::new()?;
    let told = events(training.run("calm", &[])?)?;
    let losses: Vec<f64> = told.iter().filter(|e| e["event"] == "step").filter_map(|e| e["loss"].as_f64()).collect();
    assert_eq!(losses.len(), STEPS);
    assert!(losses[STEPS - 1] < losses[0], "{losses:?}");

    for step in [1, 2, 5, 9] {
        training.killed("killed", step)?;
    }
    let told = events(training.run("killed", &["--threads", "1"])?)?;
    ensure!(told[0]["steps_before"].as_u64() >= Some(8), "it began anew: {}", told[0]);
    assert!(training.weights("killed")? == training.weights("calm")?);
    for file in ["loss.csv", "loss.svg", "factors.json"] {
        let read = |out: &str| std::fs::read(training.out(out).join(file));
        assert!(read("killed")? == read("calm")?, "{file}");
    }
    // Again: the result stands.
    let told = events(training.run("killed", &[])?)?;
    assert_eq!(told.len(), 1, "{told:?}");

    let model = training.out("calm").join("model");
    let (model, tokens) = (model.to_string_lossy().into_owned(), training.tokens.to_string_lossy().into_owned());
    let factors = training.out("calm").join("factors.json").to_string_lossy().into_owned();
    let eval = |model: &str| -> Result<f64> {
        let of = ["eval", "--model", model, "--tokens", &tokens, "--length", "256", "--factors", &factors, "--json"];
        ropewalk(of)?.json()?["results"][0]["nll"].as_f64().context("no loss")
    };
    let before = eval(&models::tiny().to_string_lossy())?;
    let after = eval(&model)?;
    assert!(after < before - 0.05, "{before} before, {after} after");
    Ok(())
}

#[test]
#[cfg(unix)]
fn a_full_disk_leaves_the_last_checkpoint_whole() -> Result<()> {
    let training = Training::new()?;
    training.run("calm", &[])?.done()?;
    training.killed("full", 3)?;
    // No file may be longer than 16 KiB, a checkpoint is: writing fails as on a full disk. The shell ignores the signal
    // that would come with it, and so does what it starts.
    let script = r#"trap '' XFSZ; ulimit -f 32; exec "$0" "$@""#;
    let output = Command::new("sh")
        .args(["-c", script])
        .arg(binaries::ropewalk()?)
        .args(training.arguments("full"))
        .stdin(Stdio::null())
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot write") && said.contains("checkpoint-"), "{said}");
    let left: Vec<String> = std::fs::read_dir(training.out("full").join("checkpoints"))?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    assert!(!left.is_empty() && left.iter().all(|name| !name.ends_with(".part")), "{left:?}");

    training.run("full", &[])?.done()?;
    assert!(training.weights("full")? == training.weights("calm")?);
    Ok(())
}

#[test]
fn wrong_requests_say_what_to_do() -> Result<()> {
    let training = Training::new()?;
    let failed = |more: &[&str]| training.run("out", more);
    // Several at once.
    failed(&["--clip=-1", "--retrieval-share", "2"])?.assert_failed(2, &["--clip: -1", "--retrieval-share: 2"]);
    failed(&["--factors", "nowhere.json"])?.assert_failed(2, &["cannot be used multiple times"]);
    let tokens = documents::write(training.folder.path(), 1, 1, TINY_VOCABULARY, 4)?;
    let swap = |from: &str, to: &str| -> Result<Ended> {
        let mut arguments = training.arguments("out");
        let place = arguments.iter().position(|argument| argument == from).context("no such option")? + 1;
        arguments[place] = to.to_owned();
        ropewalk(arguments)
    };
    swap("--tokens", &tokens.to_string_lossy())?.assert_failed(2, &["nothing to train on"]);
    swap("--factors", "nowhere.json")?.assert_failed(2, &["no such file", "none, pi, ntk, yarn"]);
    swap("--model", "nowhere")?.assert_failed(2, &["config.json"]);
    swap("--steps", "0")?.assert_failed(2, &["steps: 0"]);
    failed(&["--retrieval-share", "0.5"])?.assert_failed(2, &["tokenizer.json"]);

    // Another training's checkpoints, and another's result.
    training.killed("out", 2)?;
    failed(&["--seed", "1"])?.assert_failed(2, &["another training", "name another folder"]);
    failed(&[])?.done()?;
    failed(&["--seed", "1"])?.assert_failed(2, &["not the result of this training"]);
    Ok(())
}
