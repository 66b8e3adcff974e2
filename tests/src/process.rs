//! Coordinators and workers as processes: started, killed with -9, started again.

use super::{binaries, command};
use anyhow::{Context as _, Result, bail, ensure};
use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// A process that takes longer to start hangs.
const LIMIT: Duration = Duration::from_secs(60);
/// Seconds after which work goes to another worker; short, so that a killed worker costs a test little.
const LEASE_SECONDS: &str = "2";

/// A running process; killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

/// A coordinator with its store.
#[derive(Debug)]
pub struct Coordinator {
    process: Process,
    stdout: Option<BufReader<ChildStdout>>,
    /// Where it listens.
    pub url: String,
    store: PathBuf,
    folder: PathBuf,
    more: Vec<String>,
}

/// A worker and how it was started.
#[derive(Debug)]
pub struct Worker {
    process: Process,
    arguments: Vec<String>,
    folder: PathBuf,
}

// === impl Process ===

impl Process {
    pub(crate) fn start<A: AsRef<OsStr>>(
        program: &Path,
        arguments: impl IntoIterator<Item = A>,
        folder: &Path,
    ) -> Result<(Self, BufReader<ChildStdout>)> {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        let log = folder.join(format!("{name}-{}.log", STARTED.fetch_add(1, Ordering::Relaxed)));
        let mut child = command::prepared(program)
            .args(arguments)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log)?)
            .spawn()?;
        let stdout = child.stdout.take().context("no standard output")?;
        Ok((Self { child, log }, BufReader::new(stdout)))
    }

    /// Kills it as the kernel would: no farewell, nothing flushed.
    ///
    /// # Errors
    /// When it cannot be killed or had ended by itself.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("it had ended by itself with {status}: {}", self.log());
        }
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Whether it has ended.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Asks it to stop, and returns its exit status.
    ///
    /// # Errors
    /// When it does not stop.
    pub fn interrupt(&mut self) -> Result<Option<i32>> {
        let id = self.child.id().to_string();
        ensure!(std::process::Command::new("kill").args(["-INT", &id]).status()?.success(), "cannot signal {id}");
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status.code());
            }
            ensure!(start.elapsed() < LIMIT, "it does not stop: {}", self.log());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// What it wrote to standard error.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended already cannot be killed, and need not be.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address that nobody uses and nobody will get by chance: while a coordinator is dead, the system must not give its
