//! `ropewalk extend`: a whole plan, killed in every stage, and everything a user can get wrong about one.

use anyhow::{Context as _, Result};
use ropewalk_tests::command::ropewalk;
use ropewalk_tests::extend::{SmallPlan, made};
use ropewalk_tests::process::{Coordinator, Worker};
use ropewalk_tests::{documents, models};
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Trains by a program: it hands on the model, one weight file changed where nothing but a loss can notice.
const COPY: &str = r#"command = ["sh", "-c", "mkdir -p {out} && cp {model}/* $ROPEWALK_OUT/ && test -s {factors} && test $ROPEWALK_STEPS = 3"]
steps = 3"#;

fn json(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(serde_json::from_str(&text)?)
}

/// Trains in the program itself, with a checkpoint after every step; half of the sequences skip positions up to the length
/// of the second search.
const TRAIN: &str = "[stage.training]
steps = 12
length = 128
sequences_per_step = 2
learning_rate = 1e-3
warmup_steps = 2
mix = { skip_share = 0.5, skip_reach = '512' }
checkpoint_every = 1";

#[test]
fn a_plan_runs_to_its_end_and_is_not_repeated() -> Result<()> {
    let folder = TempDir::new()?;
    let plan = SmallPlan::new(folder.path(), COPY)?;
    let out = folder.path().join("out");
    let first = plan.run(&out, &[])?.done()?;
    for stage in SmallPlan::STAGES {
        assert!(first.stderr.contains(&format!("{stage} (")), "{first}");
    }
    // The second search starts from the first one's factors, rescaled: differences from 1 grow by 7 / 3.
    let stage = |name: &str| out.join("stages").join(name);
    let factors = |name: &str| json(&stage(name).join("factors.json"));
    assert_eq!(factors("second")?["model"]["name"], "llama-v4-tune");
    assert_eq!(factors("second")?["target_length"], 512);

    // A table: each set serves every length up to the one it was searched for.
    let table = factors("recover")?;
    let windows = table["windows"].as_array().context("no windows")?;
    let from: Vec<u64> = windows.iter().filter_map(|window| window["from_length"].as_u64()).collect();
    assert_eq!(from, [1, 65, 129, 257]);
    assert_eq!(windows[3]["rescale_factors"], factors("second")?["rescale_factors"]);
    assert_eq!(windows[2]["rescale_factors"], factors("first")?["rescale_factors"]);
    for window in &windows[..2] {
        let set = window["rescale_factors"].as_array().context("no factors")?;
        assert!(
            set.iter().all(|factor| factor.as_f64().is_some_and(|factor| (1.0..=2.0).contains(&factor))),
            "{set:?}"
        );
    }

    let report = json(&stage("measure").join("report.json"))?;
    let at = |length: u64, factors: &str| -> Result<f64> {
        let all = report["perplexity"].as_array().context("no perplexity")?;
        let found = all.iter().find(|at| at["length"] == length && at["factors"] == factors);
        found.and_then(|at| at["perplexity"].as_f64()).context("not measured")
    };
    // What eval says of the same factors and documents; the plan's documents are drawn, so one is compared by its loss.
    assert_eq!(at(512, "extended")?, at(512, "long")?);
    // The weights are the model's own, and without factors its perplexity at its own window is its own.
    assert_eq!(at(64, "original")?, at(64, "pi")?);
    assert!(std::fs::read_to_string(stage("measure").join("report.md"))?.contains("| 512 |"));

    let model = out.join("models/llama-v4-give");
    let config = json(&model.join("config.json"))?;
    assert_eq!(config["max_position_embeddings"], 512, "{config:#}");

    // Again: nothing is repeated, and nothing changes.
    let before = made(&out)?;
    let again = plan.run(&out, &["--json"])?.done()?;
    let events: Vec<Value> = again.stdout.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    assert_eq!(events.len(), SmallPlan::STAGES.len(), "{again}");
    assert!(events.iter().all(|event| event["state"] == "done before"), "{again}");
    assert!(made(&out)? == before);

    // On purpose, a stage and what needs it are repeated, and end the same.
    let repeated = plan.run(&out, &["--from", "recover"])?.done()?;
    assert!(repeated.stderr.contains("second (search): done before"), "{repeated}");
    assert!(repeated.stderr.contains("give: to be repeated"), "{repeated}");
    assert!(made(&out)? == before);
    assert!(out.join("set-aside/recover-1/stage/factors.json").is_file());
    assert!(out.join("set-aside/give-1/model/config.json").is_file());

    let text = out.to_string_lossy().into_owned();
    let status = ropewalk(["extend", "--status", "--out", &text, "--json"])?.done()?;
    let stages = status.stdout.lines().map(serde_json::from_str).collect::<Result<Vec<serde_json::Value>, _>>()?;
    assert!(stages.len() > 1 && stages.iter().all(|stage| stage["state"] == "done"), "{status}");
    Ok(())
}

