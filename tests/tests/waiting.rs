//! A job that waits says for what, to whoever launches or watches it; and every hint names the coordinator that it is about.

use anyhow::{Context as _, Result, ensure};
use ropewalk_tests::binaries;
use ropewalk_tests::command::ropewalk;
use ropewalk_tests::models;
use ropewalk_tests::process::{Coordinator, Worker};
use ropewalk_tests::search::Search;
use serde_json::Value;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// What takes longer never comes.
const LIMIT: Duration = Duration::from_secs(120);
const NO_WORKER: &str = "waiting for a worker: none is connected; start ropewalk-worker";
const NO_MODEL: &str = "1 without the job's model";

/// A `ropewalk watch` under way; killed when dropped.
struct Watching {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

// === impl Watching ===

impl Watching {
    fn start(folder: &Path, name: &str, arguments: &[&str]) -> Result<Self> {
        let [stdout, stderr] = ["out", "err"].map(|stream| folder.join(format!("{name}.{stream}")));
        let child = Command::new(binaries::ropewalk()?)
            .arg("watch")
            .args(arguments)
            .env_remove("ROPEWALK_COORDINATOR")
            .stdin(Stdio::null())
            .stdout(File::create(&stdout)?)
            .stderr(File::create(&stderr)?)
            .spawn()?;
        Ok(Self { child, stdout, stderr })
    }

    /// Waits until it has said this on standard error.
    fn says(&self, what: &str) -> Result<()> {
        let start = Instant::now();
        loop {
            let said = std::fs::read_to_string(&self.stderr)?;
            if said.contains(what) {
                return Ok(());
            }
            ensure!(start.elapsed() < LIMIT, "{what:?} is never said: {said}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Standard output and error, once it has ended well.
    fn ended(mut self) -> Result<(String, String)> {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            ensure!(start.elapsed() < LIMIT, "it does not end: {}", std::fs::read_to_string(&self.stderr)?);
            thread::sleep(Duration::from_millis(20));
        };
        let (stdout, stderr) = (std::fs::read_to_string(&self.stdout)?, std::fs::read_to_string(&self.stderr)?);
        ensure!(status.success(), "{status}: {stderr}");
        Ok((stdout, stderr))
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        // One that has ended already cannot be killed, and need not be.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn launch_and_watch_say_what_a_job_waits_for() -> Result<()> {
    let folder = TempDir::new()?;
    let path = folder.path();
    let (here, there) = (path.join("here"), path.join("there"));
    std::fs::create_dir_all(&there)?;
    let mut search = Search::small(path)?;
    search.model = models::copy_of_tiny(&here, "rare")?;
    let coordinator = Coordinator::start(path)?;
    let url = coordinator.url.as_str();
    let arguments = search.arguments();
    let launch: Vec<&str> = std::iter::once("launch").chain(arguments.iter().map(String::as_str)).collect();

    let launched = ropewalk([&launch[..], &["--coordinator", url]].concat())?.done()?;
    let job = launched.stdout.trim_end();
    assert!(job.starts_with("small-") && !job.contains(char::is_whitespace), "{launched}");
    let hint = format!("`ropewalk watch {job} --coordinator {url}` follows it\n");
    assert!(launched.stderr.contains(&hint) && launched.stderr.contains(NO_WORKER), "{launched}");

    let people = Watching::start(path, "people", &[job, "--coordinator", url])?;
    let programs = Watching::start(path, "programs", &[job, "--coordinator", url, "--json"])?;
    people.says(NO_WORKER)?;
    programs.says(NO_WORKER)?;
    let _poor = Worker::start(path, url, "poor", &there)?;
    people.says(NO_MODEL)?;
    programs.says(NO_MODEL)?;
    let _rich = Worker::start(path, url, "rich", &here)?;
    let (_, said) = people.ended()?;
    assert_eq!([said.matches(NO_WORKER).count(), said.matches(NO_MODEL).count()], [1, 1], "{said}");
    assert!(said.contains(&format!("`ropewalk export {job} --format hf")), "{said}");
    assert!(said.contains(&format!(" --coordinator {url}` writes what an engine loads")), "{said}");

    // What programs read is events, and how the job ended.
    let (told, said) = programs.ended()?;
    assert_eq!([said.matches(NO_WORKER).count(), said.matches(NO_MODEL).count()], [1, 1], "{said}");
    let lines: Vec<Value> = told.lines().map(serde_json::from_str).collect::<Result<_, _>>().context(told.clone())?;
    let (last, events) = lines.split_last().context("nothing is told")?;
    assert_eq!(last["state"], "done", "{last:#}");
    assert!(!events.is_empty() && events.iter().all(|event| event["sequence"].is_u64()), "{told}");
    assert!(!told.contains("waiting for a worker"), "{told}");
    Ok(())
}

/// Whoever names the coordinator once for all commands is not told to name it again.
#[test]
fn hints_leave_out_an_address_that_the_next_command_knows() -> Result<()> {
    let folder = TempDir::new()?;
    let coordinator = Coordinator::start(folder.path())?;
    let with_variable = |arguments: &[String]| -> Result<(String, String)> {
        let mut command = Command::new(binaries::ropewalk()?);
        let ended = command.args(arguments).env("ROPEWALK_COORDINATOR", &coordinator.url).output()?;
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        ensure!(ended.status.success(), "{}", text(&ended.stderr));
        Ok((text(&ended.stdout), text(&ended.stderr)))
    };
    let none = ropewalk(["jobs", "--coordinator", &coordinator.url])?.done()?;
    assert!(none.stderr.contains(&format!("`ropewalk launch --coordinator {}` starts one", coordinator.url)), "{none}");
    assert!(with_variable(&["jobs".to_owned()])?.1.contains("`ropewalk launch` starts one"));
    let mut launch = Search::small(folder.path())?.arguments();
    launch.insert(0, "launch".to_owned());
    let (job, said) = with_variable(&launch)?;
    assert!(said.contains(&format!("`ropewalk watch {}` follows it\n", job.trim_end())), "{said}");
    let _worker = Worker::start(folder.path(), &coordinator.url, "only", &models::root())?;
    let (_, said) = with_variable(&["watch".to_owned(), job.trim_end().to_owned()])?;
    assert!(said.contains(&format!("`ropewalk export {} --format hf", job.trim_end())), "{said}");
    assert!(!said.contains("--coordinator"), "{said}");
    Ok(())
}
