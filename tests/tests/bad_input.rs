//! Everything a user can get wrong: the exit status, and a message that says what, where, and what to do next.
//!
//! Status 2 for wrong usage or input, 1 where the request was right and the work failed.

use anyhow::{Context as _, Result};
use ropewalk_tests::command::{Ended, ropewalk, worker};
use ropewalk_tests::documents;
use ropewalk_tests::models::{self, TINY_VOCABULARY};
use ropewalk_tests::process::{Coordinator, Worker};
use ropewalk_tests::search::{Search, status, wait_done, wait_until};
use std::net::TcpListener;
use std::path::Path;
use tempfile::TempDir;

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn eval(model: &Path, tokens: &Path, length: usize, factors: &str) -> Result<Ended> {
    let (model, tokens, length) = (text(model), text(tokens), length.to_string());
    ropewalk(["eval", "--model", &model, "--tokens", &tokens, "--length", &length, "--factors", factors])
}

/// Evaluates one document on a model that is not as it should be.
fn eval_model(model: &Path) -> Result<Ended> {
    let folder = TempDir::new()?;
    let tokens = documents::write(folder.path(), 1, 64, TINY_VOCABULARY, 1)?;
    eval(model, &tokens, 64, "none")
}

/// Evaluates a good model with a factor file of this content.
fn eval_factors(content: &str) -> Result<Ended> {
    let folder = TempDir::new()?;
    let tokens = documents::write(folder.path(), 1, 128, TINY_VOCABULARY, 1)?;
    let factors = folder.path().join("factors.json");
    std::fs::write(&factors, content)?;
    eval(&models::tiny(), &tokens, 128, &text(&factors))
}

/// Searches, in one process, with options that are not as they should be.
fn search(change: impl FnOnce(&mut Search)) -> Result<Ended> {
    let folder = TempDir::new()?;
    let mut search = Search::small(folder.path())?;
    change(&mut search);
    search_in(folder.path(), &search, &[])
}

/// The same in a folder that stays, with more options; the results go to `out` there.
fn search_in(folder: &Path, search: &Search, options: &[&str]) -> Result<Ended> {
    let mut arguments = vec!["search".to_owned(), "--out".to_owned(), text(&folder.join("out"))];
    arguments.extend(search.arguments());
    arguments.extend(options.iter().map(|&option| option.to_owned()));
    ropewalk(arguments)
}

#[test]
fn missing_weights() -> Result<()> {
    let folder = TempDir::new()?;
    let model = models::copy_of_tiny(folder.path(), "tiny")?;
    std::fs::remove_file(model.join("model.safetensors"))?;
    for ended in [eval_model(&model)?, search(|search| search.model = model.clone())?] {
        ended.assert_failed(2, &["no weights in", &text(&model), "model.safetensors"]);
    }
    Ok(())
}

#[test]
fn truncated_weights() -> Result<()> {
    let folder = TempDir::new()?;
    let model = models::copy_of_tiny(folder.path(), "tiny")?;
    let file = std::fs::File::options().write(true).open(model.join("model.safetensors"))?;
    file.set_len(file.metadata()?.len() / 2)?;
    for ended in [eval_model(&model)?, search(|search| search.model = model.clone())?] {
        ended.assert_failed(2, &["model.safetensors is truncated", "bytes", "download it again"]);
    }
    Ok(())
}

#[test]
fn an_unknown_model_type() -> Result<()> {
    let folder = TempDir::new()?;
    let model = models::copy_of_tiny(folder.path(), "tiny")?;
    models::edit_config(&model, "\"model_type\": \"llama\"", "\"model_type\": \"mamba\"")?;
    for ended in [eval_model(&model)?, search(|search| search.model = model.clone())?] {
        ended.assert_failed(2, &["model type \"mamba\" is not supported", "llama, mistral"]);
    }
    Ok(())
}

#[test]
fn no_model_at_all() -> Result<()> {
    let folder = TempDir::new()?;
    for ended in [eval_model(folder.path())?, search(|search| search.model = folder.path().to_owned())?] {
        ended.assert_failed(2, &["config.json", "No such file", "Hugging Face"]);
    }
    Ok(())
}

