//! What `ropewalk plan` predicts: against what a process really takes, and against the table in the documentation.

use anyhow::{Context as _, Result, ensure};
use ropewalk_tests::command::{Ended, ropewalk};
use ropewalk_tests::{documents, models};
use serde_json::Value;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Tokens of documents whose memory is measured.
const LENGTHS: [usize; 4] = [4096, 16_384, 32_768, 65_536];
/// How far measured memory may lie from the prediction.
const TOLERANCE: f64 = 0.10;

/// The lab model with a sliding window, so that time grows with the length alone; its memory is the same.
fn windowed(folder: &Path) -> Result<PathBuf> {
    let model = folder.join("windowed");
    std::fs::create_dir_all(&model)?;
    std::fs::copy(models::lab().join("model.safetensors"), model.join("model.safetensors"))?;
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(models::lab().join("config.json"))?)?;
    config["model_type"] = "mistral".into();
    config["sliding_window"] = 256.into();
    std::fs::write(model.join("config.json"), config.to_string())?;
    Ok(model)
}

fn plan(model: &Path, length: usize, more: &[&str]) -> Result<Value> {
    let (model, length) = (model.to_string_lossy(), length.to_string());
    let arguments = ["plan", "--model", &model, "--target-length", &length, "--samples", "1", "--json"];
    ropewalk(arguments.into_iter().chain(more.iter().copied()))?.json()
}

#[test]
fn measured_memory_is_the_predicted() -> Result<()> {
    let folder = TempDir::new()?;
    let model = windowed(folder.path())?;
    let tokens = documents::write(folder.path(), 1, LENGTHS[3], 2048, 1)?;
    for dtype in ["f32", "bf16", "f32-fast"] {
        let on = ["--device", "cpu", "--dtype", dtype];
        let mut seen = Vec::new();
        for length in LENGTHS {
            // A document's first evaluation keeps nothing for others. The allocator keeps memory apart for each thread: with
            // more than one, as much as 5 MiB from run to run.
            let (model, tokens, length_text) = (model.to_string_lossy(), tokens.to_string_lossy(), length.to_string());
            let arguments =
                ["eval", "--model", &model, "--tokens", &tokens, "--length", &length_text, "--threads", "1"];
            let more = ["--factors", "pi", "--json"];
            let report = ropewalk(arguments.into_iter().chain(on).chain(more))?.json()?;
            // Only Linux tells.
            let Some(measured) = report["results"][0]["peak_rss_mib"].as_f64() else { return Ok(()) };
            // Of the other formats, what a matrix unit takes.
            let kernels = report["kernels"].as_str().context("no kernels")?;
            if dtype != "f32" && !kernels.contains("(bf16") {
                break;
            }
            let plan = plan(Path::new(&*model), length, &on)?;
            let mib = |part: &str| plan["memory_gib"][part].as_f64().map(|gib| gib * 1024.0).context("no such part");
            seen.push((length, measured, mib("total")? - mib("shared_first_layer")?));
        }
        let all = seen.iter().all(|&(_, measured, predicted)| (measured / predicted - 1.0).abs() <= TOLERANCE);
        assert!(all, "{dtype}: tokens, measured and predicted MiB: {seen:.1?}");
        let [_, (from, less, _), _, (to, more, _)] = seen[..] else { continue };
        // What each further token takes, measured and as the plan says it.
        let measured = (more - less) / (to - from) as f64 * f64::from(1 << 20);
        let planned = plan(&model, to, &on)?["bytes_per_token"].as_f64().context("no bytes_per_token")?;
        assert!((measured / planned - 1.0).abs() <= TOLERANCE, "{dtype}: {measured} bytes a token, {planned} planned");
    }
    Ok(())
}

#[test]
fn two_million_tokens_of_a_7b_model_fit_one_card() -> Result<()> {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/configs/llama2-7b");
    let plan = plan(&model, 2_097_152, &["--dtype", "bf16"])?;
    let bytes = plan["memory_gib"]["total"].as_f64().context("no total")? * (1u64 << 30) as f64;
    // By hand: 6,738,415,616 weights, and for each token 4,096 numbers of hidden state and twice as many of keys and
    // values, 2 bytes each; what is left is below a gigabyte.
    let least = 2.0 * 6_738_415_616.0 + 2_097_152.0 * 3.0 * 4096.0 * 2.0;
    assert!(bytes > least && bytes < least + 1e9, "{bytes} where {least} are the least");
    assert!(bytes < 141e9);
    Ok(())
}

