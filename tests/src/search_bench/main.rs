//! `tests/bench/search`: search strategies on equal documents.
//!
//! It drives the strategies themselves, in this process: what is compared is what they ask, not how fast the service
//! answers. Documents are drawn as `ropewalk search --seed` draws them.

mod chance;
mod course;
mod landscape;
mod losses;
mod methods;
mod methods_table;
mod mistakes;
mod on_landscape;
mod options;
mod plot;
mod prefixes;
mod replay;
mod results;
mod roughness;
mod valley;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use losses::Losses;
use methods_table::Published;
use options::{Contender, Options};
use results::{Results, Run};
use ropewalk_coordinator::documents::{DocumentTokenizer, Documents, NamedSample, SamplePlan};
use ropewalk_coordinator::search::RaceMemory;
use ropewalk_shared::job::{JobSpec, ModelIdentity, SearchOptions, StrategyKind};
use ropewalk_shared::model_description::ModelDescription;
use ropewalk_shared::racing::Racing;
use ropewalk_shared::rope::Rescale;
use ropewalk_shared::sample::Sample;
use ropewalk_shared::space::PAPER_START_TOKENS;
use ropewalk_worker::evaluator::{Evaluator, EvaluatorOptions};
use ropewalk_worker::model::{Model, fingerprint_dir};
use std::io::Write as _;
use std::sync::Arc;

/// What the seed of random numbers grows by from one repeat to the next.
const BETWEEN_REPEATS: u64 = 1_000_000;

