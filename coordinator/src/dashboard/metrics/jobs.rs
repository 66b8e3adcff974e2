//! Metrics of jobs.

use super::series::Series;
use crate::dashboard::kind::{KINDS, kind};
use crate::engine::JobOverview;
use ropewalk_shared::plan::PlanProgress;
use ropewalk_shared::status::JobState;
use ropewalk_shared::training::TrainingProgress;
use std::fmt;

/// Jobs that have series of their own.
const MOST: usize = 100;

const STATES: [JobState; 6] =
    [JobState::Running, JobState::Paused, JobState::Reporting, JobState::Done, JobState::Cancelled, JobState::Failed];

pub(super) fn all(series: &mut Series<'_>, jobs: &[JobOverview]) -> fmt::Result {
    let count = |kind_name, state| {
        jobs.iter().filter(|job| job.status.state == state && kind(&job.status) == kind_name).count() as u64
    };
    let counts = KINDS.iter().flat_map(|&kind| STATES.map(|state| (kind, state)));
    let counts = counts.map(|(kind, state)| ([("kind", kind), ("state", state.name())], count(kind, state)));
    series.gauges("jobs", "Jobs by kind and state", counts)?;
    let unfinished: Vec<&JobOverview> = jobs.iter().filter(|job| !job.status.state.is_final()).collect();
    let waiting = unfinished.iter().map(|job| job.units_waiting as u64).sum::<u64>();
    series.gauge("units_waiting", "Units that wait to be leased, of all jobs", Some(waiting))?;
    let listed = &unfinished[..unfinished.len().min(MOST)];
    let left_out = (unfinished.len() - listed.len()) as u64;
    let help = "Jobs that are not over and have no series of their own, being beyond the 100 newest";
    series.gauge("jobs_left_out", help, Some(left_out))?;
    let one = listed.iter().map(|job| {
        let status = &job.status;
        ([("job_id", status.job_id.as_str()), ("kind", kind(status)), ("state", status.state.name())], 1u64)
    });
    series.gauges("job_info", "A job that is not over; always 1", one)?;
    let waits = |job: &JobOverview| Some(u64::from(job.status.reason.is_some()));
    each(series, "job_is_waiting", "1 while the job waits for something, which its status tells", listed, waits)?;
    of_searches(series, listed)?;
    of_trainings(series, listed)?;
    of_plans(series, listed)
}

/// A value of each job that has it.
fn each<V: prometheus_client::encoding::EncodeGaugeValue>(
    series: &mut Series<'_>,
    name: &str,
    help: &str,
    jobs: &[&JobOverview],
    value: impl Fn(&JobOverview) -> Option<V>,
) -> fmt::Result {
    let values = jobs.iter().filter_map(|job| Some(([("job_id", job.status.job_id.as_str())], value(job)?)));
    series.gauges(name, help, values)
}

fn of_searches(series: &mut Series<'_>, jobs: &[&JobOverview]) -> fmt::Result {
    type Value = fn(&JobOverview) -> u64;
    let values: [(&str, &str, Value); 6] = [
        ("job_generation", "The generation that is being evaluated", |job| job.status.generation.into()),
        ("job_evaluations", "Candidates with a score", |job| job.status.evaluations),
        ("job_evaluations_planned", "Candidates if nothing stops the search early", |job| {
            job.status.planned_evaluations
        }),
        ("job_document_passes", "Units with a result", |job| job.status.passes),
        ("job_units_waiting", "Units that wait to be leased", |job| job.units_waiting as u64),
        ("job_units_leased", "Units that are leased", |job| job.status.leased.into()),
    ];
    for (name, help, value) in values {
        each(series, name, help, jobs, |job| (kind(&job.status) == "search").then(|| value(job)))?;
    }
    each(series, "job_best_perplexity", "Smallest value of what is minimised", jobs, |job| job.status.best_perplexity)
}

fn of_trainings(series: &mut Series<'_>, jobs: &[&JobOverview]) -> fmt::Result {
    type Value = fn(&TrainingProgress) -> Option<f64>;
    let values: [(&str, &str, Value); 3] = [
        ("job_training_steps", "Steps of the training that are done", |it| Some(it.steps_done.into())),
        ("job_training_steps_planned", "Steps of the training", |it| Some(it.steps.into())),
        ("job_training_loss_nats", "Loss of the last step, in nats a token", |it| it.loss),
    ];
    for (name, help, value) in values {
        each(series, name, help, jobs, |job| job.status.training.as_ref().and_then(value).filter(|v| v.is_finite()))?;
    }
    Ok(())
}

fn of_plans(series: &mut Series<'_>, jobs: &[&JobOverview]) -> fmt::Result {
    type Value = fn(&PlanProgress) -> u64;
    let values: [(&str, &str, Value); 2] = [
        ("job_plan_stages", "Stages of the plan that are done", |plan| plan.stages_done.into()),
        ("job_plan_stages_planned", "Stages of the plan", |plan| plan.stages.into()),
    ];
    for (name, help, value) in values {
        each(series, name, help, jobs, |job| job.status.plan.as_ref().map(value))?;
    }
    Ok(())
}
