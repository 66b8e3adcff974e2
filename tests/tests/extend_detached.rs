//! Plans that a coordinator carries out by itself: killed at any point, paused, cancelled, and all that can be wrong.
#![cfg(target_os = "linux")]

use anyhow::{Context as _, Result, ensure};
use ropewalk_tests::command::{Ended, ropewalk};
use ropewalk_tests::extend::{SmallPlan, made};
use ropewalk_tests::process::{Coordinator, Worker};
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// What takes longer hangs.
const LIMIT: Duration = Duration::from_secs(120);

/// Trains on a worker, with a checkpoint after every step.
const TRAIN: &str = "[stage.training]
steps = 200
length = 128
sequences_per_step = 2
learning_rate = 1e-3
warmup_steps = 2
checkpoint_every = 1";

/// Waits for something.
fn wait_until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !holds()? {
        ensure!(start.elapsed() < LIMIT, "it never happens that {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// How many processes carry out the plan of this folder.
fn carriers(out: &Path) -> Result<usize> {
    let out = out.to_string_lossy().into_owned();
    let mut found = 0;
    for process in std::fs::read_dir("/proc")? {
        // Processes come and go while the folder is read; one that has ended and was not waited for has no arguments.
        let arguments = std::fs::read(process?.path().join("cmdline")).unwrap_or_default();
        let mut arguments = arguments.split(|&byte| byte == 0);
        found += usize::from(
            arguments.any(|argument| argument == b"carry-plan") && arguments.any(|argument| argument == out.as_bytes()),
        );
    }
    Ok(found)
}

fn control(command: &str, job: &str, url: &str) -> Result<Ended> {
    ropewalk([command, job, "--coordinator", url, "--json"])
}

fn status(job: &str, url: &str) -> Result<Value> {
    control("status", job, url)?.json()
}

/// Waits until the plan's training has come so far, and returns its id.
fn wait_for_steps(url: &str, steps: u64) -> Result<String> {
    let mut training = None;
    wait_until("the training gets there", || {
        let listed = ropewalk(["jobs", "--coordinator", url, "--json"])?.done()?;
        let jobs: Vec<Value> = listed.stdout.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let found = jobs.into_iter().find(|job| job["training"]["steps_done"].as_u64() >= Some(steps));
        training = found.and_then(|job| job["job_id"].as_str().map(str::to_owned));
        Ok(training.is_some())
    })?;
    training.context("no training")
}

fn wait_for_reason(job: &str, url: &str, said: &str) -> Result<()> {
    wait_until(said, || Ok(status(job, url)?["reason"].as_str().is_some_and(|reason| reason.contains(said))))
}

/// A coordinator that carries plans out, and a worker that does all there is to do.
fn cluster(folder: &Path, out: &Path) -> Result<(Coordinator, Worker)> {
    std::fs::create_dir_all(out.join("models"))?;
    let coordinator = Coordinator::start_with_plans(folder, folder)?;
    let worker = Worker::start_training(folder, &coordinator.url, "only", &out.join("models"), folder)?;
    Ok((coordinator, worker))
}

#[test]
fn a_plan_goes_on_by_itself_whenever_its_coordinator_was_killed() -> Result<()> {
    let folder = TempDir::new()?;
    let plan = SmallPlan::new(folder.path(), TRAIN)?;
    let (calm, out) = (folder.path().join("calm"), folder.path().canonicalize()?.join("out"));
    plan.run(&calm, &[])?.done()?;
    let (mut coordinator, _worker) = cluster(folder.path(), &out)?;
    let url = coordinator.url.clone();
    let id = plan.launch(&out, &url)?;
    assert_eq!(plan.launch(&out, &url)?, id, "the same is only named");
    for (stage, steps) in [("first", 0), ("tune", 30), ("tune", 90), ("second", 0), ("recover", 0)] {
        let begun = out.join("stages").join(stage).join("stage.json");
        wait_until("the stage begins", || Ok(begun.exists()))?;
        if steps > 0 {
            wait_for_steps(&url, steps)?;
        }
        coordinator.kill()?;
        wait_until("the process goes with its coordinator", || Ok(carriers(&out)? == 0))?;
        coordinator.restart()?;
    }
    let watched = ropewalk(["watch", &id, "--coordinator", &url, "--json"])?.done()?;
    for kind in ["stage-begun", "stage-done"] {
        for stage in SmallPlan::STAGES {
            let told = format!("\"kind\":\"{kind}\",\"stage\":\"{stage}\"");
            assert_eq!(watched.stdout.matches(&told).count(), 1, "{kind} {stage}: {watched}");
        }
    }
    let last = status(&id, &url)?;
    assert_eq!((&last["state"], &last["plan"]["stages_done"]), (&"done".into(), &6.into()), "{last:#}");
    assert_eq!(carriers(&out)?, 0);
    let people = ropewalk(["watch", &id, "--coordinator", &url])?.done()?;
    assert!(people.stderr.contains("stage tune is done: ") && people.stdout.contains("6 of 6 done"), "{people}");
    let (calm, detached) = (made(&calm)?, made(&out)?);
    assert_eq!(calm.keys().collect::<Vec<_>>(), detached.keys().collect::<Vec<_>>());
    assert!(calm == detached);

    // A stage is repeated on purpose under the same job, and ends the same.
    assert_eq!(plan.run(&out, &["--coordinator", &url, "--detach", "--from", "recover"])?.done()?.stdout.trim(), id);
    ropewalk(["watch", &id, "--coordinator", &url])?.done()?;
    assert!(out.join("set-aside/recover-1/stage/factors.json").is_file());
    assert!(made(&out)? == detached);
    Ok(())
}

#[test]
fn pausing_and_cancelling_a_plan_hold_for_its_training_and_its_process() -> Result<()> {
    let folder = TempDir::new()?;
    let plan = SmallPlan::new(folder.path(), &TRAIN.replace("200", "400"))?;
    let out = folder.path().canonicalize()?.join("out");
    let (coordinator, _worker) = cluster(folder.path(), &out)?;
    let url = &coordinator.url;
    let id = plan.launch(&out, url)?;
    let training = wait_for_steps(url, 5)?;
    assert_eq!(control("pause", &id, url)?.json()?["state"], "paused");
    assert_eq!(status(&training, url)?["state"], "paused");
    wait_until("the process ends", || Ok(carriers(&out)? == 0))?;
    control("resume", &id, url)?.done()?;
    assert_eq!(status(&training, url)?["state"], "running");
    wait_for_steps(url, 15)?;
    assert_eq!(control("cancel", &id, url)?.json()?["state"], "cancelled");
    assert_eq!(status(&training, url)?["state"], "cancelled");
    wait_until("the process ends", || Ok(carriers(&out)? == 0))?;

    // Launched again it goes on; somebody who ends its training ends it, and it says in which stage.
    assert_eq!(plan.launch(&out, url)?, id);
    wait_until("the training goes on", || Ok(status(&training, url)?["state"] == "running"))?;
    control("cancel", &training, url)?.done()?;
    let ended = ropewalk(["watch", &id, "--coordinator", url])?;
    assert_eq!(ended.status, Some(1), "{ended}");
    let last = status(&id, url)?;
    assert_eq!((&last["state"], &last["plan"]["stages_done"]), (&"failed".into(), &1.into()), "{last:#}");
    let reason = last["reason"].as_str().context("no reason")?;
    assert!(reason.contains("stage tune") && reason.contains("cancelled"), "{reason}");
    assert_eq!(plan.launch(&out, url)?, id);
    ropewalk(["watch", &id, "--coordinator", url])?.done()?;
    Ok(())
}

#[test]
fn a_stage_that_fails_is_tried_again_and_a_folder_in_use_is_waited_for() -> Result<()> {
    let folder = TempDir::new()?;
    let wait = folder.path().join("wait");
    let script = format!("test -e {} || exit 7; echo waiting; exec sleep 100", wait.display());
    let plan = SmallPlan::new(folder.path(), &format!("command = [\"sh\", \"-c\", {script:?}]"))?;
    let out = folder.path().canonicalize()?.join("out");
    let (mut coordinator, _worker) = cluster(folder.path(), &out)?;
    let url = coordinator.url.clone();
    let id = plan.launch(&out, &url)?;
    wait_for_reason(&id, &url, "tried again: stage tune: sh ended with exit status: 7")?;
    control("cancel", &id, &url)?.done()?;

    // Somebody runs the plan by hand.
    std::fs::write(wait, "")?;
    let by_hand = plan.start(&out, &[])?;
    let log = out.join("stages/tune/command.log");
    wait_until("the folder is taken", || Ok(std::fs::read_to_string(&log)?.contains("waiting")))?;
    assert_eq!(plan.launch(&out, &url)?, id);
    wait_for_reason(&id, &url, "in use by another process")?;
    assert_eq!(by_hand.interrupt()?.0, Some(1));
    wait_until("it goes on", || Ok(std::fs::read_to_string(&log)?.matches("waiting").count() == 2))?;

    // What was launched is what is carried out.
    coordinator.kill()?;
    let orders = std::fs::read_dir(out.join("orders"))?.collect::<std::io::Result<Vec<_>>>()?;
    let [order] = &orders[..] else { anyhow::bail!("{orders:?}") };
    let text = std::fs::read_to_string(order.path())?;
    std::fs::write(order.path(), text.replace("exit 7", "exit 0"))?;
    coordinator.restart()?;
    wait_until("it fails", || Ok(status(&id, &url)?["state"] == "failed"))?;
    wait_for_reason(&id, &url, "was changed since the plan was launched")?;
    Ok(())
}

#[test]
fn what_cannot_be_carried_out_is_refused_before_it_is_launched() -> Result<()> {
    let folder = TempDir::new()?;
    let mut plan = SmallPlan::new(folder.path(), TRAIN)?;
    let out = folder.path().join("out");
    plan.run(&out, &["--detach"])?.assert_failed(2, &["--coordinator"]);
    let without = Coordinator::start(folder.path())?;
    let refused = plan.run(&out, &["--coordinator", &without.url, "--detach"])?;
    refused.assert_failed(1, &["carries out no plans", "--plan-root"]);
    drop(without);
    let elsewhere = folder.path().join("elsewhere");
    std::fs::create_dir(&elsewhere)?;
    let coordinator = Coordinator::start_with_plans(folder.path(), &elsewhere)?;
    let detach = ["--coordinator", &coordinator.url, "--detach"];
    plan.run(&out, &detach)?.assert_failed(1, &["not on the coordinator's machine", "--out must lie in the folder"]);
    let odd = elsewhere.join("a plan");
    plan.run(&odd, &detach)?.assert_failed(2, &["folder", "letters, digits"]);
    plan.valid = "no/such/documents.jsonl".into();
    plan.text = plan.text.replace("steps = 200", "steps = 0");
    let never = elsewhere.join("never");
    plan.run(&never, &detach)?.assert_failed(2, &["--valid: ", "stage tune: training.steps"]);
    assert!(!never.exists());
    assert!(ropewalk(["jobs", "--coordinator", &coordinator.url, "--json"])?.done()?.stdout.is_empty());
    let nowhere = folder.path().join("nowhere");
    ropewalk(["serve", "--plan-root", &nowhere.to_string_lossy()])?.assert_failed(2, &["--plan-root", "nowhere"]);
    Ok(())
}