#[test]
fn other_settings_are_another_result() -> Result<()> {
    let folder = TempDir::new()?;
    let mut plan = SmallPlan::new(folder.path(), COPY)?;
    let out = folder.path().join("out");
    plan.run(&out, &[])?.done()?;
    plan.text = plan.text.replace("max_factor = 2", "max_factor = 3");
    let changed = plan.run(&out, &[])?.done()?;
    for done in ["first", "tune", "second"] {
        assert!(
            changed.stderr.contains(&format!("{done} (")) && !changed.stderr.contains(&format!("{done}: made with")),
            "{changed}"
        );
    }
    for repeated in ["recover", "measure", "give"] {
        assert!(changed.stderr.contains(&format!("{repeated}: made with other settings")), "{changed}");
    }
    // Another model of the same name is another plan altogether.
    let copy = models::copy_of_tiny(folder.path(), models::TINY)?;
    models::edit_config(&copy, "500000.0", "400000.0")?;
    plan.model = copy;
    let other = plan.run(&out, &[])?.done()?;
    assert!(other.stderr.contains("first: made with other settings or inputs"), "{other}");
    Ok(())
}

#[test]
fn killed_in_every_stage_it_ends_with_the_same_factors_and_weights() -> Result<()> {
    let folder = TempDir::new()?;
    let plan = SmallPlan::new(folder.path(), TRAIN)?;
    let (calm, out) = (folder.path().join("calm"), folder.path().join("out"));
    plan.run(&calm, &[])?.done()?;
    for (number, stage) in SmallPlan::STAGES.iter().enumerate() {
        // Early in one stage and later in the next: what is lost must never matter.
        for delay in [5, 120 + 60 * number as u64] {
            let mut running = plan.start(&out, &[])?;
            running.wait_for(&out, stage)?;
            std::thread::sleep(Duration::from_millis(delay));
            // One that is done already cannot be killed any more; then later stages are.
            let _ = running.kill();
        }
    }
    plan.run(&out, &[])?.done()?;
    // As one that was killed while it wrote the last model leaves it, if none of these did.
    let part = out.join("models/llama-v4-give.1-0.part");
    std::fs::create_dir_all(&part)?;
    std::fs::write(part.join("factors.json"), "{")?;
    plan.run(&out, &["--from", "give"])?.done()?;
    let (calm, killed) = (made(&calm)?, made(&out)?);
    assert_eq!(calm.keys().collect::<Vec<_>>(), killed.keys().collect::<Vec<_>>());
    // The training did something, and its loss is on record.
    let trained = Path::new("models/llama-v4-tune/model.safetensors");
    assert!(calm[trained] != std::fs::read(plan.model.join("model.safetensors"))?);
    assert_eq!(std::fs::read_to_string(out.join("stages/tune/loss.csv"))?.lines().count(), 1 + 12);
    for (path, content) in &calm {
        assert!(killed[path] == *content, "{} differs", path.display());
    }
    Ok(())
}

