//! Coordinator and workers in this process, over the same gRPC code on loopback.

use super::failure::{Failure, OrFail as _, Outcome};
use super::files::keep_factors;
use super::options::JsonArgs;
use super::output::note;
use super::prepare::{ModelFolder, PreparedJob};
use super::results::Results;
use super::search::MachineArgs;
use super::stop::stop_signal;
use super::watch::{ended_well, follow};
use crate::client::{Client, JobResult};
use crate::service::{ServeOptions, serve};
use anyhow::Context as _;
use ropewalk_shared::factor_file::FactorFile;
use ropewalk_shared::status::{JobState, JobStatus};
use ropewalk_worker::cost::{self, Format, Load, Memory};
use ropewalk_worker::device::{Devices, Dtype};
use ropewalk_worker::evaluator::{self, Evaluator, EvaluatorOptions};
use ropewalk_worker::model::config::DecoderSpec;
use ropewalk_worker::placement::{NoPlacement, Placement, Room};
use ropewalk_worker::work_loop::{self, WorkerConfig};
use std::path::{Path, PathBuf};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Models with weights up to this size are loaded once per core: one candidate a core is faster than one candidate on
/// all cores.
const SMALL_WEIGHTS_BYTES: u64 = 256 << 20;

/// The workers to run in this process.
#[derive(Clone, Debug)]
pub struct Machine {
    devices: Devices,
    device_memory: Option<u64>,
    dtype: Dtype,
    workers: usize,
    threads: usize,
}

/// A search in this process.
pub struct LocalSearch<'a> {
    /// The model.
    pub folder: &'a ModelFolder,
    /// What to search.
    pub job: PreparedJob,
    /// Folder of the results; the store lies in it.
    pub out: &'a Path,
    /// What evaluates.
    pub machine: Machine,
    /// Whether events are printed as JSON.
    pub json: JsonArgs,
}

// === impl Machine ===

impl Machine {
    /// Decides how many workers with how many threads each, and that what they evaluate fits into the memory.
    pub fn new(args: MachineArgs, folder: &ModelFolder, target_length: u32, samples: usize) -> Result<Self, Failure> {
        // Opened here for its error: a device that is not there is wrong input, not a job that waits.
        let devices = args.device.devices();
        let opened = devices.open().or_input()?;
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        let (on_cpu, device_memory) = (devices.is_cpu(), args.device.device_memory);
        let dtype = devices.usual_dtype();
        let spec = DecoderSpec::from_config_json(&folder.config_json).or_input()?;
        let (chunk, tokens) = (cost::chunk_tokens(on_cpu), target_length as usize);
        let load = Load { spec: &spec, format: Format::on(on_cpu, dtype), chunk_tokens: chunk, tokens };
        let need = Memory::of(load).sharing(load, samples);
        let fit =
            workers_that_fit(load, need.total(), (evaluator::room(&opened, device_memory), opened.len())).or_input()?;
        let fitting = if on_cpu && need.weights <= SMALL_WEIGHTS_BYTES { cores.min(fit) } else { 1 };
        let workers = args.workers.unwrap_or(fitting);
        if !(1..=1024).contains(&workers) {
            return Err(Failure::input_message(format!("--workers {workers} must be from 1 to 1024")));
        }
        if workers > fit {
            let need = need.total() as f64 / (1u64 << 30) as f64;
            return Err(Failure::input_message(format!(
                "--workers {workers}: an evaluation of {target_length} tokens takes {need:.2} GiB, and --workers {fit} would fit \
                 (`ropewalk plan` says what a length takes)"
            )));
        }
        Ok(Self { devices, device_memory, dtype, workers, threads: (cores / workers).max(1) })
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// What one of the workers evaluates documents of `tokens` tokens with.
    pub fn evaluator(&self, model: &Path, tokens: usize) -> Result<Evaluator, Failure> {
        let devices = self.devices.open().or_input()?;
        let (threads, device_memory) = (self.threads, self.device_memory);
        let options = EvaluatorOptions { threads, device_memory, ..EvaluatorOptions::on(self.devices.is_cpu()) };
        Evaluator::open(model, &devices, self.dtype, tokens, options).or_input()
    }

    fn config(&self, coordinator: &str, number: usize, model: &Path) -> WorkerConfig {
        WorkerConfig {
            name: format!("local-{number}"),
            devices: self.devices.clone(),
            device_memory: self.device_memory,
            dtype: self.dtype,
            threads: self.threads,
            // Nobody else is there who might have the model.
            wait_for_models: false,
            ..WorkerConfig::new(coordinator, model)
        }
    }
}

/// Of how many workers, each with all the devices, the evaluations fit into this room where one takes `need` bytes and nothing is
/// streamed; of one they do wherever there is a placement, weights read layer by layer included.
fn workers_that_fit(load: Load<'_>, need: u64, (room, devices): (Room, usize)) -> Result<usize, NoPlacement> {
    let place = Placement::choose(load, room, devices, None)?;
    let whole = if load.format.cpu { room.host / need.max(1) } else { room.device / place.need(load).device().max(1) };
    Ok(usize::try_from(whole).unwrap_or(usize::MAX).max(1))
}

// === impl LocalSearch ===

impl LocalSearch<'_> {
    /// Runs the job to its end, going on where an earlier run in the same folder stopped; then writes what it found
    /// and prints the comparison.
    pub async fn run(self) -> Outcome {
        let id = self.job.spec.id();
        let is_own = |file: &FactorFile| file.search.as_ref().is_some_and(|search| search.job == id.as_str());
        keep_factors(&self.out.join("factors.json"), "search", is_own)?;
        let result = self.search().await?;
        let results = Results::new(self.folder, &result);
        let files = results.write(self.out)?;
        results.print(self.json)?;
        note(format!("\nwrote {}", files.join(", ")));
        Ok(())
    }