fn main() -> Result<()> {
    let options = Options::parse().effective();
    let contenders = options.contenders()?;
    let config = options.model.join("config.json");
    let config_json = std::fs::read_to_string(&config).with_context(|| config.display().to_string())?;
    let description = ModelDescription::from_config_json(&config_json)?;
    let tokenizer = DocumentTokenizer::open(&options.model, &description)?;
    let documents = Documents::Text { paths: &options.data, tokenizer: &tokenizer };
    let fingerprint = fingerprint_dir(&options.model)?;
    let identity = ModelIdentity { name: "model".into(), fingerprint, config_json };
    let model = Arc::new(Model::load(&options.model, &candle_core::Device::Cpu, options.dtype)?);
    let evaluator = Evaluator::new(model, EvaluatorOptions { threads: options.threads, ..Default::default() })?;
    let mut losses = Losses::open(evaluator, options.cache.as_deref())?;

    let yardstick = contenders.first().context("name at least one strategy")?.name.clone();
    let mut results = Results {
        samples: options.samples,
        held_out: options.held_out,
        yardstick,
        published: Vec::new(),
        runs: Vec::new(),
    };
    for &ratio in &options.ratios {
        for &seed in &options.seeds {
            let length = description.original_length * ratio;
            let plan =
                SamplePlan { length: length as usize, search: options.samples, held_out: options.held_out, seed };
            let drawn = documents.draw(&plan)?;
            let samples = |named: Vec<NamedSample>| named.into_iter().map(|named| named.sample).collect::<Vec<_>>();
            let (search, held_out) = (samples(drawn.search), samples(drawn.held_out));
            let both = (&search[..], &held_out[..]);
            let own = methods::with_own_attention(&description, length, both, &mut losses)?;
            let by_policy = methods::with_policies(&description, length, both, &mut losses)?;
            let published = Published { ratio, seed, own, by_policy };
            let best_baseline = published.best().context("no published method could be evaluated")?.clone();
            results.published.push(published);
            let mut yardstick_passes = None;
            for (contender, repeat) in
                contenders.iter().flat_map(|one| (0..options.repeats).map(move |repeat| (one, repeat)))
            {
                let mut job = job(&identity, contender, length, seed + repeat * BETWEEN_REPEATS, both);
                job.search.max_evaluations = options.max_evaluations;
                let equal = yardstick_passes.filter(|_| options.equal_passes);
                if let Some(passes) = options.passes.or(equal) {
                    job.search.evolution.generations = 1_000_000;
                    job.search.max_passes = Some(passes);
                }
                let name = match repeat {
                    0 => contender.name.clone(),
                    _ => format!("{}#{}", contender.name, repeat + 1),
                };
                let course = course::run(&job, &description, both, &mut losses, &mut |point| {
                    let held_out = point.held_out.map_or(String::new(), |value| format!(", held-out {value:.4}"));
                    let _ = writeln!(
                        std::io::stderr(),
                        "{ratio}x seed {seed} {name}: {} passes, search {:.4}{held_out}",
                        point.passes,
                        point.search
                    );
                })?;
                if !options.prefixes.is_empty() && contender.racing.is_off() {
                    let rows = prefixes::measure(&course.tried, &search, &options.prefixes, &mut losses)?;
                    let table = prefixes::table(&rows);
                    std::io::stdout().write_all(format!("{ratio}x seed {seed} {name}: {table}").as_bytes())?;
                }
                let mut landscape = None;
                if let Some(pairs) = options.landscape.filter(|_| contender.racing.is_off()) {
                    let mut of_pair = job.clone();
                    of_pair.samples.truncate(search.len() / 3);
                    let mut read = |rescale: &Rescale| -> Result<Vec<f64>> {
                        search.iter().map(|sample| Ok(losses.loss(rescale, sample)?.mean())).collect()
                    };
                    let (recorded, described) = (course.tried.clone(), (&of_pair, &description));
                    let found = chance::compare(recorded, described, pairs as usize, &mut read)?;
                    let text = found.table();
                    std::io::stdout().write_all(format!("{ratio}x seed {seed} {name}: {text}").as_bytes())?;
                    landscape = Some(found);
                }
                let passes = course.points.last().map_or(0, |point| point.passes);
                yardstick_passes.get_or_insert(passes);
                let best_baseline = best_baseline.clone();
                // The population of `ropewalk` races in some generations alone, which a replay does not know.
                let can_be_replayed = contender.racing.is_off() && contender.kind != StrategyKind::Ropewalk;
                let parents = job.search.evolution.parents as usize;
                let replayed = |racing| {
                    let memory = RaceMemory::of(&description.geometry, description.original_length);
                    Some((racing, replay::replay(&course.tried, racing, parents, memory)?))
                };
                let races = [Racing::Safe, Racing::Fast].into_iter().filter(|_| can_be_replayed);
                let races = races.filter_map(replayed).collect();
                results.runs.push(Run { ratio, seed, strategy: name, best_baseline, course, races, landscape });
            }
        }
    }
    std::io::stdout().write_all(results.table().as_bytes())?;
    std::io::stdout().write_all(results.races().as_bytes())?;
    std::io::stdout().write_all(results.landscapes().as_bytes())?;
    std::io::stdout().write_all(methods_table::table(&results).as_bytes())?;
    if let Some(path) = &options.json {
        std::fs::write(path, serde_json::to_vec_pretty(&results)?).with_context(|| path.display().to_string())?;
    }
    if let Some(folder) = &options.out {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        std::fs::write(folder.join("search.csv"), results.csv())?;
        std::fs::write(folder.join("candidates.csv"), results.candidates_csv())?;
        for &ratio in &options.ratios {
            std::fs::write(folder.join(format!("search-{ratio}x.svg")), plot::curves(&results, ratio)?)?;
        }
    }
    Ok(())
}

fn job(
    identity: &ModelIdentity,
    contender: &Contender,
    target_length: u32,
    seed: u64,
    (search, held_out): (&[Sample], &[Sample]),
) -> JobSpec {
    let ids = |samples: &[Sample]| samples.iter().map(Sample::id).collect();
    JobSpec {
        name: "bench".into(),
        model: identity.clone(),
        target_length,
        search: SearchOptions {
            strategy: contender.kind,
            seed,
            evolution: contender.kind.options(),
            attention_factor: contender.attention_factor,
            racing: contender.racing,
            pair_attention: contender.pair_attention,
            start_tokens: if contender.kind.searches_start_tokens() { PAPER_START_TOKENS.to_vec() } else { vec![0] },
            ..SearchOptions::default()
        },
        samples: ids(search),
        held_out: ids(held_out),
    }
}
