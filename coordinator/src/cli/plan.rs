//! `ropewalk plan`: memory and time of a search, from the model's configuration alone.

mod placements;

use super::failure::{Failure, OrFail as _, Outcome};
use super::init;
use super::numbers::tflops as speed;
use super::options::{JsonArgs, SamplingArgs, SearchArgs, tokens};
use super::output;
use super::prepare::ModelFolder;
use super::typed::wrong_job;
use crate::documents::PER_DOCUMENT;
use crate::engine::SearchPasses;
use crate::plan::stand_ins;
use clap::Args;
use placements::Placements;
use ropewalk_shared::fingerprint::Fingerprint;
use ropewalk_shared::job::{JobSpec, ModelIdentity, SearchOptions};
use ropewalk_worker::cost::{self, Format, Load, Memory, Work};
use ropewalk_worker::device::{DeviceChoice, Dtype, gib as bytes_of_gib};
use ropewalk_worker::model::config::DecoderSpec;
use serde::Serialize;
use std::path::PathBuf;

const GIB: f64 = (1u64 << 30) as f64;
/// Sustained speeds shown when none is given, in TFLOP/s: a desktop processor, and two shares of a data-centre GPU.
pub(super) const SPEEDS: [f64; 3] = [0.3, 100.0, 400.0];

/// Predict memory and time of a search before anything is spent.
///
/// Needs nothing of the model but its config.json. Memory is that of one evaluation (weights, hidden states of the
/// sequence, keys and values of one layer) and of what is kept for the next candidates of the searched documents. With
/// --device-memory it tells what would have to be streamed, or how many devices it takes. Time follows from the operations
/// and the speed that you say your device sustains, and from what is moved, at 20 GB/s.
#[derive(Args, Debug)]
pub struct PlanArgs {
    /// Folder with the model's config.json
    #[arg(long, value_name = "DIR")]
    model: PathBuf,

    /// The window to reach, in tokens, for example 131072 or 2m
    #[arg(long, value_name = "N", value_parser = tokens)]
    target_length: u32,

    /// Memory of one device
    #[arg(long, value_name = "GIB", value_parser = bytes_of_gib)]
    device_memory: Option<u64>,

    /// Number format on the device: f32, bf16 or f16
    #[arg(long, default_value_t = Dtype::Bf16)]
    dtype: Dtype,

    /// What evaluates, cpu or cuda: a GPU takes more tokens at a time [default: cpu in f32, cuda otherwise]
    #[arg(long)]
    device: Option<DeviceChoice>,

    /// TFLOP/s that one worker sustains [default: a few are shown]
    #[arg(long, value_name = "TFLOPS", value_parser = speed)]
    tflops: Option<f64>,

    /// Workers that share the passes
    #[arg(long, default_value_t = 1, value_name = "K", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    workers: u32,

    #[command(flatten)]
    sampling: SamplingArgs,

    #[command(flatten)]
    search: SearchArgs,

    // The heading of the options above would go on.
    #[command(flatten, next_help_heading = None::<&str>)]
    output: JsonArgs,
}

/// What is predicted.
#[derive(Debug, Serialize)]
struct Plan {
    model: String,
    parameters: u64,
    original_length: u32,
    target_length: u32,
    dtype: String,
    memory_gib: MemoryGib,
    /// Growth of the memory, in bytes per token.
    bytes_per_token: u64,
    device_memory_gib: Option<f64>,
    /// Whether one device holds it in some way.
    fits: Option<bool>,
    placements: Placements,
    tflop_per_pass: f64,
    attention_share: f64,
    evaluations: u64,
    passes: u64,
    times: Vec<Time>,
}

#[derive(Debug, Serialize)]
struct MemoryGib {
    weights: f64,
    hidden_states: f64,
    keys_values: f64,
    buffers: f64,
    shared_first_layer: f64,
    program: f64,
    total: f64,
}