#[test]
fn an_interrupted_plan_says_how_it_goes_on() -> Result<()> {
    let folder = TempDir::new()?;
    let command =
        r#"command = ["sh", "-c", "sleep 100 & echo $! > $ROPEWALK_OUT/part; mv $ROPEWALK_OUT/part {out}/pid; wait"]"#;
    let plan = SmallPlan::new(folder.path(), command)?;
    let out = folder.path().join("out");
    let mut running = plan.start(&out, &[])?;
    running.wait_for(&out, "tune")?;
    let pid = out.join("stages/tune/checkpoint/pid");
    let start = Instant::now();
    while !pid.exists() {
        anyhow::ensure!(start.elapsed() < Duration::from_secs(60), "the program does not begin");
        std::thread::sleep(Duration::from_millis(10));
    }
    let started = Path::new("/proc").join(std::fs::read_to_string(pid)?.trim());
    assert!(started.exists());
    // Two at once would spoil each other's results.
    plan.run(&out, &[])?.assert_failed(1, &["in use by another process", "--out"]);
    let (status, said) = running.interrupt()?;
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("interrupted") && said.contains("the same command"), "{said}");
    // With the program ends what it has started; whoever inherits it may take a moment to see that.
    let is_over = || std::fs::read_to_string(started.join("stat")).map_or(true, |stat| stat.contains(") Z "));
    anyhow::ensure!(
        (0..100).any(|_| {
            std::thread::sleep(Duration::from_millis(20));
            is_over()
        }),
        "what the program started goes on"
    );
    Ok(())
}

