//! The work loop: lease units from a coordinator, evaluate them, report what came of them.
//!
//! ```text
//!              leases, samples                     assignments
//! coordinator ----------------->  desk (a task)  --------------->  evaluation (a thread)
//!             <-----------------                 <---------------
//!              heartbeats, reports                 losses, failures
//! ```
//!
//! A worker with a train root takes [trainings](training) too.
//!
//! The desk owns all state and is never blocked; the evaluation thread owns the model. A worker outlives its
//! coordinator: it tries again for as long as it takes, registers anew when it has been forgotten, and reports what
//! it computed in between.

mod backoff;
mod batch;
mod desk;
mod evaluation;
mod fetch;
mod held;
mod link;
mod pace;
mod registry;
mod sample_cache;
mod training;

use crate::device::{DeviceError, Devices, Dtype};
use desk::Desk;
use evaluation::Evaluation;
use link::Link;
use ropewalk_shared::access::Access;
use ropewalk_shared::sample::MAX_SAMPLE_TOKENS;
use ropewalk_shared::wire::connection::AccessError;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::watch;
use training::{Trainings, gate};

/// What a worker is told when it starts.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerConfig {
    /// URL of the coordinator, for example `http://127.0.0.1:7311`.
    pub coordinator: String,
    /// What the coordinator asks for, and by what it is known.
    pub access: Access,
    /// Its name, for people.
    pub name: String,
    /// Where it evaluates.
    pub devices: Devices,
    /// Bytes of each device that it uses at most; absent for what the device has.
    pub device_memory: Option<u64>,
    /// In which number format.
    pub dtype: Dtype,
    /// A model folder, or a folder with model folders in it.
    pub model_root: PathBuf,
    /// The folder that plans share with the workers which train, or one with such folders in it; absent for a worker that
    /// takes no trainings.
    pub train_root: Option<PathBuf>,
    /// Threads of the evaluation; 0 for one per processor core.
    pub threads: usize,
    /// Longest sequence it takes, in tokens; absent for whatever fits when it comes.
    pub max_tokens: Option<u64>,
    /// Whether it goes on when a job's model is not here or cannot be loaded: others may have it, and it may still come.
    pub wait_for_models: bool,
    /// How long to wait for a coordinator that is not there at the start; absent for ever.
    pub connect_timeout: Option<Duration>,
    /// How long the running evaluation may go on once the worker is to stop.
    pub grace: Duration,
    /// Memory for samples.
    pub sample_cache_bytes: usize,
}

/// What a worker did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct WorkerSummary {
    /// Units evaluated and reported.
    pub results: u64,
    /// Units that failed here.
    pub failures: u64,
    /// Units handed back unevaluated.
    pub handed_back: u64,
    /// Models trained.
    pub trainings: u64,
    /// Time spent evaluating.
    pub busy: Duration,
}

/// Why a worker cannot work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// The address is none.
    #[error("{url:?} is no coordinator address: {reason}; give one like http://127.0.0.1:7311")]
    Address {
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The model root is none.
    #[error("model root {} is not a folder; --model-root names a model folder or a folder with model folders in it", .0.display())]
    ModelRoot(PathBuf),
    /// The train root is none.
    #[error("train root {} is not a folder; --train-root names the folder of a plan, or a folder with such folders in it", .0.display())]
    TrainRoot(PathBuf),
    /// Trainings were asked for where there are none.
    #[error(
        "trainings run on the CPU, not on {devices}; leave out --train-root, or start another worker with it on the CPU"
    )]
    TrainsOnCpu {
        /// The devices that were chosen.
        devices: String,
    },
    /// The device or number format cannot be had.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A thread did not start.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] std::io::Error),
    /// The evaluation thread is gone.
    #[error("the evaluation thread ended unexpectedly; the log says why")]
    EvaluationEnded,
    /// The GPU failed again and again.
    #[error(
        "the GPU failed {failures} evaluations in a row, the last with: {reason}; errors of CUDA stay until the process ends: \
         start the worker again, and if that does not help look at `nvidia-smi` and the system's log"
    )]
    DeviceFailed {
        /// Evaluations.
        failures: u32,
        /// What the last of them ended with.
        reason: String,
    },
    /// A model is not here or cannot be loaded, and was not to be waited for.
    #[error("{0}")]
    Model(String),
    /// Nobody answered in time.
    #[error(
        "no coordinator answered at {url} within {waited:?} ({reason}); start one with `ropewalk serve`, or check the address"
    )]
    NotThere {
        /// The address.
        url: String,
        /// For how long it was tried.
        waited: Duration,
        /// What the last attempt said.
        reason: String,
    },
    /// The coordinator or this worker cannot show who it is.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// Somebody answered, and does not want this worker.
    #[error("the coordinator at {url} refuses this worker: {reason}; check that both are of the same version ({version} here)", version = env!("CARGO_PKG_VERSION"))]
    Refused {
        /// The address.
        url: String,
        /// What it said.
        reason: String,
    },
}