#[derive(Debug, Serialize)]
struct Time {
    tflops: f64,
    seconds_per_pass: f64,
    seconds_of_search: f64,
    /// Document passes that --time-budget buys, where those of the search are more.
    #[serde(skip_serializing_if = "Option::is_none")]
    passes_in_time: Option<u64>,
}

pub(super) async fn run(args: PlanArgs) -> Outcome {
    let plan = args.plan()?;
    if args.output.json { output::json(&plan) } else { output::line(plan.describe(args.workers)) }
}

/// Passes of a search, and what they take.
struct Passes {
    /// Those of the target length.
    long: u64,
    /// Of one of them.
    work: Work,
    /// Of all shorter ones together, in floating-point operations.
    short_work: f64,
}

// === impl PlanArgs ===

impl PlanArgs {
    fn plan(&self) -> Result<Plan, Failure> {
        let folder = ModelFolder::open(&self.model)?;
        let spec = DecoderSpec::from_config_json(&folder.config_json).or_input()?;
        let on_cpu = self.device.map_or(self.dtype.bytes() == 4, |device| device == DeviceChoice::Cpu);
        self.dtype.check_kind(on_cpu).or_input()?;
        let (chunk, length) = (cost::chunk_tokens(on_cpu), self.target_length as usize);
        let samples = self.sampling.samples;
        let work = Work::of(&spec, length);
        let load = Load { spec: &spec, format: Format::on(on_cpu, self.dtype), chunk_tokens: chunk, tokens: length };
        let placements = Placements::of(load, self.device_memory);
        let gib = |bytes: u64| bytes as f64 / GIB;
        let mut options = self.search.options().or_input()?;
        let ratio = f64::from(self.target_length) / f64::from(folder.description.original_length);
        options.init = init::read(&self.search.init, &[], &folder.description, ratio)?;
        let planned = SearchPasses::planned(&options, samples, self.sampling.held_out, PER_DOCUMENT);
        let memory = Memory::of(load).sharing(load, planned.judged as usize);
        self.check(&folder, options, planned.judged as usize)?;
        let of_short = |&(length, passes): &(u32, u64)| passes as f64 * Work::of(&spec, length as usize).total();
        let passes = Passes { long: planned.long, work, short_work: planned.short.iter().map(of_short).sum() };
        let moving = placements.seconds_moving();
        let budget = self.search.time_budget.map(|seconds| (seconds, self.workers));
        let speeds = self.tflops.map_or(SPEEDS.to_vec(), |tflops| vec![tflops]);
        Ok(Plan {
            model: folder.name,
            parameters: cost::weights(&spec),
            original_length: folder.description.original_length,
            target_length: self.target_length,
            dtype: self.dtype.to_string(),
            memory_gib: MemoryGib {
                weights: gib(memory.weights),
                hidden_states: gib(memory.hidden_states),
                keys_values: gib(memory.keys_values),
                buffers: gib(memory.buffers),
                shared_first_layer: gib(memory.shared),
                program: gib(memory.program),
                total: gib(memory.total()),
            },
            bytes_per_token: cost::bytes_per_token(&spec, load.format, length),
            device_memory_gib: self.device_memory.map(gib),
            fits: self.device_memory.map(|_| placements.alone()),
            tflop_per_pass: work.total() / 1e12,
            attention_share: work.attention / work.total(),
            evaluations: planned.evaluations,
            passes: planned.long,
            times: speeds
                .iter()
                .map(|&tflops| Time::at(tflops, &passes, moving, self.workers).within(budget))
                .collect(),
            placements,
        })
    }

    /// Refuses what a search with these options would be refused for, as far as that does not depend on documents or weights.
    fn check(&self, folder: &ModelFolder, mut search: SearchOptions, judged: usize) -> Outcome {
        if self.target_length <= folder.description.original_length {
            // No search, but what its evaluations would take may well be asked: as if a short window were recovered.
            search.max_factor.get_or_insert(1.0);
        }
        let samples = stand_ins(&mut search, judged);
        let model = ModelIdentity {
            name: folder.name.clone(),
            fingerprint: Fingerprint::from([0; 32]),
            config_json: folder.config_json.clone(),
        };
        let target_length = self.target_length;
        let job = JobSpec { name: "plan".into(), model, target_length, search, samples, held_out: Vec::new() };
        job.check_new().map(drop).map_err(wrong_job)
    }
}

