//! `ropewalk jobs`: the jobs of a coordinator.

use super::failure::{OrFail as _, Outcome};
use super::options::{CoordinatorArgs, JsonArgs};
use super::output;
use clap::Args;
use ropewalk_shared::status::JobStatus;

/// List the jobs of a coordinator, the newest first.
#[derive(Args, Debug)]
pub struct JobsArgs {
    #[command(flatten)]
    coordinator: CoordinatorArgs,
    #[command(flatten)]
    output: JsonArgs,
}

pub(super) async fn run(args: JobsArgs) -> Outcome {
    let jobs = args.coordinator.connect().await?.jobs().await.or_work()?;
    if args.output.json {
        return jobs.iter().try_for_each(output::json);
    }
    if jobs.is_empty() {
        let there = args.coordinator.again();
        output::note(format!("no jobs yet; `ropewalk launch{there}` starts one"));
        return Ok(());
    }
    output::line(table(&jobs))
}

fn table(jobs: &[JobStatus]) -> String {
    let header = ["job", "state", "window", "generation", "evaluations", "best", "objective"];
    let row = |job: &JobStatus| {
        if let Some(training) = &job.training {
            let loss = training.loss.map_or_else(|| "-".to_owned(), |loss| format!("loss {loss:.4}"));
            let steps = format!("step {}/{}", training.steps_done, training.steps);
            let window = format!("{} -> {}", job.original_length, job.target_length);
            return vec![
                job.job_id.to_string(),
                job.state.to_string(),
                window,
                "-".into(),
                steps,
                loss,
                "training".into(),
            ];
        }
        if let Some(plan) = &job.plan {
            let at_work = plan.stage.as_ref().map_or_else(|| "-".to_owned(), |stage| stage.name.clone());
            return vec![
                job.job_id.to_string(),
                job.state.to_string(),
                format!("{} -> {}", job.original_length, job.target_length),
                "-".into(),
                format!("stage {}/{}", plan.stages_done, plan.stages),
                at_work,
                "plan".into(),
            ];
        }
        vec![
            job.job_id.to_string(),
            job.state.to_string(),
            format!("{} -> {}", job.original_length, job.target_length),
            format!("{}/{}", job.generation, job.generations),
            format!("{}/{}", job.evaluations, job.planned_evaluations),
            job.best_perplexity.map_or_else(|| "-".to_owned(), |ppl| format!("{ppl:.4}")),
            job.objective.to_string(),
        ]
    };
    output::columns(&header, &jobs.iter().map(row).collect::<Vec<_>>())
}
