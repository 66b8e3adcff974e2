//! Losses of candidates on documents, none computed twice.

use anyhow::{Context as _, Result};
use ropewalk_shared::outcome::Loss;
use ropewalk_shared::rope::Rescale;
use ropewalk_shared::sample::Sample;
use ropewalk_worker::cancel::CancelFlag;
use ropewalk_worker::evaluator::Evaluator;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;

/// An evaluator that remembers.
pub struct Losses {
    evaluator: Evaluator,
    known: HashMap<(String, String), Loss>,
    file: Option<File>,
    /// Document passes asked for, known or not.
    pub passes: u64,
}

/// One line of the cache.
#[derive(Serialize, Deserialize)]
struct Line {
    rescale: String,
    sample: String,
    nll_sum: f64,
    tokens: u64,
}

impl Losses {
    /// Starts with what a cache file holds, and appends to it.
    ///
    /// # Errors
    /// When the file cannot be opened. Lines that cannot be read, such as one cut by a kill, are skipped.
    pub fn open(evaluator: Evaluator, cache: Option<&Path>) -> Result<Self> {
        let mut known = HashMap::new();
        let file = match cache {
            None => None,
            Some(path) => {
                let open = || OpenOptions::new().create(true).read(true).append(true).open(path);
                let mut file = open().with_context(|| path.display().to_string())?;
                for line in BufReader::new(&file).lines() {
                    let Ok(Line { rescale, sample, nll_sum, tokens }) = serde_json::from_str(&line?) else { continue };
                    known.insert((rescale, sample), Loss { nll_sum, tokens });
                }
                // Whatever was cut ends here.
                writeln!(file)?;
                Some(file)
            }
        };
        Ok(Self { evaluator, known, file, passes: 0 })
    }

    /// The loss of one document.
    ///
    /// # Errors
    /// When it cannot be evaluated.
    pub fn loss(&mut self, rescale: &Rescale, sample: &Sample) -> Result<Loss> {
        self.passes += 1;
        let key = (rescale.id().to_string(), sample.id().to_string());
        if let Some(&loss) = self.known.get(&key) {
            return Ok(loss);
        }
        let loss = self.evaluator.evaluate(rescale, sample.tokens(), &CancelFlag::default(), &mut |_| {})?;
        if let Some(file) = &mut self.file {
            let line =
                Line { rescale: key.0.clone(), sample: key.1.clone(), nll_sum: loss.nll_sum, tokens: loss.tokens };
            writeln!(file, "{}", serde_json::to_string(&line)?)?;
        }
        self.known.insert(key, loss);
        Ok(loss)
    }
}
