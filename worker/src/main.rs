//! The `ropewalk-worker` command.

mod access;

use clap::{Parser, ValueEnum};
use ropewalk_shared::log_filter;
use ropewalk_worker::device::{self, DeviceChoice, Devices, Dtype};
use ropewalk_worker::work_loop::{WorkerConfig, WorkerError, WorkerSummary, run};
use ropewalk_worker::{kernels, memory};
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tracing_subscriber::EnvFilter;

/// Evaluate candidates for a Ropewalk coordinator, until interrupted.
///
/// The worker leases units (a candidate on a sample), measures the perplexity and reports it. It needs the models of
/// the jobs below its model root; samples come from the coordinator. It may be started before the coordinator, and
/// outlives its restarts. With --train-root it takes trainings too, one at a time. Interrupted once (Ctrl-C or SIGTERM)
/// it finishes the running evaluation within the grace time, keeps the checkpoint of a training, and hands back the
/// rest; interrupted twice it ends at once. Either way nothing is lost: other workers take over.
#[derive(Debug, Parser)]
#[command(name = "ropewalk-worker", version, max_term_width = 100)]
#[command(after_help = "Exit status: 0 stopped as asked, 1 the work failed, 2 wrong usage or input.")]
struct Cli {
    /// Address of the coordinator (`ropewalk serve`)
    #[arg(long, env = "ROPEWALK_COORDINATOR", value_name = "URL", default_value = "http://127.0.0.1:7311")]
    coordinator: String,

    /// File that holds the coordinator's token, where it asks for one (`ropewalk serve --token-file`)
    #[arg(long, env = "ROPEWALK_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// PEM file with the certificates to trust at an https:// address, instead of the system's
    #[arg(long, env = "ROPEWALK_CA", value_name = "FILE")]
    ca: Option<PathBuf>,

    /// Name shown in `ropewalk workers` [default: host name and process id]
    #[arg(long, env = "ROPEWALK_WORKER_NAME")]
    name: Option<String>,

    /// Where to evaluate: cpu, cuda or cuda:N
    #[arg(long, env = "ROPEWALK_DEVICE", default_value = "cpu")]
    device: DeviceChoice,

    /// Several devices that share one evaluation, layer by layer in turn: indices of GPUs, such as 0,1
    #[arg(long, env = "ROPEWALK_DEVICES", value_name = "LIST", conflicts_with = "device")]
    devices: Option<Devices>,

    /// Memory of each device that is used at most: weights that do not fit are streamed layer by layer, hidden states
    /// wait in the host's memory [default: what the device has]
    #[arg(long, env = "ROPEWALK_DEVICE_MEMORY", value_name = "GIB", value_parser = device::gib)]
    device_memory: Option<u64>,

    /// Number format: f32, f32-fast (bf16x3 on CPUs with AMX), bf16 (on the CPU that of what is kept: half the memory),
    /// f16 (GPUs only) [default: f32 on the CPU, bf16 on a GPU]
    #[arg(long, env = "ROPEWALK_DTYPE")]
    dtype: Option<Dtype>,

    /// A model folder (config.json and *.safetensors), or a folder with model folders in it
    #[arg(long, env = "ROPEWALK_MODEL_ROOT", value_name = "DIR", default_value = ".")]
    model_root: PathBuf,

    /// Take trainings too: the folder of a plan, or one with such folders in it, on a disk shared with whoever launches them.
    /// On the CPU only, and nothing is evaluated meanwhile [default: no trainings]
    #[arg(long, env = "ROPEWALK_TRAIN_ROOT", value_name = "DIR")]
    train_root: Option<PathBuf>,

    /// Threads of the evaluation; 0 for one per processor core
    #[arg(long, env = "ROPEWALK_THREADS", value_name = "N", default_value_t = 0, value_parser = threads)]
    threads: usize,

    /// Longest sequence to take, in tokens [default: what fits into memory]
    #[arg(long, env = "ROPEWALK_MAX_TOKENS", value_name = "N", value_parser = clap::value_parser!(u64).range(2..))]
    max_tokens: Option<u64>,

    /// Give up when no coordinator answers within so many seconds of the start [default: wait for it]
    #[arg(long, env = "ROPEWALK_CONNECT_TIMEOUT", value_name = "SECONDS", value_parser = seconds)]
    connect_timeout: Option<Duration>,

    /// Seconds that the running evaluation may go on after the first interruption
    #[arg(long, env = "ROPEWALK_GRACE", value_name = "SECONDS", value_parser = seconds, default_value = "10")]
    grace: Duration,

    /// What to log to standard error: error, warn, info, debug, or a filter such as ropewalk_worker=debug
    #[arg(long, env = "ROPEWALK_LOG", value_name = "FILTER", default_value = "info", help_heading = "Logging")]
    #[arg(value_parser = log_filter::parse)]
    log: String,