#[test]
fn a_wrong_number_of_factors() -> Result<()> {
    let ended = eval_factors(r#"{"rescale_factors": [1.0, 1.5, 2.0]}"#)?;
    ended.assert_failed(2, &["factors.json", "3 rescale factors given, the model needs 8"]);
    Ok(())
}

#[test]
fn factors_that_no_model_can_use() -> Result<()> {
    for (factor, said) in [("0", "factor 2 is 0"), ("-1.5", "factor 2 is -1.5")] {
        let content = format!("{{\"rescale_factors\": [1, 1, {factor}, 1, 1, 1, 1, 1]}}");
        eval_factors(&content)?.assert_failed(2, &["factors.json", said, "finite and greater than 0"]);
    }
    for factor in ["NaN", "Infinity", "1e999", "null"] {
        let content = format!("{{\"rescale_factors\": [1, 1, {factor}, 1, 1, 1, 1, 1]}}");
        eval_factors(&content)?.assert_failed(2, &["factors.json", "not a factor file"]);
    }
    let ended = eval_factors(r#"{"rescale_factors": [1, 1, 1, 1, 1, 1, 1, 1], "attention_factor": -1}"#)?;
    ended.assert_failed(2, &["factors.json", "attention factor -1 is not usable"]);
    Ok(())
}

#[test]
fn a_factor_file_of_another_version() -> Result<()> {
    let content = r#"{"schema": "ropewalk.factors/v9", "rescale_factors": {"later": true}}"#;
    let said = ["ropewalk.factors/v9", "this version reads \"ropewalk.factors/v1\""];
    eval_factors(content)?.assert_failed(2, &said);

    let folder = TempDir::new()?;
    let file = folder.path().join("later.json");
    std::fs::write(&file, content)?;
    ropewalk(["export", &text(&file), "--format", "csv"])?.assert_failed(2, &said);
    Ok(())
}

#[test]
fn no_document_long_enough() -> Result<()> {
    let folder = TempDir::new()?;
    let short = documents::write(folder.path(), 6, 200, TINY_VOCABULARY, 1)?;
    let ended = search(|search| search.tokens = short.clone())?;
    ended.assert_failed(2, &["at least 256 tokens are needed", "0 found", "200"]);
    // Some, but too few.
    let few = documents::write(folder.path(), 2, 256, TINY_VOCABULARY, 2)?;
    let ended = search(|search| search.tokens = few.clone())?;
    ended.assert_failed(2, &["at least 256 tokens are needed", "2 found"]);
    let ended = eval(&models::tiny(), &short, 300, "none")?;
    ended.assert_failed(2, &["at least 300 tokens", "0 found"]);
    Ok(())
}

#[test]
fn a_target_length_not_above_the_original() -> Result<()> {
    for length in [64, 10] {
        let ended = search(|search| search.target_length = length)?;
        ended.assert_failed(2, &[&length.to_string(), "not above the model's original length of 64 tokens"]);
    }
    Ok(())
}

#[test]
fn tokens_of_another_vocabulary() -> Result<()> {
    let folder = TempDir::new()?;
    let foreign = documents::write(folder.path(), 6, 256, 5000, 1)?;
    let ended = search(|search| search.tokens = foreign)?;
    ended.assert_failed(2, &["not below the model's vocabulary of 96"]);
    Ok(())
}

#[test]
fn wrong_usage() -> Result<()> {
    for arguments in [
        vec!["search"],
        vec!["eval", "--model", ".", "--tokens", "x", "--length", "long"],
        vec!["launch", "--model", ".", "--tokens", "x", "--target-length", "8192", "--population", "-3"],
        vec!["frobnicate"],
    ] {
        ropewalk(arguments)?.assert_failed(2, &["error:"]);
    }
    worker(["--device", "gpu"])?.assert_failed(2, &["gpu", "use cpu, cuda or cuda:N"]);
    worker(["--model-root", "/no/such/folder"])?.assert_failed(2, &["/no/such/folder is not a folder", "--model-root"]);
    worker(["--coordinator", "ftp://127.0.0.1:1"])?.assert_failed(2, &["ftp:// is not supported"]);
    let ended = search(|search| search.population = 0)?;
    ended.assert_failed(2, &["population: 0 must be from 1"]);
    Ok(())
}

#[test]
fn a_coordinator_that_is_not_there() -> Result<()> {
    // Bound and given up again: nobody listens there now.
    let url = format!("http://{}", TcpListener::bind("127.0.0.1:0")?.local_addr()?);
    let said = ["no coordinator answer", &url, "refused", "ropewalk serve"];
    for command in [vec!["jobs"], vec!["workers"], vec!["status", "some-job"], vec!["watch", "some-job"]] {
        ropewalk(command.into_iter().chain(["--coordinator", &url]))?.assert_failed(1, &said);
    }
    let folder = TempDir::new()?;
    let search = Search::small(folder.path())?;
    let mut arguments = vec!["launch".to_owned(), "--coordinator".to_owned(), url.clone()];
    arguments.extend(search.arguments());
    ropewalk(arguments)?.assert_failed(1, &said);
    let root = text(&models::root());
    let ended = worker(["--coordinator", &url, "--model-root", &root, "--connect-timeout", "0.5", "--log", "error"])?;
    ended.assert_failed(1, &said);
    Ok(())
}

#[test]
fn a_port_in_use() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    let folder = TempDir::new()?;
    let ended = ropewalk(["serve", "--listen", &address, "--store", &text(&folder.path().join("store"))])?;
    ended.assert_failed(2, &[&address, "in use", "--listen"]);
    let ended = ropewalk([
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--http",
        &address,
        "--store",
        &text(&folder.path().join("store")),
    ])?;
    ended.assert_failed(2, &[&address, "in use", "--http"]);
    Ok(())
}

#[test]
fn a_store_of_another_version() -> Result<()> {
    let folder = TempDir::new()?;
    let mut coordinator = Coordinator::start(folder.path())?;
    assert_eq!(coordinator.interrupt()?, Some(0), "{}", coordinator.log());
    let store = folder.path().join("store");
    {
        // As the store opens it; sled insists on the size of its segments.
        let state = sled::Config::new().path(&store).segment_size(2 << 20).open()?.open_tree("state")?;
        let schema = state.iter().keys().flatten().find(|key| key.ends_with(b"schema")).context("no schema")?;
        state.insert(schema, "9")?;
        state.flush()?;
    }
    let ended = ropewalk(["serve", "--listen", "127.0.0.1:0", "--store", &text(&store)])?;
    ended.assert_failed(1, &["store", "has version 9, this program reads version 1", "--store"]);
    Ok(())
}

#[test]
fn a_store_in_use_and_a_folder_that_is_none() -> Result<()> {
    let folder = TempDir::new()?;
    let _coordinator = Coordinator::start(folder.path())?;
    let store = text(&folder.path().join("store"));
    ropewalk(["serve", "--listen", "127.0.0.1:0", "--store", &store])?
        .assert_failed(1, &["in use by another process", "--store"]);
    ropewalk(["serve", "--listen", "127.0.0.1:0", "--store", &text(&models::tiny())])?
        .assert_failed(1, &["holds files but no store", "--store"]);
    Ok(())
}

#[test]
fn an_unknown_job() -> Result<()> {
    let folder = TempDir::new()?;
    let coordinator = Coordinator::start(folder.path())?;
    for command in ["status", "pause", "resume", "cancel", "export", "watch"] {
        let ended = ropewalk([command, "nobody-0123", "--coordinator", &coordinator.url])?;
        ended.assert_failed(2, &["nobody-0123", "ropewalk jobs"]);
    }
    Ok(())
}

#[test]
fn a_beginning_of_an_id_that_fits_two_jobs() -> Result<()> {
    let folder = TempDir::new()?;
    let coordinator = Coordinator::start(folder.path())?;
    let search = Search::small(folder.path())?;
    let first = search.launch(&coordinator.url)?;
    let second = Search { seed: 2, ..search }.launch(&coordinator.url)?;
    for command in ["status", "pause", "resume", "cancel", "export", "watch"] {
        let ended = ropewalk([command, "small-", "--coordinator", &coordinator.url])?;
        ended.assert_failed(2, &["2 jobs begin with \"small-\"", &first, &second, "give more of the id"]);
    }
    // What is asked for of one job, and cannot be had, is no wrong input.
    ropewalk(["export", &first, "--coordinator", &coordinator.url])?.assert_failed(1, &[&first, "no candidate"]);
    Ok(())
}

#[test]
fn a_job_for_a_model_that_no_worker_has() -> Result<()> {
    let folder = TempDir::new()?;
    let (here, there) = (folder.path().join("here"), folder.path().join("there"));
    std::fs::create_dir_all(&there)?;
    let mut search = Search::small(folder.path())?;
    search.model = models::copy_of_tiny(&here, "rare")?;
    let coordinator = Coordinator::start(folder.path())?;
    let worker = Worker::start(folder.path(), &coordinator.url, "poor", &there)?;
    let job = search.launch(&coordinator.url)?;
    // It waits, and says for what.
    let waiting = wait_until(&coordinator.url, &job, |status| {
        status["reason"].as_str().is_some_and(|reason| reason.contains("without the job's model"))
    });
    let waiting = waiting.with_context(|| worker.log())?;
    assert_eq!((&waiting["state"], &waiting["evaluations"]), (&"running".into(), &0.into()), "{waiting:#}");
    // Another model under that name is not taken for it.
    let copy = models::copy_of_tiny(&there, "rare")?;
    models::edit_config(&copy, "500000.0", "400000.0")?;
    wait_until(&coordinator.url, &job, |_| worker.log().contains("holds another model than the job's"))?;
    assert_eq!(status(&coordinator.url, &job)?["evaluations"], 0);
    // A worker that has it does the work.
    let _rich = Worker::start(folder.path(), &coordinator.url, "rich", &here)?;
    wait_done(&coordinator.url, &job)?;
    Ok(())
}

#[test]
fn options_of_a_search_that_cannot_be() -> Result<()> {
    let folder = TempDir::new()?;
    let search = Search::small(folder.path())?;
    let with = |options: &[&str]| search_in(folder.path(), &search, options);
    let empty = text(folder.path());
    let cases: [(&[&str], &[&str]); 5] = [
        (
            &["--strategy", "longrope", "--max-passes", "35"],
            &["35 document passes buy 11 candidates on 3 samples", "12", "at least 36"],
        ),
        (&["--racing", "sometimes"], &["\"sometimes\" is no way of racing", "off, safe or fast"]),
        (&["--strategy", "dim-mono"], &["--start-tokens: 3 choices are given", "give one"]),
        (&["--init", "job:some"], &["--init job:some", "give the folder of a search"]),
        (&["--init", &empty], &["no factors.json"]),
    ];
    for (options, expected) in cases {
        with(options)?.assert_failed(2, expected);
    }
    // Before documents are read, which may take minutes.
    let missing = ["search", "--model", &text(&models::tiny()), "--tokens", "no/such/file", "--target-length", "128"];
    ropewalk(missing.iter().chain(&["--max-passes", "1"]))?
        .assert_failed(2, &["--max-passes: 1 document passes buy 0"]);
    ropewalk(missing)?.assert_failed(2, &["no/such/file"]);
    Ok(())
}

#[test]
fn options_that_would_have_no_effect() -> Result<()> {
    let folder = TempDir::new()?;
    let factors = folder.path().join("factors.json");
    std::fs::write(&factors, r#"{"rescale_factors": [1, 1, 1, 1, 2, 2, 2, 2], "target_length": 128}"#)?;
    let (model, factors) = (text(&models::tiny()), text(&factors));
    let tokens = text(&documents::write(folder.path(), 2, 64, TINY_VOCABULARY, 1)?);
    let tune =
        ["finetune", "--model", &model, "--tokens", &tokens, "--length", "64", "--steps", "1", "--factors", "pi"];
    let measure = ["eval", "--model", &model, "--tokens", &tokens, "--length", "64"];
    let cases: [(&[&str], &[&str], &[&str]); 6] = [
        (&["export", &factors], &["--format", "csv", "--whole"], &["--whole", "--format hf"]),
        (&["export", &factors], &["--short", "ones"], &["--short", "config.json"]),
        (&tune, &["--answers-only"], &["--retrieval-share"]),
        (&tune, &["--schedule", "constant", "--final-share", "0.5"], &["--final-share", "--schedule cosine"]),
        (&measure, &["--factors", &factors, "--target-length", "128"], &["--target-length", "names none"]),
        (&measure, &["--threads", "1000000"], &["--threads", "from 1 to 1024"]),
    ];
    for (command, options, expected) in cases {
        ropewalk(command.iter().chain(options).copied())?.assert_failed(2, expected);
    }
    Ok(())
}

/// A plan is made before there are documents, of the search that would run.
#[test]
fn a_plan_of_a_search_that_cannot_be() -> Result<()> {
    let model = text(&models::tiny());
    let plan = |options: &[&str]| ropewalk(["plan", "--model", &model, "--json"].iter().chain(options).copied());
    // Of the model's own window memory and time may be asked, too.
    plan(&["--target-length", "64"])?.json()?;
    for (option, value) in [("--max-factor", "0.5"), ("--parents", "0"), ("--tflops", "0"), ("--init", "no-file")] {
        plan(&["--target-length", "512", option, value])?.assert_failed(2, &[value]);
    }
    plan(&["--target-length", "512", "--samples", "1000000000000"])?
        .assert_failed(2, &["--samples", "from 1 to 10000"]);
    let planned = plan(&["--target-length", "512"])?.json()?;
    assert_eq!(planned["evaluations"], 123);
    Ok(())
}

#[test]
fn gradients_on_a_gpu_and_no_gpu_at_all() -> Result<()> {
    let folder = TempDir::new()?;
    let search = Search::small(folder.path())?;
    let with = |options: &[&str]| search_in(folder.path(), &search, options);
    with(&["--device", "cuda:0", "--strategy", "ropewalk", "--slope-steps", "2"])?
        .assert_failed(2, &["--slope-steps", "--device cpu"]);
    // Steps down a slope alone need the CPU.
    let ended = with(&["--device", "cuda:99", "--strategy", "ropewalk"])?;
    ended.assert_failed(2, &["--device"]);
    assert!(!ended.stderr.contains("gradients"), "{}", ended.stderr);
    Ok(())
}

#[test]
fn results_of_something_else_are_kept() -> Result<()> {
    let folder = TempDir::new()?;
    let out = folder.path().join("out");
    std::fs::create_dir_all(&out)?;
    let mine = out.join("factors.json");
    std::fs::write(&mine, r#"{"rescale_factors": [1, 1, 2, 2]}"#)?;
    search_in(folder.path(), &Search::small(folder.path())?, &[])?.assert_failed(2, &[&text(&mine), "--out"]);
    let (model, tokens) = (text(&models::tiny()), text(&documents::write(folder.path(), 2, 64, TINY_VOCABULARY, 1)?));
    let tune = ["--steps", "1", "--factors", "pi", "--out", &text(&out)].map(str::to_owned);
    let command = ["finetune", "--model", &model, "--tokens", &tokens, "--length", "64"].map(str::to_owned);
    ropewalk(command.into_iter().chain(tune))?.assert_failed(2, &[&text(&mine), "--out"]);
    assert_eq!(std::fs::read_to_string(&mine)?, r#"{"rescale_factors": [1, 1, 2, 2]}"#);
    Ok(())
}

#[test]
fn weights_that_are_no_numbers() -> Result<()> {
    let folder = TempDir::new()?;
    let model = models::copy_of_tiny(folder.path(), "nan")?;
    let weights = model.join("model.safetensors");
    let mut bytes = std::fs::read(&weights)?;
    let end = bytes.len() - 4;
    // The last number of the last tensor.
    bytes[end..].fill(0xff);
    std::fs::write(&weights, bytes)?;
    let ended = eval_model(&model)?;
    // What was measured is printed, and is no success.
    let said = ["no finite number under none at 64", "NaN in the weights"];
    assert!(ended.status == Some(1) && said.iter().all(|part| ended.stderr.contains(part)), "{ended}");
    Ok(())
}

#[test]
fn addresses_that_are_none() -> Result<()> {
    let folder = TempDir::new()?;
    let (file, store) = (folder.path().join("file"), text(&folder.path().join("store")));
    std::fs::write(&file, "")?;
    ropewalk(["serve", "--listen", "here", "--store", &store])?.assert_failed(2, &["--listen here", "127.0.0.1:7311"]);
    ropewalk(["serve", "--listen", "127.0.0.1:0", "--store", &text(&file)])?
        .assert_failed(2, &["is a file", "--store"]);
    ropewalk(["jobs", "--coordinator", "ftp://127.0.0.1:1"])?.assert_failed(2, &["ftp:// is not supported"]);
    // Something else listens there.
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}", listener.local_addr()?);
    let other = std::thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        std::io::Write::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    });
    ropewalk(["jobs", "--coordinator", &url])?.assert_failed(1, &["no coordinator answers", &url, "--coordinator"]);
    other.join().map_err(|_| anyhow::anyhow!("the other server failed"))??;
    Ok(())
}