/// port to some connection. So it lies below the ports that systems give out.
fn free_address() -> Result<String> {
    const PORTS: std::ops::Range<u32> = 20_000..32_000;
    static TRIED: AtomicU32 = AtomicU32::new(0);
    for _ in 0..1000 {
        // Test programs that run side by side begin at different places.
        let step = std::process::id().wrapping_mul(101).wrapping_add(TRIED.fetch_add(1, Ordering::Relaxed));
        let address = format!("127.0.0.1:{}", PORTS.start + step % (PORTS.end - PORTS.start));
        if TcpListener::bind(&address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no free port from {} to {}", PORTS.start, PORTS.end)
}

// === impl Coordinator ===

impl Coordinator {
    /// Starts a coordinator on a free port with a store in `folder`.
    ///
    /// # Errors
    /// When it does not say where it listens.
    pub fn start(folder: &Path) -> Result<Self> {
        Self::start_with(folder, &[])
    }

    /// Starts one that carries out plans below `plan_root`.
    ///
    /// # Errors
    /// When it does not say where it listens.
    pub fn start_with_plans(folder: &Path, plan_root: &Path) -> Result<Self> {
        Self::start_with(folder, &["--plan-root".to_owned(), plan_root.to_string_lossy().into_owned()])
    }

    /// Starts one with more options.
    ///
    /// # Errors
    /// When it does not say where it listens.
    pub fn start_with(folder: &Path, more: &[String]) -> Result<Self> {
        Self::start_at(folder, &folder.join("store"), &free_address()?, more.to_vec())
    }

    fn start_at(folder: &Path, store: &Path, listen: &str, more: Vec<String>) -> Result<Self> {
        let store_text = store.to_string_lossy();
        let arguments =
            ["serve", "--listen", listen, "--store", &store_text, "--lease", LEASE_SECONDS, "--log", "info"];
        let arguments = arguments.into_iter().chain(more.iter().map(String::as_str));
        let (process, stdout) = Process::start(&binaries::ropewalk()?, arguments, folder)?;
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let (mut stdout, mut line) = (stdout, String::new());
            let read = stdout.read_line(&mut line).map(|_| (line, stdout));
            // Nobody waits any more when it took too long.
            let _ = sender.send(read);
        });
        let (line, stdout) = receiver
            .recv_timeout(LIMIT)
            .with_context(|| format!("it does not say where it listens: {}", process.log()))??;
        let url = line.trim().strip_prefix("listening on ").map(str::to_owned);
        let url = url.with_context(|| format!("its first line is {line:?}: {}", process.log()))?;
        Ok(Self { process, stdout: Some(stdout), url, store: store.to_owned(), folder: folder.to_owned(), more })
    }

    /// Kills it.
    ///
    /// # Errors
    /// When it had ended by itself.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Starts it again after a kill, on the same port and store.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn restart(&mut self) -> Result<()> {
        self.stdout = None;
        let address = self.url.split("://").last().unwrap_or_default().to_owned();
        *self = Self::start_at(&self.folder, &self.store, &address, self.more.clone())?;
        Ok(())
    }

    /// Asks it to stop, and returns its exit status.
    ///
    /// # Errors
    /// When it does not stop.
    pub fn interrupt(&mut self) -> Result<Option<i32>> {
        self.process.interrupt()
    }

    /// What it wrote to standard error since its last start.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Where its dashboard is, which one started with `--http` says.
    ///
    /// # Errors
    /// When it does not say so.
    pub fn dashboard(&self) -> Result<String> {
        let start = Instant::now();
        loop {
            let log = self.log();
            // The last line may be half written.
            let lines = log.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
            if let Some(url) = lines.filter_map(|line| line.strip_prefix("dashboard: ")).next() {
                return Ok(url.to_owned());
            }
            ensure!(start.elapsed() < LIMIT, "it does not say where its dashboard is: {log}");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

// === impl Worker ===

impl Worker {
    /// Starts a worker for a coordinator, with the models below `model_root` and one thread.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(folder: &Path, url: &str, name: &str, model_root: &Path) -> Result<Self> {
        Self::start_with(folder, url, name, model_root, &[])
    }

    /// Starts one that also takes trainings, of plans below `train_root`.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_training(folder: &Path, url: &str, name: &str, model_root: &Path, train_root: &Path) -> Result<Self> {
        Self::start_with(folder, url, name, model_root, &["--train-root", &train_root.to_string_lossy()])
    }

    /// Starts one with more options.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_with(folder: &Path, url: &str, name: &str, model_root: &Path, more: &[&str]) -> Result<Self> {
        let root = model_root.to_string_lossy();
        let arguments = ["--coordinator", url, "--name", name, "--model-root", &root, "--threads", "1"];
        let arguments: Vec<String> = arguments.iter().chain(more).map(|&argument| argument.to_owned()).collect();
        let process = Process::start(&binaries::worker()?, &arguments, folder)?.0;
        Ok(Self { process, arguments, folder: folder.to_owned() })
    }

    /// Kills it.
    ///
    /// # Errors
    /// When it had ended by itself.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Waits until it has ended by itself, and returns its exit status.
    ///
    /// # Errors
    /// When it does not end.
    pub fn ended(&mut self) -> Result<Option<i32>> {
        let start = Instant::now();
        while !self.process.has_ended()? {
            ensure!(start.elapsed() < LIMIT, "it does not end: {}", self.log());
            thread::sleep(Duration::from_millis(5));
        }
        Ok(self.process.child.wait()?.code())
    }

    /// Starts it again after a kill.
    ///
    /// # Errors
    /// When it does not start.
    pub fn restart(&mut self) -> Result<()> {
        self.process = Process::start(&binaries::worker()?, &self.arguments, &self.folder)?.0;
        Ok(())
    }

    /// Asks it to stop, and returns its exit status.
    ///
    /// # Errors
    /// When it does not stop.
    pub fn interrupt(&mut self) -> Result<Option<i32>> {
        self.process.interrupt()
    }

    /// What it wrote to standard error since its last start.
    pub fn log(&self) -> String {
        self.process.log()
    }
}
