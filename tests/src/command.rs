//! Commands that run to their end.

use super::binaries;
use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use std::ffi::OsStr;
use std::fmt;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// A command that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(300);

/// How a command ended, and what it said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Exit status; absent when it was killed.
    pub status: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs `ropewalk` with these arguments.
///
/// # Errors
/// When it does not start or does not end. An exit status other than 0 is no error here.
pub fn ropewalk<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Result<Ended> {
    run(&binaries::ropewalk()?, arguments)
}

/// Runs `ropewalk-worker` with these arguments.
///
/// # Errors
/// As [`ropewalk`].
pub fn worker<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Result<Ended> {
    run(&binaries::worker()?, arguments)
}

fn run<A: AsRef<OsStr>>(program: &Path, arguments: impl IntoIterator<Item = A>) -> Result<Ended> {
    let mut command = prepared(program);
    command.args(arguments);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    // Both are read at once: a full pipe would stop the command.
    let stdout = child.stdout.take().context("no standard output")?;
    let stderr = child.stderr.take().context("no standard error")?;
    let [stdout, stderr] = [Box::new(stdout) as Box<dyn std::io::Read + Send>, Box::new(stderr)].map(|mut pipe| {
        thread::spawn(move || {
            let mut text = Vec::new();
            pipe.read_to_end(&mut text).map(|_| String::from_utf8_lossy(&text).into_owned())
        })
    });
    let status = wait(&mut child)?;
    let text = |reader: thread::JoinHandle<std::io::Result<String>>| {
        reader.join().map_err(|_| anyhow::anyhow!("a reader panicked"))?.map_err(anyhow::Error::from)
    };
    Ok(Ended { status: status.code(), stdout: text(stdout)?, stderr: text(stderr)? })
}

/// Runs `ropewalk`, reads one line of what it prints and goes away, as `head -1` does.
///
/// # Errors
/// As [`ropewalk`].
pub fn first_line<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Result<Ended> {
    let mut command = prepared(&binaries::ropewalk()?);
    command.args(arguments);
    // What is said to standard error in this time fits into the pipe.
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut stdout = String::new();
    BufReader::new(child.stdout.take().context("no standard output")?).read_line(&mut stdout)?;
    let status = wait(&mut child)?;
    let mut stderr = String::new();
    child.stderr.take().context("no standard error")?.read_to_string(&mut stderr)?;
    Ok(Ended { status: status.code(), stdout, stderr })
}

fn wait(child: &mut Child) -> Result<ExitStatus> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if start.elapsed() > LIMIT {
            child.kill()?;
            child.wait()?;
            bail!("a command has not ended after {LIMIT:?}");
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// A command untouched by the settings of whoever runs the tests.
pub(crate) fn prepared(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"ROPEWALK_") {
            command.env_remove(name);
        }
    }
    command
}

// === impl Ended ===

impl Ended {
    /// The command, if it did its work.
    ///
    /// # Errors
    /// When the exit status is another than 0.
    pub fn done(self) -> Result<Self> {
        if self.status == Some(0) { Ok(self) } else { bail!("{self}") }
    }

    /// Standard output as one JSON value.
    ///
    /// # Errors
    /// When the command failed or printed something else.
    pub fn json(self) -> Result<Value> {
        let done = self.done()?;
        serde_json::from_str(&done.stdout).with_context(|| done.to_string())
    }

    /// Asserts that the command failed with this status and said all of this.
    ///
    /// # Panics
    /// When it did not.
    pub fn assert_failed(&self, status: i32, fragments: &[&str]) {
        assert_eq!(self.status, Some(status), "{self}");
        assert!(self.stdout.is_empty(), "a failure belongs on standard error: {self}");
        assert!(!self.stderr.contains("panicked"), "{self}");
        // Messages may be wrapped to the terminal.
        let said = self.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
        for fragment in fragments {
            assert!(said.contains(fragment), "{fragment:?} is missing: {self}");
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.status.map_or_else(|| "killed".to_owned(), |status| status.to_string());
        write!(f, "status {status}\n--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr)
    }
}
