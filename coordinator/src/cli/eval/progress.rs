//! How far an evaluation is, on standard error: a bar on a terminal, a line now and then elsewhere.

use crate::cli::output::note;
use crate::cli::progress::bar;
use indicatif::ProgressBar;
use std::time::{Duration, Instant};

/// Elsewhere there is a line at most so often: short evaluations tell nothing.
const EVERY: Duration = Duration::from_secs(10);
/// Steps of the bar per document.
const STEPS: f32 = 100.0;

/// Progress through measurements, each of a set of factors at a length.
pub struct Progress {
    bar: ProgressBar,
    /// Measurements in all.
    measurements: usize,
    now: Measured,
    told: Instant,
}

/// How far one measurement is.
#[derive(Debug, Default)]
struct Measured {
    /// Its place among all, from 1 on.
    number: usize,
    /// Factors and length.
    what: String,
    /// What it consists of, and of how many.
    unit: &'static str,
    units: usize,
    done: usize,
    /// The part of the next one that is done.
    share: f32,
}

// === impl Progress ===

impl Progress {
    /// Nothing is shown until the first measurement begins.
    pub fn of(measurements: usize) -> Self {
        Self { bar: ProgressBar::hidden(), measurements, now: Measured::default(), told: Instant::now() }
    }

    /// Begins the next measurement, of so many documents, windows or prompts.
    pub fn begin(&mut self, (factors, length): (&str, u32), (units, unit): (usize, &'static str)) {
        let number = self.now.number + 1;
        self.now = Measured { number, what: format!("{factors} at {length}"), unit, units, done: 0, share: 0.0 };
        self.bar = bar((units as f32 * STEPS) as u64, "{prefix} {bar:28} {percent}%  {msg}");
        self.bar.set_prefix(self.now.what.clone());
        self.bar.set_message(self.now.counts());
    }

    /// So many are done, and this part of the next one.
    pub fn at(&mut self, done: usize, share: f32) {
        let is_another = self.now.done != done;
        (self.now.done, self.now.share) = (done, share);
        self.bar.set_position((self.now.position() * STEPS) as u64);
        if is_another {
            self.bar.set_message(self.now.counts());
        }
        if self.bar.is_hidden() && self.told.elapsed() >= EVERY {
            self.told = Instant::now();
            note(self.now.line(self.measurements));
        }
    }

    /// Takes the bar away.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}

// === impl Measured ===

impl Measured {
    fn position(&self) -> f32 {
        self.done as f32 + self.share
    }

    fn counts(&self) -> String {
        format!("{} of {} {}", self.done, self.units, self.unit)
    }

    fn line(&self, measurements: usize) -> String {
        let percent = 100.0 * self.position() / self.units.max(1) as f32;
        format!("{} ({} of {measurements}): {}, {percent:.0} %", self.what, self.number, self.counts())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_the_measurement_and_what_is_done_of_it() {
        let mut progress = Progress::of(6);
        progress.begin(("none", 4096), (10, "documents"));
        progress.begin(("yarn", 4096), (10, "documents"));
        progress.at(3, 0.4);
        assert_eq!(progress.now.line(6), "yarn at 4096 (2 of 6): 3 of 10 documents, 34 %");
    }
}