#[test]
fn the_documented_table_is_what_plan_says() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("../docs/reach.md"))?;
    let mut rows = 0;
    for config in std::fs::read_dir(root.join("data/configs"))? {
        let config = config?;
        for length in [131_072, 262_144, 524_288, 1_048_576, 2_097_152] {
            let (model, length) = (config.path().to_string_lossy().into_owned(), length.to_string());
            let plan = |card: Option<f64>| {
                // One GB of a card is left to the driver.
                let limit = card.map(|card| ((card - 1.0) * 1e9 / f64::from(1 << 30)).to_string());
                let limit = limit.iter().flat_map(|limit| ["--device-memory", limit]);
                ropewalk(["plan", "--json", "--model", &model, "--target-length", &length].into_iter().chain(limit))?
                    .json()
            };
            let gib = plan(None)?["memory_gib"]["total"].as_f64().context("no total")?;
            let mut cells = vec![format!("{:.1}", gib * f64::from(1 << 30) / 1e9)];
            for card in [24.0, 48.0, 80.0, 141.0] {
                cells.push(way(&plan(Some(card))?["placements"]["taken"]));
            }
            let name = config.file_name().to_string_lossy().into_owned();
            let row = page.lines().map(|line| line.split('|').map(str::trim).collect::<Vec<_>>()).find(|row| {
                row.get(1) == Some(&&*name) && row.get(2).is_some_and(|cell| cell.replace(',', "") == length)
            });
            let row = row.with_context(|| format!("docs/reach.md has no row of {name} at {length}"))?;
            let documented: Vec<&str> =
                row.get(3).into_iter().chain(row.get(9..13).context("cards")?).copied().collect();
            assert_eq!(documented, cells, "{name} at {length}: run tests/bench/reach again");
            rows += 1;
        }
    }
    assert_eq!(rows, 20);
    Ok(())
}

/// As the page says it: `all`, `W` for streamed weights, `H` for hidden states on the host, on one device or several.
fn way(taken: &Value) -> String {
    let Some(devices) = taken["devices"].as_u64() else { return "-".to_owned() };
    let weights = if taken["weights"] == "streamed" { "W" } else { "" };
    let hidden = if taken["hidden_states"] == "host" { "H" } else { "" };
    let streamed = if weights.len() + hidden.len() == 0 { "all".to_owned() } else { format!("{weights}{hidden}") };
    if devices > 1 { format!("{devices} x {streamed}") } else { streamed }
}

/// An evaluation of 2,048 tokens with so much device memory.
fn limited(tokens: &Path, devices: &str, gib: Option<&str>) -> Result<Ended> {
    let (model, tokens) = (models::lab().to_string_lossy().into_owned(), tokens.to_string_lossy().into_owned());
    let arguments = ["eval", "--model", &model, "--tokens", &tokens, "--length", "2048", "--factors", "yarn", "--json"];
    let limit = gib.iter().flat_map(|gib| ["--device-memory", gib]);
    ropewalk(arguments.into_iter().chain(["--devices", devices]).chain(limit))
}

/// A small search on one worker with so much device memory; its factor file.
fn searched(folder: &Path, tokens: &Path, gib: &str) -> Result<Value> {
    let (model, out) = (models::lab().to_string_lossy().into_owned(), folder.join(gib).to_string_lossy().into_owned());
    let tokens = tokens.to_string_lossy();
    let what =
        ["search", "--model", &model, "--tokens", &tokens, "--target-length", "512", "--out", &out, "--workers", "1"];
    let how = "--strategy longrope --population 8 --mutations 2 --crossovers 2 --generations 2 --parents 4 --samples 2 \
               --held-out 2 --device-memory";
    let ended = ropewalk(what.into_iter().chain(how.split_whitespace()).chain([gib]))?;
    ensure!(ended.status == Some(0), "{ended}");
    Ok(serde_json::from_str(&std::fs::read_to_string(folder.join(gib).join("factors.json"))?)?)
}

#[test]
fn a_small_device_finds_the_same_factors() -> Result<()> {
    let folder = TempDir::new()?;
    let tokens = documents::write(folder.path(), 4, 512, 2048, 3)?;
    // The weights take 0.013 GiB, of which 0.007 have to be there; the rest of an evaluation takes 0.0095.
    let (streamed, whole) = (searched(folder.path(), &tokens, "0.021")?, searched(folder.path(), &tokens, "1")?);
    assert_eq!(streamed, whole);
    Ok(())
}

#[test]
fn a_small_device_gives_the_same_perplexity() -> Result<()> {
    let folder = TempDir::new()?;
    let tokens = documents::write(folder.path(), 1, 2048, 2048, 2)?;
    let of = |report: &Value, key: &str| report["results"][0][key].clone();
    let whole = limited(&tokens, "cpu", None)?.json()?;
    assert_eq!(of(&whole, "placement"), "all weights, hidden states on the device");
    for (devices, gib, placement) in [
        ("cpu", "0.022", "weights streamed layer by layer, hidden states on the device"),
        ("cpu", "0.0195", "weights streamed layer by layer, hidden states in host memory"),
        ("cpu,cpu", "0.022", "all weights, hidden states in host memory, on 2 devices"),
        ("cpu,cpu,cpu", "1", "all weights, hidden states in host memory, on 3 devices"),
    ] {
        let report = limited(&tokens, devices, Some(gib))?.json()?;
        assert_eq!(of(&report, "placement"), placement, "{devices}");
        assert_eq!(of(&report, "nll"), of(&whole, "nll"), "{devices}, {gib} GiB");
        let (peak, limit) = (of(&report, "peak_device_mib").as_f64(), gib.parse::<f64>()? * 1024.0);
        assert!(peak.is_some_and(|peak| peak > 1.0 && peak <= limit), "{peak:?} MiB of {limit}");
    }
    let refused = limited(&tokens, "cpu", Some("0.01"))?;
    assert_eq!(refused.status, Some(2), "{refused}");
    for part in
        ["2048 tokens fit into 0.010 GiB of device memory", "in no way", "hidden states in host memory still take"]
    {
        assert!(refused.stderr.contains(part), "{part:?} in {refused}");
    }
    Ok(())
}
