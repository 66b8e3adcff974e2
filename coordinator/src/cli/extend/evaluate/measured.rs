//! Measurements on disk, so that one is never made twice: not after a kill, and not for equal factors under two names.

use crate::cli::failure::{Failure, OrFail as _};
use anyhow::Context as _;
use ropewalk_shared::fingerprint::Fingerprint;
use ropewalk_shared::outcome::Loss;
use ropewalk_shared::rope::Rescale;
use ropewalk_shared::sample::{Sample, SampleId};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

/// One measurement.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Unit {
    /// The loss of the counted tokens.
    #[serde(flatten)]
    pub loss: Loss,
    /// Counted tokens that greedy decoding gives; 0 where that was not asked.
    pub correct: u64,
    /// Seconds that it took.
    pub seconds: f64,
}

/// What was measured of what, one line each.
#[derive(Serialize, Deserialize)]
struct Line {
    model: Fingerprint,
    factors: String,
    sample: SampleId,
    #[serde(flatten)]
    unit: Unit,
}

/// All measurements of a stage.
pub struct Measured {
    known: HashMap<(Fingerprint, String, SampleId), Unit>,
    file: File,
}

// === impl Unit ===

impl Unit {
    /// Whether greedy decoding gives all counted tokens.
    pub fn is_exact(&self) -> bool {
        self.correct == self.loss.tokens
    }
}

// === impl Measured ===

impl Measured {
    /// Opens the file, and cuts off a last line that was not written whole.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let opened = || -> std::io::Result<(Vec<u8>, File)> {
            let mut content = match std::fs::read(path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
                content => content?,
            };
            content.truncate(content.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1));
            let file = File::options().create(true).append(true).open(path)?;
            file.set_len(content.len() as u64)?;
            Ok((content, file))
        };
        let (content, file) = opened().with_context(|| format!("cannot open {}", path.display())).or_work()?;
        let mut known = HashMap::new();
        for line in String::from_utf8_lossy(&content).lines() {
            let damaged = || format!("{} is damaged; remove it to measure again", path.display());
            let Line { model, factors, sample, unit } = serde_json::from_str(line).with_context(damaged).or_work()?;
            known.insert((model, factors, sample), unit);
        }
        Ok(Self { known, file })
    }

    /// What is known of a sample under a model and factors, else what `measure` gives: loss and correct tokens.
    pub fn get_or(
        &mut self,
        model: Fingerprint,
        rescale: &Rescale,
        sample: &Sample,
        measure: impl FnOnce() -> Result<(Loss, u64), Failure>,
    ) -> Result<Unit, Failure> {
        let (factors, sample) = (rescale.id().to_string(), sample.id());
        if let Some(unit) = self.known.get(&(model, factors.clone(), sample)) {
            return Ok(*unit);
        }
        let started = Instant::now();
        let (loss, correct) = measure()?;
        let unit = Unit { loss, correct, seconds: started.elapsed().as_secs_f64() };
        let line = Line { model, factors: factors.clone(), sample, unit };
        let text = serde_json::to_string(&line).or_work()? + "\n";
        self.file.write_all(text.as_bytes()).context("cannot write a measurement").or_work()?;
        self.known.insert((model, factors, sample), unit);
        Ok(unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_measured_is_known_after_a_kill() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("measured.jsonl");
        let (model, rescale) = (Fingerprint::from([1; 32]), Rescale::identity(2));
        let (first, second) = (Sample::new(vec![1, 2]).unwrap(), Sample::counted(vec![1, 2, 3], 2).unwrap());
        let loss = Loss { nll_sum: f64::INFINITY, tokens: 1 };
        let mut log = Measured::open(&path).unwrap();
        log.get_or(model, &rescale, &first, || Ok((loss, 0))).unwrap();
        log.get_or(model, &rescale, &second, || Ok((loss, 1))).unwrap();
        drop(log);
        // Killed while the second line was written.
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, &text[..text.len() - 5]).unwrap();
        let mut log = Measured::open(&path).unwrap();
        let never = || -> Result<(Loss, u64), Failure> { panic!("it is known") };
        assert_eq!(log.get_or(model, &rescale, &first, never).unwrap().loss, loss);
        let again = log.get_or(model, &rescale, &second, || Ok((Loss { nll_sum: 0.5, tokens: 1 }, 1))).unwrap();
        assert!(again.is_exact() && again.loss.nll_sum == 0.5);
        drop(log);
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 2);
        assert_eq!(Measured::open(&path).unwrap().known.len(), 2);
    }

    #[test]
    fn a_damaged_line_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("measured.jsonl");
        std::fs::write(&path, "{}\n").unwrap();
        assert!(Measured::open(&path).err().unwrap().to_string().contains("damaged"));
    }
}
