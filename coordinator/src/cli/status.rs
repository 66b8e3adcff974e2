//! `ropewalk status`: how a job stands, and what it waits for.

use super::failure::Outcome;
use super::options::{CoordinatorArgs, JsonArgs};
use super::output;
use crate::report::measure;
use clap::Args;
use ropewalk_shared::plan::PlanProgress;
use ropewalk_shared::status::JobStatus;
use ropewalk_shared::training::TrainingProgress;

/// Show how a job stands, and what it waits for.
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// The job's id, or a beginning of it that fits one job only
    job: String,
    #[command(flatten)]
    coordinator: CoordinatorArgs,
    #[command(flatten)]
    output: JsonArgs,
}

pub(super) async fn run(args: StatusArgs) -> Outcome {
    let status = args.coordinator.connect().await?.job(&args.job).await?;
    print(&status, args.output)
}

/// Prints a status; commands that change a job end with it too.
pub(super) fn print(status: &JobStatus, json: JsonArgs) -> Outcome {
    if json.json { output::json(status) } else { output::line(describe(status)) }
}

/// What a job that has not ended waits for, as far as is known.
pub(super) fn waits_for(status: &JobStatus) -> Option<&str> {
    status.reason.as_deref().filter(|_| !status.state.is_final())
}

fn of_training(training: &TrainingProgress) -> Vec<String> {
    let loss = training.loss.map_or_else(String::new, |loss| format!(", loss {loss:.4}"));
    let mut lines = vec![format!("steps        {} of {}{loss}", training.steps_done, training.steps)];
    match training.checkpoint {
        0 => lines.push("checkpoint   none yet".to_owned()),
        step => lines.push(format!("checkpoint   after step {step}")),
    }
    lines.extend(training.worker.as_ref().map(|worker| format!("worker       {worker}")));
    lines
}

fn of_plan(plan: &PlanProgress, is_over: bool) -> Vec<String> {
    let mut lines = vec![format!("stages       {} of {} done", plan.stages_done, plan.stages)];
    let begun = if is_over { "ended in" } else { "at work" };
    lines.extend(plan.stage.as_ref().map(|stage| format!("{begun:<12} {} ({})", stage.name, stage.kind)));
    lines.extend(plan.job.as_ref().map(|job| format!("             its job is {job}")));
    lines
}

fn describe(status: &JobStatus) -> String {
    let mut lines = vec![
        format!("job          {}", status.job_id),
        format!("model        {}, {} to {} tokens", status.model_name, status.original_length, status.target_length),
        format!("state        {}", status.state),
    ];
    if let Some(reason) = &status.reason {
        lines.push(format!("             {reason}"));
    }
    if let Some(training) = &status.training {
        lines.extend(of_training(training));
        return lines.join("\n");
    }
    if let Some(plan) = &status.plan {
        lines.extend(of_plan(plan, status.state.is_final()));
        return lines.join("\n");
    }
    lines.push(format!("generation   {} of {}", status.generation, status.generations));
    lines.push(format!(
        "evaluations  {} of {} ({} document {}, those of the comparison included)",
        status.evaluations,
        status.planned_evaluations,
        status.passes,
        if status.passes == 1 { "pass" } else { "passes" }
    ));
    if !status.state.is_final() {
        lines.push(format!(
            "this stage   {} of {} units done, {} leased",
            status.stage_done, status.stage_units, status.leased
        ));
    }
    if let (Some(perplexity), Some(best)) = (status.best_perplexity, &status.best) {
        lines.push(format!(
            "best         {} {perplexity:.4}, {} starting token{}",
            measure(status.objective),
            best.start_tokens,
            if best.start_tokens == 1 { "" } else { "s" }
        ));
        let factors: Vec<String> = best.factors.iter().map(f64::to_string).collect();
        lines.push(format!("             {}", factors.join(" ")));
    }
    lines.join("\n")
}