    /// Form of log lines
    #[arg(long, value_enum, default_value_t = LogFormat::Text, help_heading = "Logging")]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    cli.start_logging();
    let access = match access::read(cli.token_file.as_deref(), cli.ca.as_deref()) {
        Ok(access) => access,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    if let Some(warning) = access.exposed(&cli.coordinator) {
        tracing::warn!("{warning}");
    }
    match work(WorkerConfig { access, ..cli.config() }) {
        Ok(summary) => {
            let WorkerSummary { results, failures, handed_back, trainings, busy } = summary;
            tracing::info!(results, failures, handed_back, trainings, ?busy, "stopped");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(if error.is_usage() { 2 } else { 1 })
        }
    }
}

fn work(config: WorkerConfig) -> Result<WorkerSummary, WorkerError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // The calls are small and few; the processor belongs to the evaluation.
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(WorkerError::Thread)?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        name = config.name,
        coordinator = config.coordinator,
        devices = %config.devices,
        dtype = %config.dtype,
        threads = if config.threads == 0 { cores() } else { config.threads },
        kernels = kernels::describe(config.devices.is_cpu(), config.dtype),
        max_tokens = config.max_tokens.map_or("what fits".to_owned(), |tokens| tokens.to_string()),
        free_memory_mib = memory::available_bytes().map(|bytes| bytes >> 20),
        model_root = %config.model_root.display(),
        train_root = config.train_root.as_ref().map(|root| root.display().to_string()),
        "starting"
    );
    runtime.block_on(async {
        tokio::spawn(end_at_second_interruption());
        run(config, interrupted()).await
    })
}

/// Ready when the process is asked to stop. Signals are caught from this call on, not only once somebody waits.
fn interrupted() -> impl Future<Output = ()> + Send {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{Signal, SignalKind, signal};
        let [interrupt, terminate] = [SignalKind::interrupt(), SignalKind::terminate()].map(|kind| signal(kind).ok());
        async fn received(signal: Option<Signal>) {
            match signal {
                Some(mut signal) => _ = signal.recv().await,
                // Without a handler the default action ends the process.
                None => std::future::pending().await,
            }
        }
        async move {
            tokio::select! { () = received(interrupt) => {}, () = received(terminate) => {} }
        }
    }
    #[cfg(not(unix))]
    async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    }
}

async fn end_at_second_interruption() {
    interrupted().await;
    // Shells and supervisors often signal the process and its group: that is one interruption.
    tokio::time::sleep(Duration::from_millis(500)).await;
    interrupted().await;
    tracing::warn!("interrupted twice: ending at once");
    std::process::exit(1);
}

impl Cli {
    fn config(&self) -> WorkerConfig {
        let devices = self.devices.clone().unwrap_or_else(|| self.device.into());
        WorkerConfig {
            name: self.name.clone().unwrap_or_else(default_name),
            dtype: self.dtype.unwrap_or_else(|| devices.usual_dtype()),
            devices,
            device_memory: self.device_memory,
            train_root: self.train_root.clone(),
            threads: self.threads,
            max_tokens: self.max_tokens,
            connect_timeout: self.connect_timeout,
            grace: self.grace,
            ..WorkerConfig::new(&self.coordinator, &self.model_root)
        }
    }

    fn start_logging(&self) {
        let builder = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new(&self.log))
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(std::io::stderr);
        match self.log_format {
            LogFormat::Text => builder.with_target(false).init(),
            LogFormat::Json => builder.json().init(),
        }
    }
}

/// A number of threads that a machine can have.
fn threads(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| *number <= 1024);
    number.ok_or_else(|| "give a number from 0 to 1024".to_owned())
}

/// Seconds, with a fraction if need be.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("{text:?} is not a number of seconds"))?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

fn default_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| std::env::var("HOSTNAME").ok());
    let host = host.map(|host| host.trim().to_owned()).filter(|host| !host.is_empty());
    format!("{}-{}", host.as_deref().unwrap_or("worker"), std::process::id())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        let config = Cli::parse_from(["ropewalk-worker"]).config();
        assert_eq!(config.coordinator, "http://127.0.0.1:7311");
        assert_eq!((config.dtype, config.grace), (Dtype::F32, Duration::from_secs(10)));
        let config = Cli::parse_from(["ropewalk-worker", "--device", "cuda:1", "--connect-timeout", "0.5"]).config();
        assert_eq!((config.dtype, config.connect_timeout), (Dtype::Bf16, Some(Duration::from_millis(500))));
        for wrong in [
            ["--device", "gpu"],
            ["--dtype", "f8"],
            ["--connect-timeout", "-1"],
            ["--max-tokens", "1"],
            ["--devices", "cpu,0"],
            ["--device-memory", "0"],
        ] {
            let error = Cli::try_parse_from(["ropewalk-worker"].into_iter().chain(wrong)).unwrap_err();
            assert_eq!(error.exit_code(), 2);
        }
    }
}
