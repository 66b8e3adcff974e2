//! A small search, from its options to its factor file.

use super::command::ropewalk;
use super::{documents, models};
use anyhow::{Result, bail, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// A job that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(300);

/// Options of a search of the tiny model.
#[derive(Clone, Debug)]
pub struct Search {
    /// The model's folder.
    pub model: PathBuf,
    /// Documents.
    pub tokens: PathBuf,
    /// Length to reach.
    pub target_length: usize,
    /// First population.
    pub population: usize,
    /// Later generations, each half as large as the first population.
    pub generations: usize,
    /// Documents searched on; half as many are held out.
    pub samples: usize,
    /// The seed.
    pub seed: u64,
    /// Name of the job.
    pub name: String,
}

// === impl Search ===

impl Search {
    /// A search that takes a second or two; its documents are written to `folder`.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn small(folder: &Path) -> Result<Self> {
        Self::sized(folder, 256, 3)
    }

    /// A search to `target_length` tokens on `samples` documents.
    ///
    /// # Errors
    /// When the documents cannot be written.
    pub fn sized(folder: &Path, target_length: usize, samples: usize) -> Result<Self> {
        let tokens = documents::write(folder, 2 * samples, target_length, models::TINY_VOCABULARY, 7)?;
        Ok(Self {
            model: models::tiny(),
            tokens,
            target_length,
            population: 12,
            generations: 3,
            samples,
            seed: 1,
            name: "small".to_owned(),
        })
    }

    /// The options of `launch` and `search`.
    pub fn arguments(&self) -> Vec<String> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let quarter = (self.population / 4).to_string();
        let arguments = [
            ("--model", text(&self.model)),
            ("--tokens", text(&self.tokens)),
            ("--target-length", self.target_length.to_string()),
            ("--population", self.population.to_string()),
            ("--mutations", quarter.clone()),
            ("--crossovers", quarter),
            ("--parents", (self.population / 2).to_string()),
            ("--generations", self.generations.to_string()),
            ("--samples", self.samples.to_string()),
            ("--held-out", self.samples.div_ceil(2).to_string()),
            ("--start-tokens", "0,4,16".to_owned()),
            ("--seed", self.seed.to_string()),
            ("--name", self.name.clone()),
        ];
        arguments.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect()
    }

    /// Launches it, and returns the job's id.
    ///
    /// # Errors
    /// When the coordinator refuses it.
    pub fn launch(&self, url: &str) -> Result<String> {
        let mut arguments = vec!["launch".to_owned(), "--coordinator".to_owned(), url.to_owned()];
        arguments.extend(self.arguments());
        Ok(ropewalk(arguments)?.done()?.stdout.trim().to_owned())
    }

    /// Runs it in one process with so many workers, and returns the factor file's text.
    ///
    /// # Errors
    /// When the search fails.
    pub fn in_one_process(&self, out: &Path, workers: usize) -> Result<String> {
        let (out_text, workers) = (out.to_string_lossy().into_owned(), workers.to_string());
        let mut arguments = ["search", "--out", &out_text, "--workers", &workers].map(str::to_owned).to_vec();
        arguments.extend(self.arguments());
        ropewalk(arguments)?.done()?;
        Ok(std::fs::read_to_string(out.join("factors.json"))?)
    }
}

/// How a job stands.
///
/// # Errors
/// When the coordinator does not answer.
pub fn status(url: &str, job: &str) -> Result<Value> {
    ropewalk(["status", job, "--coordinator", url, "--json"])?.json()
}

/// Waits until the job's status is as wanted.
///
/// # Errors
/// When it fails, is cancelled, or never gets there.
pub fn wait_until(url: &str, job: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    let start = Instant::now();
    loop {
        let status = status(url, job)?;
        if wanted(&status) {
            return Ok(status);
        }
        if matches!(status["state"].as_str(), Some("failed" | "cancelled" | "done")) {
            bail!("the job ended otherwise: {status:#}");
        }
        ensure!(start.elapsed() < LIMIT, "the job does not get on: {status:#}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until the job is done.
///
/// # Errors
/// As [`wait_until`].
pub fn wait_done(url: &str, job: &str) -> Result<Value> {
    wait_until(url, job, is_done)
}

/// Whether a status says that the job is done.
pub fn is_done(status: &Value) -> bool {
    status["state"] == "done"
}

/// The factor file of a job.
///
/// # Errors
/// When it cannot be exported.
pub fn factors(url: &str, job: &str) -> Result<String> {
    Ok(ropewalk(["export", job, "--coordinator", url, "--format", "json"])?.done()?.stdout)
}
