//! The process that carries a plan out.
//!
//! It ends when its standard input does, and so with the coordinator, however that ends.

use super::said::{report, text};
use crate::engine::PlanReport;
use ropewalk_shared::job::JobId;
use ropewalk_shared::plan::OrderId;
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;
use tokio::sync::mpsc;

/// Longest line that is read, in bytes; the rest of a longer one is passed over.
const MAX_LINE: u64 = 256 << 10;
/// Reports that may wait until the engine has taken in those before.
const REPORTS_AHEAD: usize = 64;
/// Lines of its log that are kept for a failure, and characters of each.
const KEPT_LINES: usize = 4;
const KEPT_CHARACTERS: usize = 300;
/// Pause between looks at a process that is about to end.
const POLL: Duration = Duration::from_millis(20);

/// What a process is told.
#[derive(Clone, Debug)]
pub(super) struct Told<'a> {
    pub program: &'a Path,
    pub folder: &'a Path,
    pub order: OrderId,
    pub coordinator: &'a str,
    /// For connecting to it: paths, never what is in the files, which others could read in a list of processes.
    pub environment: &'a [(&'static str, PathBuf)],
    pub job: &'a JobId,
}

/// A running process; killed when dropped.
#[derive(Debug)]
pub(super) struct Child {
    /// Taken when this is dropped.
    process: Option<std::process::Child>,
    stdin: Option<ChildStdin>,
    /// What it says; closed once it says no more.
    pub said: mpsc::Receiver<PlanReport>,
    log: Arc<Mutex<Vec<String>>>,
}

// === impl Child ===

impl Child {
    /// Starts one.
    ///
    /// # Errors
    /// What the system says.
    pub fn start(told: &Told<'_>) -> io::Result<Self> {
        let mut command = Command::new(told.program);
        // What interrupts the coordinator from a terminal is for the coordinator, which stops this process then.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut process = command
            .arg("carry-plan")
            .arg("--out")
            .arg(told.folder)
            .args(["--order", &told.order.to_string(), "--coordinator", told.coordinator])
            .envs(told.environment.iter().map(|(name, path)| (name, path)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let (stdin, stdout, stderr) = (process.stdin.take(), process.stdout.take(), process.stderr.take());
        let (sender, said) = mpsc::channel(REPORTS_AHEAD);
        let log = Arc::new(Mutex::new(Vec::new()));
        // From here on the process ends with this value, also where a thread cannot be had.
        let child = Self { process: Some(process), stdin, said, log: log.clone() };
        if let Some(stdout) = stdout {
            // Nobody listens any more once the attempt is over.
            let hear = move |line: &[u8]| report(line).is_none_or(|report| sender.blocking_send(report).is_ok());
            thread::Builder::new().name("plan-said".into()).spawn(move || each_line(stdout, hear))?;
        }
        if let Some(stderr) = stderr {
            let job = told.job.clone();
            let keep = move |line: &[u8]| {
                let line = text(&String::from_utf8_lossy(line), KEPT_CHARACTERS);
                tracing::info!(plan = %job, "{line}");
                let mut kept = log.lock().unwrap_or_else(PoisonError::into_inner);
                if kept.len() == KEPT_LINES {
                    kept.remove(0);
                }
                kept.push(line);
                true
            };
            thread::Builder::new().name("plan-log".into()).spawn(move || each_line(stderr, keep))?;
        }
        Ok(child)
    }

    /// Asks it to end.
    pub fn stop(&mut self) {
        self.stdin = None;
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// What the system says.
    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        loop {
            let Some(process) = &mut self.process else { return Err(io::ErrorKind::NotFound.into()) };
            if let Some(status) = process.try_wait()? {
                return Ok(status);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The end of what it wrote to standard error.
    pub fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.stdin = None;
        let Some(mut process) = self.process.take() else { return };
        // One that has ended cannot be killed, and need not be.
        let _ = process.kill();
        if let Ok(Some(_)) = process.try_wait() {
            return;
        }
        // One that waits for a file system that does not answer outlives this, and no task may wait for it.
        let _ = thread::Builder::new().name("plan-ends".into()).spawn(move || process.wait());
    }
}

/// Hands on line after line, each up to a bound, until there are no more or nobody wants them.
fn each_line(from: impl Read, mut hear: impl FnMut(&[u8]) -> bool) {
    let mut from = BufReader::new(from);
    let mut wanted = true;
    loop {
        let mut line = Vec::new();
        match (&mut from).take(MAX_LINE).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let is_whole = line.last() == Some(&b'\n');
        // What is no longer wanted is read all the same: the process must not wait for somebody who reads.
        wanted = wanted && hear(line.trim_ascii_end());
        if !is_whole && skip_line(&mut from).is_err() {
            return;
        }
    }
}

/// Reads up to the end of a line and keeps nothing of it.
fn skip_line(from: &mut impl io::BufRead) -> io::Result<()> {
    loop {
        let buffer = from.fill_buf()?;
        let (length, ends) = match buffer.iter().position(|&byte| byte == b'\n') {
            Some(at) => (at + 1, true),
            None => (buffer.len(), buffer.is_empty()),
        };
        from.consume(length);
        if ends {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded_and_read_to_the_end() {
        let long = "x".repeat(MAX_LINE as usize + 10);
        let said = format!("one\n{long}\ntwo\r\nthree");
        let mut heard = Vec::new();
        each_line(said.as_bytes(), |line| {
            heard.push(line.to_vec());
            true
        });
        assert_eq!(heard[0], b"one");
        assert_eq!(heard[1].len() as u64, MAX_LINE);
        assert_eq!(heard[2..], [b"two".to_vec(), b"three".to_vec()]);
    }
}