// === impl Time ===

impl Time {
    /// What is moved is added: copies and kernels of a device wait for each other.
    fn at(tflops: f64, passes: &Passes, seconds_moving: f64, workers: u32) -> Self {
        let seconds_per_pass = passes.work.total() / (tflops * 1e12) + seconds_moving;
        let seconds = seconds_per_pass * passes.long as f64 + passes.short_work / (tflops * 1e12);
        let seconds_of_search = seconds / f64::from(workers);
        Self { tflops, seconds_per_pass, seconds_of_search, passes_in_time: None }
    }

    /// With what a time budget on so many workers buys, where the search takes longer.
    fn within(self, budget: Option<(u64, u32)>) -> Self {
        let short = budget.filter(|&(seconds, _)| (seconds as f64) < self.seconds_of_search);
        let bought = |(seconds, workers)| (seconds as f64 * f64::from(workers) / self.seconds_per_pass) as u64;
        Self { passes_in_time: short.map(bought), ..self }
    }
}

/// `3.5 M`, `6.74 B`
fn count(parameters: u64) -> String {
    match parameters as f64 {
        n if n >= 1e9 => format!("{:.2} B", n / 1e9),
        n => format!("{:.1} M", n / 1e6),
    }
}

// === impl Plan ===

impl Plan {
    fn describe(&self, workers: u32) -> String {
        let memory = &self.memory_gib;
        let ratio = f64::from(self.target_length) / f64::from(self.original_length);
        let mut lines = vec![
            format!(
                "{}: {} parameters, {} to {} tokens ({ratio:.1}x), {}",
                self.model,
                count(self.parameters),
                self.original_length,
                self.target_length,
                self.dtype
            ),
            String::new(),
            format!("memory of a worker         {:>9.3} GiB", memory.total),
            format!("  weights                  {:>9.3}", memory.weights),
            format!("  hidden states            {:>9.3}", memory.hidden_states),
            format!("  keys, values (one layer) {:>9.3}", memory.keys_values),
            format!("  buffers                  {:>9.3}", memory.buffers),
            format!("  first layer, shared      {:>9.3}", memory.shared_first_layer),
            format!("  program                  {:>9.3}", memory.program),
            format!("  each further token       {:>9} bytes", self.bytes_per_token),
        ];
        let device = self.device_memory_gib.map_or_else(String::new, |gib| format!(" of {gib:.3} GiB"));
        lines.extend([String::new(), format!("where things could lie, on devices{device}:")]);
        lines.extend(self.placements.describe());
        lines.extend([
            String::new(),
            format!(
                "work of one document pass  {:>9.3} TFLOP, {:.0} % of it attention",
                self.tflop_per_pass,
                100.0 * self.attention_share
            ),
            format!(
                "passes                     {:>9} ({} candidates and the final report)",
                self.passes, self.evaluations
            ),
            String::new(),
            format!(
                "at (TFLOP/s sustained)   a pass   the search on {workers} worker{}",
                if workers == 1 { "" } else { "s" }
            ),
        ]);
        lines.extend(self.times.iter().map(|time| {
            let pass = match time.seconds_per_pass {
                seconds if seconds < 1.0 => format!("{:.0} ms", seconds * 1e3),
                seconds => output::duration(seconds),
            };
            let bought = time
                .passes_in_time
                .map_or_else(String::new, |passes| format!(", of which --time-budget buys {passes} passes"));
            format!("{:>22}   {pass}   {}{bought}", time.tflops, output::duration(time.seconds_of_search))
        }));
        lines.join("\n")
    }
}
