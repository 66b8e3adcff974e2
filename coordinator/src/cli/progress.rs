//! Progress on standard error: a bar on a terminal, a line a generation elsewhere; events as JSON on request.

use super::failure::Outcome;
use super::output;
use crate::report::{event_line, measure};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ropewalk_shared::event::{Event, JobEvent};
use ropewalk_shared::plan::PlanProgress;
use ropewalk_shared::status::JobStatus;
use ropewalk_shared::training::TrainingProgress;
use std::io::IsTerminal as _;
use std::time::Instant;

/// Where progress goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgressStyleChoice {
    /// A bar, or lines where there is no terminal.
    People,
    /// Every event as one JSON object a line on standard output.
    Json {
        /// Whether the work goes on when nobody reads that, because others do it.
        of_others: bool,
    },
}

/// Shows a job as it goes on.
pub struct JobProgress {
    style: ProgressStyleChoice,
    bar: ProgressBar,
    started: Instant,
    /// Document passes, or steps of a training, when this began: the rest of the work is predicted from what was done since.
    passes_before: Option<u64>,
}

// === impl JobProgress ===

impl JobProgress {
    /// Begins to show a job.
    pub fn new(style: ProgressStyleChoice) -> Self {
        let bar = match style {
            ProgressStyleChoice::People => bar(0, "{prefix} {bar:28} {pos}/{len}  {msg}"),
            ProgressStyleChoice::Json { .. } => ProgressBar::hidden(),
        };
        Self { style, bar, started: Instant::now(), passes_before: None }
    }

    /// Shows what happened, and how the job stands after it.
    pub fn update(&mut self, events: &[Event], status: &JobStatus) -> Outcome {
        for event in events {
            match self.style {
                ProgressStyleChoice::Json { of_others: false } => output::event(event)?,
                ProgressStyleChoice::Json { of_others: true } => output::json(event)?,
                ProgressStyleChoice::People => self.tell(event, status),
            }
        }
        self.draw(status);
        Ok(())
    }

    /// Tells people something about the connection.
    pub fn hint(&self, text: &str) {
        self.bar.suspend(|| output::note(text));
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn draw(&mut self, status: &JobStatus) {
        if let Some(training) = &status.training {
            return self.draw_training(training, status);
        }
        if let Some(plan) = &status.plan {
            return self.draw_plan(plan, status);
        }
        self.bar.set_length(status.planned_evaluations);
        self.bar.set_position(status.evaluations);
        self.bar.set_prefix(status.state.to_string());
        let best = status.best_perplexity.map(|value| format!("best {} {value:.3}  ", measure(status.objective)));
        let stage = format!("generation {}, {}/{} passes", status.generation, status.stage_done, status.stage_units);
        let left = self.seconds_left(status).map(|s| format!(", {} left", output::duration(s)));
        let waits = status.reason.as_ref().map(|reason| format!("  {reason}"));
        let parts = [best, Some(stage), left, waits];
        self.bar.set_message(parts.into_iter().flatten().collect::<String>());
    }

    fn draw_training(&mut self, training: &TrainingProgress, status: &JobStatus) {
        self.bar.set_length(training.steps.into());
        self.bar.set_position(training.steps_done.into());
        self.bar.set_prefix(status.state.to_string());
        let before = *self.passes_before.get_or_insert(training.steps_done.into());
        let done = u64::from(training.steps_done).saturating_sub(before);
        let left = (done > 0).then(|| {
            let left = f64::from(training.steps - training.steps_done);
            format!(", {} left", output::duration(left * self.started.elapsed().as_secs_f64() / done as f64))
        });
        let loss = training.loss.map(|loss| format!("loss {loss:.4}"));
        let waits = status.reason.as_ref().map(|reason| format!("  {reason}"));
        self.bar.set_message([loss, left, waits].into_iter().flatten().collect::<String>());
    }

    fn draw_plan(&self, plan: &PlanProgress, status: &JobStatus) {
        self.bar.set_length(plan.stages.into());
        self.bar.set_position(plan.stages_done.into());
        self.bar.set_prefix(status.state.to_string());
        let stage = plan.stage.as_ref().map(|stage| format!("{} ({})", stage.name, stage.kind));
        let job = plan.job.as_ref().map(|job| format!(", job {job}"));
        let waits = status.reason.as_ref().map(|reason| format!("  {reason}"));
        self.bar.set_message([stage, job, waits].into_iter().flatten().collect::<String>());
    }

    /// From the document passes since this began; nothing before the first.
    fn seconds_left(&mut self, status: &JobStatus) -> Option<f64> {
        let before = *self.passes_before.get_or_insert(status.passes);
        let done = status.passes.saturating_sub(before);
        if done == 0 || status.evaluations == 0 || status.planned_evaluations == 0 {
            return None;
        }
        let per_evaluation = status.passes as f64 / status.evaluations as f64;
        let left = (status.planned_evaluations.saturating_sub(status.evaluations)) as f64 * per_evaluation;
        Some(left * self.started.elapsed().as_secs_f64() / done as f64)
    }

    /// What people are told in a line that stays.
    fn tell(&self, event: &Event, status: &JobStatus) {
        let text = match &event.what {
            JobEvent::GenerationClosed { .. } if on_terminal() => return,
            JobEvent::TrainingStep(step) if on_terminal() || !is_told(step.step, status) => return,
            JobEvent::TrainingStep(step) => {
                let steps = status.training.as_ref().map_or(0, |training| training.steps);
                format!("step {} of {steps}: loss {:.4}, gradient {:.3}", step.step, step.loss, step.gradient_norm)
            }
            JobEvent::GenerationClosed { .. }
            | JobEvent::CandidateFailed { .. }
            | JobEvent::ResultConflict { .. }
            | JobEvent::LeaseExpired { .. }
            | JobEvent::WorkerUnable { .. }
            | JobEvent::Reporting { .. }
            | JobEvent::TrainingLeased { .. }
            | JobEvent::TrainingReturned { .. }
            | JobEvent::StageBegun { .. }
            | JobEvent::StageJob { .. }
            | JobEvent::StageDone { .. }
            | JobEvent::PlanReturned { .. }
            | JobEvent::Paused
            | JobEvent::Resumed
            | JobEvent::Restarted
            | JobEvent::Failed { .. } => event_line(&event.what, &measure(status.objective)),
            _ => return,
        };
        self.bar.suspend(|| output::note(text));
    }
}

/// A line for every twentieth part of a training.
fn is_told(step: u32, status: &JobStatus) -> bool {
    status
        .training
        .as_ref()
        .is_some_and(|training| step == training.steps || step.is_multiple_of((training.steps / 20).max(1)))
}

/// Whether a person is looking at standard error.
pub fn on_terminal() -> bool {
    std::io::stderr().is_terminal()
}

/// A bar on a terminal; hidden elsewhere.
pub fn bar(length: u64, template: &str) -> ProgressBar {
    let target = if on_terminal() { ProgressDrawTarget::stderr_with_hz(10) } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(length), target);
    // Templates are literals of this crate; the default style stands in should one not parse.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("━╸─"));
    }
    bar
}