/// Works for a coordinator until `shutdown` is ready, then finishes or hands back what it holds.
///
/// Dropping the returned future stops the evaluation between two chunks and reports nothing.
///
/// # Errors
/// [`WorkerError`] when it cannot start; once it has registered, only when the coordinator does not accept its token any more,
/// its evaluation thread is gone, its GPU fails again and again, or a model is missing that was not to be waited for.
pub async fn run(
    config: WorkerConfig,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<WorkerSummary, WorkerError> {
    let link = Link::new(&config.coordinator, &config.access)?;
    if !config.model_root.is_dir() {
        return Err(WorkerError::ModelRoot(config.model_root));
    }
    if !registry::holds_models(&config.model_root) {
        let root = config.model_root.display();
        tracing::warn!(
            "no model lies in or below {root} (a folder with config.json and *.safetensors): nothing can be evaluated until one does"
        );
    }
    let devices = config.devices.open()?;
    devices.iter().try_for_each(|device| config.dtype.check(device))?;
    let (desk_side, train_side) = gate();
    let trainings = match &config.train_root {
        Some(root) => Some(Trainings::start(&config, root, train_side)?),
        None => None,
    };
    let evaluation = Evaluation::start(&config, devices)?;
    let (stop, stopped) = watch::channel(false);
    let shutdown = async {
        shutdown.await;
        stop.send_replace(true);
    };
    let desk = Desk::new(config, link, evaluation, desk_side).run(shutdown);
    let Some(trainings) = trainings else { return desk.await };
    // An error of the desk ends both.
    let (summary, trained) = tokio::try_join!(desk, async { Ok(trainings.run(stopped).await) })?;
    Ok(WorkerSummary { trainings: trained, ..summary })
}

// === impl WorkerConfig ===

impl WorkerConfig {
    /// The defaults, for this coordinator and the models in this folder: on the CPU with all cores.
    pub fn new(coordinator: impl Into<String>, model_root: impl Into<PathBuf>) -> Self {
        Self {
            coordinator: coordinator.into(),
            access: Access::default(),
            name: "worker".to_owned(),
            devices: Devices::default(),
            device_memory: None,
            dtype: Dtype::default(),
            model_root: model_root.into(),
            train_root: None,
            threads: 0,
            max_tokens: None,
            wait_for_models: true,
            connect_timeout: None,
            grace: Duration::from_secs(10),
            sample_cache_bytes: 256 << 20,
        }
    }

    /// The longest sequence this worker says it can hold.
    ///
    /// Without a bound of its own that is any: how much fits depends on the model, and an evaluation that does not
    /// fit is answered as too large.
    pub fn capacity(&self) -> u64 {
        self.max_tokens.unwrap_or(MAX_SAMPLE_TOKENS as u64)
    }

    /// Longest sequence of which it will be asked for gradients, in tokens: none where only losses are computed. Gradients are
    /// those of a whole model in f32 on the processor.
    fn gradient_capacity(&self) -> u64 {
        let computes = self.devices.is_cpu() && self.devices.count() == 1 && self.dtype == Dtype::F32;
        if computes { self.capacity() } else { 0 }
    }
}

// === impl WorkerError ===

impl WorkerError {
    /// Whether the configuration is at fault, and not what was met while working.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Address { .. }
            | Self::ModelRoot(_)
            | Self::TrainRoot(_)
            | Self::Access(_)
            | Self::TrainsOnCpu { .. }
            | Self::Device(_) => true,
            Self::Thread(_)
            | Self::EvaluationEnded
            | Self::DeviceFailed { .. }
            | Self::Model(_)
            | Self::NotThere { .. }
            | Self::Refused { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests;