/// What a coordinator lists.
fn jobs(url: &str) -> Result<Vec<Value>> {
    let listed = ropewalk(["jobs", "--coordinator", url, "--json"])?.done()?;
    Ok(listed.stdout.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

/// Waits until the coordinator knows so many steps of a training.
fn wait_for_steps(url: &str, steps: u64) -> Result<()> {
    let start = Instant::now();
    let mut waits = steps > 0;
    while waits {
        let jobs = jobs(url)?;
        waits = !jobs.iter().any(|job| job["training"]["steps_done"].as_u64() >= Some(steps));
        anyhow::ensure!(start.elapsed() < Duration::from_secs(120), "the training does not get there: {jobs:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

#[test]
fn a_whole_plan_runs_on_workers_that_are_killed() -> Result<()> {
    let folder = TempDir::new()?;
    let plan = SmallPlan::new(folder.path(), &TRAIN.replace("steps = 12", "steps = 200"))?;
    let calm = folder.path().join("calm");
    plan.run(&calm, &[])?.done()?;

    let out = folder.path().join("out");
    std::fs::create_dir_all(out.join("models"))?;
    let mut coordinator = Coordinator::start(folder.path())?;
    let url = coordinator.url.clone();
    // One shares the folder of plans, the other this plan's folder.
    let mut workers = [
        Worker::start_training(folder.path(), &url, "one", &out.join("models"), folder.path())?,
        Worker::start_training(folder.path(), &url, "two", &out.join("models"), &out)?,
    ];
    for (stage, steps) in [("first", 0), ("tune", 30), ("tune", 70), ("tune", 110), ("second", 0), ("recover", 0)] {
        let mut running = plan.start(&out, &["--coordinator", &url])?;
        running.wait_for(&out, stage)?;
        wait_for_steps(&url, steps)?;
        // In the training once the workers alone, and once the coordinator alone.
        if steps != 30 {
            coordinator.kill()?;
        }
        if steps != 110 {
            workers.iter_mut().try_for_each(Worker::kill)?;
            workers.iter_mut().try_for_each(Worker::restart)?;
        }
        let _ = running.kill();
        if steps != 30 {
            coordinator.restart()?;
        }
    }
    plan.run(&out, &["--coordinator", &url])?.done()?;
    let jobs = jobs(&url)?;
    let training = jobs.iter().find(|job| !job["training"].is_null()).context("no training was a job")?;
    assert_eq!(
        (&training["state"], &training["training"]["steps_done"]),
        (&"done".into(), &200.into()),
        "{training:#}"
    );
    let id = training["job_id"].as_str().context("no id")?;
    let events = ropewalk(["watch", id, "--coordinator", &url, "--json"])?.done()?;
    assert!(events.stdout.matches("training-leased").count() > 2, "nobody was killed in the training: {events}");
    let curve = |out: &Path| std::fs::read_to_string(out.join("stages/tune/loss.csv"));
    assert_eq!(curve(&calm)?, curve(&out)?, "every step is told once, and is the same");
    let (calm, remote) = (made(&calm)?, made(&out)?);
    assert_eq!(calm.keys().collect::<Vec<_>>(), remote.keys().collect::<Vec<_>>());
    assert!(calm == remote);
    Ok(())
}

/// Nobody waits for the former job any more, and its worker would write into the stage's folder.
#[test]
fn a_training_with_former_settings_is_cancelled() -> Result<()> {
    let folder = TempDir::new()?;
    let mut plan = SmallPlan::new(folder.path(), &TRAIN.replace("steps = 12", "steps = 1000"))?;
    let out = folder.path().join("out");
    std::fs::create_dir_all(out.join("models"))?;
    let coordinator = Coordinator::start(folder.path())?;
    let url = coordinator.url.clone();
    let _worker = Worker::start_training(folder.path(), &url, "only", &out.join("models"), folder.path())?;
    let mut running = plan.start(&out, &["--coordinator", &url])?;
    running.wait_for(&out, "tune")?;
    wait_for_steps(&url, 5)?;
    let _ = running.kill();

    plan.text = plan.text.replace("steps = 1000", "steps = 12");
    let changed = plan.run(&out, &["--coordinator", &url])?.done()?;
    assert!(changed.stderr.contains("which worked with the former settings, is cancelled"), "{changed}");
    let states: Vec<Value> = jobs(&url)?
        .into_iter()
        .filter(|job| !job["training"].is_null())
        .map(|job| serde_json::json!([job["training"]["steps"], job["state"]]))
        .collect();
    for expected in [serde_json::json!([1000, "cancelled"]), serde_json::json!([12, "done"])] {
        assert!(states.contains(&expected), "{states:?}");
    }
    let calm = folder.path().join("calm");
    plan.run(&calm, &[])?.done()?;
    let (calm, remote) = (made(&calm)?, made(&out)?);
    assert_eq!(calm.keys().collect::<Vec<_>>(), remote.keys().collect::<Vec<_>>());
    assert!(calm == remote);

    // A model that is gone is made again, and with it what was made of it; nothing that stands is.
    let model = "models/llama-v4-tune";
    std::fs::remove_dir_all(out.join(model))?;
    let again = plan.run(&out, &["--coordinator", &url])?.done()?;
    assert!(again.stderr.contains(&format!("{model} is gone")) && again.stderr.contains("first (search): done before"));
    assert!(made(&out)? == calm, "{again}");
    // So it is where all is gone that a coordinator once had made: the second time it knows the training as done.
    for known in [false, true] {
        std::fs::remove_dir_all(&out)?;
        std::fs::create_dir_all(out.join("models"))?;
        let emptied = plan.run(&out, &["--coordinator", &url])?.done()?;
        let again = emptied.stderr.contains("tune was trained before, but that model is no longer here");
        assert_eq!(again, known, "{emptied}");
        assert!(made(&out)? == calm);
    }
    Ok(())
}

#[test]
fn searches_run_on_a_coordinator_that_is_killed() -> Result<()> {
    let folder = TempDir::new()?;
    let plan = SmallPlan::new(folder.path(), COPY)?;
    let (calm, out) = (folder.path().join("calm"), folder.path().join("out"));
    plan.run(&calm, &[])?.done()?;
    let mut coordinator = Coordinator::start(folder.path())?;
    std::fs::create_dir_all(out.join("models"))?;
    let mut worker = Worker::start(folder.path(), &coordinator.url, "only", &out.join("models"))?;
    let url = coordinator.url.clone();
    for stage in ["first", "second", "recover"] {
        let mut running = plan.start(&out, &["--coordinator", &url])?;
        running.wait_for(&out, stage)?;
        std::thread::sleep(Duration::from_millis(100));
        coordinator.kill()?;
        worker.kill()?;
        let _ = running.kill();
        worker.restart()?;
        coordinator.restart()?;
    }
    plan.run(&out, &["--coordinator", &url])?.done()?;
    let (calm, remote) = (made(&calm)?, made(&out)?);
    assert_eq!(calm.keys().collect::<Vec<_>>(), remote.keys().collect::<Vec<_>>());
    assert!(calm == remote);
    Ok(())
}

/// Runs a plan that cannot be run; nothing may have begun.
fn refused(change: impl FnOnce(&mut SmallPlan) -> Result<()>, said: &[&str]) -> Result<()> {
    let folder = TempDir::new()?;
    let mut plan = SmallPlan::new(folder.path(), COPY)?;
    change(&mut plan)?;
    let out = folder.path().join("out");
    plan.run(&out, &[])?.assert_failed(2, said);
    assert!(!out.join("stages/first").exists(), "a stage began although the plan is wrong");
    Ok(())
}

fn replaced(from: &str, to: &str) -> impl FnOnce(&mut SmallPlan) -> Result<()> {
    move |plan| {
        anyhow::ensure!(plan.text.contains(from), "the plan has no {from}");
        plan.text = plan.text.replace(from, to);
        Ok(())
    }
}

/// A first search that extends nothing, and is then of no use in a table either.
fn too_short_a_search(plan: &mut SmallPlan) -> Result<()> {
    replaced("kind = \"search\"\nlength = 256", "kind = \"search\"\nlength = 60")(plan)?;
    replaced("keep = [\"first\"]\n", "")(plan)
}

#[test]
fn a_plan_that_makes_no_sense() -> Result<()> {
    refused(
        replaced("kind = \"search\"\nlength = 256", "kind = \"search\"\nfrom = \"tune\"\nlength = 256"),
        &["plan.toml", "a cycle: first -> tune -> first"],
    )?;
    refused(
        replaced("kind = \"recover\"\nfrom = \"tune\"", "kind = \"recover\"\nfrom = \"tuned\""),
        &["stage recover: from: \"tuned\" is no stage of the plan; its stages are first, tune"],
    )?;
    refused(
        replaced(COPY, "[stage.training]\nsteps = 0\nlength = 256\nlearning_rate = 2"),
        &["stage tune: training.steps: 0 must be from 1", "stage tune: training.learning_rate: 2 must be above 0"],
    )?;
    refused(
        replaced(COPY, "[stage.training]\nsteps = 9\nlength = 256\nluck = 1"),
        &["stage tune: training: unknown field"],
    )?;
    refused(replaced("[64, 128]", "[64, 128]\nmax_fator = 1"), &["stage recover: max_fator: is no field"])?;
    refused(too_short_a_search, &["stage first: length: 60 is not above", "nothing to extend"])?;
    Ok(())
}

#[test]
fn checkpoints_that_are_missing_or_of_another_architecture() -> Result<()> {
    refused(
        |plan| {
            plan.text = plan.text.replace(COPY, "checkpoint = \"no/such/model\"");
            Ok(())
        },
        &["stage tune: checkpoint: no/such/model: cannot read no/such/model/config.json"],
    )?;
    let other = models::root().join("qwen2");
    refused(
        move |plan| {
            plan.text = plan.text.replace(COPY, &format!("checkpoint = {other:?}"));
            Ok(())
        },
        &["stage tune: checkpoint:", "of another architecture", "model_type is qwen2 and not llama"],
    )?;
    Ok(())
}

#[test]
fn data_that_is_missing_or_too_short() -> Result<()> {
    refused(
        |plan| {
            let folder = plan.valid.parent().context("no folder")?.to_owned();
            plan.valid = documents::write(&folder, 4, 300, models::TINY_VOCABULARY, 5)?;
            Ok(())
        },
        &["--valid:", "at least 512 tokens are needed", "0 found"],
    )?;
    refused(
        |plan| {
            plan.data = "no/such/documents.jsonl".into();
            Ok(())
        },
        &["--data: cannot read no/such/documents.jsonl"],
    )?;
    Ok(())
}

/// Each of these would stop a stage that comes last.
#[test]
fn what_the_last_stages_cannot_do_is_told_before_the_first() -> Result<()> {
    refused(
        replaced("[64, 256, 512]", "[64, 256, 512]\nretrieval_lengths = [512]"),
        &["stage measure: retrieval_lengths:", "tokenizer"],
    )?;
    let file = |plan: &SmallPlan, content: &str| -> Result<String> {
        let path = plan.valid.with_file_name("given.json");
        std::fs::write(&path, content)?;
        Ok(path.to_string_lossy().into_owned())
    };
    let factors = "\"rescale_factors\": [1, 1, 1, 2, 2, 2, 2, 2]";
    refused(
        |plan| {
            let given = file(plan, &format!("{{{factors}, \"target_length\": 100}}"))?;
            replaced("keep = [\"first\"]", &format!("keep = [{given:?}]"))(plan)
        },
        &["stage recover: keep:", "is for 100 tokens, which must be above 128"],
    )?;
    // A search may choose any attention factor, and this family takes one.
    let phi = models::root().join("phi3");
    anyhow::ensure!(phi.is_dir());
    refused(
        |plan| {
            plan.model = phi;
            replaced("length = 512\n", "length = 512\nattention_factor = \"search\"\n")(plan)
        },
        &["stage give: factors: second searches with attention_factor = \"search\", and Phi models compute theirs"],
    )
}

#[test]
fn all_that_is_wrong_is_told_at_once() -> Result<()> {
    refused(
        |plan| {
            plan.valid = "no/such/documents.jsonl".into();
            plan.text = plan
                .text
                .replace("\"sh\"", "\"no-such-program\"")
                .replace("[64, 256, 512]", "[64, 256, 512]\nsamples = 1");
            too_short_a_search(plan)
        },
        &["--valid: ", "\"no-such-program\" is no program", "stage first: length: 60 is not above"],
    )
}

#[test]
fn a_command_that_fails_or_makes_no_checkpoint() -> Result<()> {
    for (command, said) in [
        (r#"["sh", "-c", "echo out of luck >&2; exit 7"]"#, &["stage tune", "exit status: 7", "out of luck"][..]),
        (r#"["true"]"#, &["stage tune", "the command ended well, but", "config.json"]),
        (
            r#"["sh", "-c", "cp {model}/config.json {out}/"]"#,
            &["stage tune", "the command ended well, but", "no weights"],
        ),
    ] {
        let folder = TempDir::new()?;
        let mut plan = SmallPlan::new(folder.path(), COPY)?;
        plan.text = plan.text.replace(COPY, &format!("command = {command}"));
        let out = folder.path().join("out");
        plan.run(&out, &[])?.assert_failed(1, said);
        assert!(out.join("stages/first/result.json").is_file(), "what was done before stands");
        assert!(!out.join("stages/tune/result.json").exists());
    }
    Ok(())
}

#[test]
fn a_check_predicts_and_runs_nothing() -> Result<()> {
    let folder = TempDir::new()?;
    let plan = SmallPlan::new(folder.path(), COPY)?;
    let out = folder.path().join("out");
    let forecast = plan.run(&out, &["--check", "--json", "--tflops", "0.1"])?.json()?;
    let stages = forecast["stages"].as_array().context("no stages")?;
    // 8 + 3 x 4 candidates on 2 documents, and 9 sets on 3.
    assert_eq!((&stages[0]["evaluations"], &stages[0]["passes"]), (&20.into(), &67.into()), "{forecast:#}");
    assert_eq!(stages[0]["tokens"], 67 * 256);
    assert_eq!(stages[3]["passes"], 2 * 67);
    assert_eq!(stages[4]["passes"], 3 * 7);
    assert!(!out.exists());
    let mut wrong = plan;
    wrong.valid = "no/such.jsonl".into();
    let ended = wrong.run(&out, &["--check"])?;
    assert_eq!(ended.status, Some(2), "{ended}");
    assert!(ended.stdout.contains("recover") && ended.stderr.contains("--valid"), "{ended}");
    Ok(())
}

#[test]
fn wrong_usage() -> Result<()> {
    ropewalk(["extend"])?.assert_failed(2, &["PLAN.toml", "--model"]);
    ropewalk(["extend", "--preset", "moon", "--model", "."])?.assert_failed(2, &["lab", "longrope-llama2-2048k"]);
    ropewalk(["extend", "no-such-plan.toml", "--model", "."])?.assert_failed(2, &["cannot read no-such-plan.toml"]);
    ropewalk(["extend", "--preset", "lab", "--model", ".", "--from", "x"])?
        .assert_failed(2, &["--from x: no such stage", "search-2k"]);
    ropewalk(["extend", "--status", "--out", "no/such/folder"])?.assert_failed(2, &["no/such/folder holds no plan"]);
    Ok(())
}
