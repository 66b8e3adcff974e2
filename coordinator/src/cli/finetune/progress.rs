//! Progress of a training on standard error: a bar on a terminal, lines elsewhere; events as JSON on request.

use crate::cli::failure::Outcome;
use crate::cli::output::{self, note};
use crate::cli::progress::{bar, on_terminal};
use indicatif::ProgressBar;
use ropewalk_worker::train::{StepRecord, TrainEvent};
use serde::Serialize;
use std::time::{Duration, Instant};

/// Lines are at least so far apart where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// Steps of the bar for each of the optimiser.
const PARTS: f32 = 100.0;

/// Shows a training as it goes on.
pub struct TrainingProgress {
    json: bool,
    bar: ProgressBar,
    steps: u32,
    started: Instant,
    before: u32,
    last_line: Option<Instant>,
}

/// An event for programs.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Told<'a> {
    Begun { parameters: u64, steps_before: usize, steps: u32 },
    Step(&'a StepRecord),
    Checkpoint { step: u32 },
}

// === impl TrainingProgress ===

impl TrainingProgress {
    /// Begins to show a training of so many steps.
    pub fn new(steps: u32, json: bool) -> Self {
        let length = (steps as f32 * PARTS) as u64;
        let bar = if json { ProgressBar::hidden() } else { bar(length, "training {bar:28} {percent}%  {msg}") };
        Self { json, bar, steps, started: Instant::now(), before: 0, last_line: None }
    }

    /// Shows what happened.
    pub fn update(&mut self, event: &TrainEvent) -> Outcome {
        match event {
            TrainEvent::Begun { parameters, before } => {
                (self.started, self.before) = (Instant::now(), before.len() as u32);
                if self.json {
                    let (parameters, steps_before) = (*parameters, before.len());
                    return output::event(&Told::Begun { parameters, steps_before, steps: self.steps });
                }
                match before.last() {
                    Some(last) => note(format!("going on after step {}, loss {:.4}", last.step, last.loss)),
                    None => note(format!("{parameters} parameters, {} steps", self.steps)),
                }
            }
            TrainEvent::Progress { step, share } => {
                self.bar.set_position((((step - 1) as f32 + share) * PARTS) as u64);
            }
            TrainEvent::Step(record) if self.json => return output::event(&Told::Step(record)),
            TrainEvent::Step(record) => self.step(record),
            TrainEvent::Checkpoint { step } if self.json => return output::event(&Told::Checkpoint { step: *step }),
            TrainEvent::Checkpoint { .. } => {}
        }
        Ok(())
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn step(&mut self, record: &StepRecord) {
        let done = record.step - self.before;
        let left = f64::from(self.steps - record.step) * self.started.elapsed().as_secs_f64() / f64::from(done.max(1));
        let losses = match (record.long, record.short) {
            (Some(long), Some(short)) => format!("loss {:.4} (long {long:.4}, short {short:.4})", record.loss),
            _ => format!("loss {:.4}", record.loss),
        };
        self.bar.set_message(format!("{losses}, {} left", output::duration(left)));
        let due = self.last_line.is_none_or(|last| last.elapsed() >= LINE_EVERY) || record.step == self.steps;
        if !on_terminal() && due {
            self.last_line = Some(Instant::now());
            let (step, steps, norm) = (record.step, self.steps, record.gradient_norm);
            note(format!("step {step} of {steps}: {losses}, gradient {norm:.3}, {} left", output::duration(left)));
        }
    }
}