    /// Runs the job to its end, as [`Self::run`], and returns what it found.
    pub async fn search(&self) -> Result<JobResult, Failure> {
        let store = self.store()?;
        let (stop, stopped) = watch::channel(false);
        let mut serving =
            serve("127.0.0.1:0", &store, ServeOptions::default(), flagged(stopped.clone())).await.or_work()?;
        let url = serving.url();
        let mut workers = JoinSet::new();
        for number in 0..self.machine.workers {
            let config = self.machine.config(&url, number, &self.folder.path);
            workers.spawn(work_loop::run(config, flagged(stopped.clone())));
        }
        let mut ended = None;
        let outcome = tokio::select! {
            outcome = self.follow(&url) => outcome,
            // Its store has failed, most likely: who follows would wait for it to come back.
            by_itself = serving.ended() => {
                ended = Some(by_itself);
                Err(Failure::work_message("the search ended by itself; the same command goes on where it stopped"))
            }
            failed = first_failure(&mut workers) => Err(failed),
            () = stop_signal() => Err(Failure::work_message(format!(
                "interrupted; the same command goes on where it stopped (its state is in {})", store.display()
            ))),
        };
        // Everyone has left when the last receiver is gone; that is no failure.
        let _ = stop.send(true);
        while workers.join_next().await.is_some() {}
        match ended {
            Some(by_itself) => by_itself.or_work()?,
            None => serving.finished().await.or_work()?,
        }
        outcome
    }

    fn store(&self) -> Result<PathBuf, Failure> {
        let store = self.out.join("store");
        std::fs::create_dir_all(&store).with_context(|| format!("cannot create {}", store.display())).or_work()?;
        Ok(store)
    }

    async fn follow(&self, url: &str) -> Result<JobResult, Failure> {
        let client = Client::connect(url).await.or_work()?;
        client.put_samples(&self.job.samples, |_, _| ()).await.or_work()?;
        let (id, created) = client.launch(&self.job.spec).await.or_input()?;
        let id = id.as_str();
        let before: JobStatus = client.job(id).await.or_work()?;
        if before.state.is_final() {
            let how = if before.state == JobState::Done { "was done" } else { "ended without a result" };
            note(format!("this search {how} before; delete {} to search again", self.out.display()));
        } else if !created {
            note(format!("going on after {} of {} candidates", before.evaluations, before.planned_evaluations));
        }
        let status = follow(&client, id, self.json).await?;
        ended_well(&status)?;
        client.result(id).await.or_work()
    }
}

/// Completes when the flag is raised, or nobody is left to raise it.
async fn flagged(mut flag: watch::Receiver<bool>) {
    let _ = flag.wait_for(|raised| *raised).await;
}

/// Completes when a worker ends with an error. While others go on, they can do its work; but here all are alike.
async fn first_failure<E: Into<anyhow::Error> + 'static>(
    workers: &mut JoinSet<Result<work_loop::WorkerSummary, E>>,
) -> Failure {
    while let Some(ended) = workers.join_next().await {
        match ended {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Failure::work(error).context("a worker stopped"),
            Err(panic) => return Failure::work_message(format!("a worker stopped: {panic}")),
        }
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_streams_what_does_not_fit_whole() {
        let config = include_str!("../../assets/lab-model/config.json");
        let spec = DecoderSpec::from_config_json(config).unwrap();
        let load = Load { spec: &spec, format: Format::on(true, Dtype::F32), chunk_tokens: 16, tokens: 100 };
        let need = Memory::of(load).total();
        let within = |host| workers_that_fit(load, need, (Room { device: u64::MAX, host }, 1));
        let streamed = within(0).unwrap_err().least;
        let least = streamed.device() + streamed.host;
        assert!(least < need, "{least} of {need}");
        let fit = |free| within(free).unwrap();
        assert_eq!([fit(3 * need), fit(need), fit(need - 1), fit(least)], [3, 1, 1, 1]);
        assert!(within(least - 1).is_err());
        // A GPU is filled by what one worker places there.
        let load = Load { format: Format::on(false, Dtype::Bf16), ..load };
        let one = Placement::RESIDENT.need(load).device();
        let of_gpu = |device| workers_that_fit(load, need, (Room { device, host: u64::MAX }, 1)).unwrap();
        assert_eq!([of_gpu(3 * one), of_gpu(one), of_gpu(one - 1)], [3, 1, 1]);
    }
}
