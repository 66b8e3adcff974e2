//! All jobs, all workers, and what went wrong lately.

use super::numbers::{ago, bytes, moment, thousands};
use super::{heading, page, progress_bar, reason};
use crate::dashboard::Dashboard;
use crate::dashboard::alerts::Alert;
use crate::dashboard::error::Unavailable;
use crate::dashboard::look::{Disk, Look};
use crate::report::{event_line, measure};
use axum::extract::State;
use axum::response::Html;
use maud::{Markup, html};
use ropewalk_shared::status::{JobState, JobStatus, WorkerStatus};
use std::sync::Arc;

/// Jobs that are shown; those that are not over come first.
const JOBS: usize = 100;
/// Workers that are shown; those that are connected come first.
const WORKERS: usize = 200;

/// `GET /`
pub(in crate::dashboard) async fn home(State(dashboard): State<Arc<Dashboard>>) -> Result<Html<String>, Unavailable> {
    let look = dashboard.looks.look().await?;
    let (alerts, looked) = (dashboard.alerts.clone(), look.clone());
    let alerts = dashboard.reading.read(move |store| {
        // One who panicked while it looked through events has left them as good as they were.
        let mut alerts = alerts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Ok(alerts.update(store, &looked.overview.jobs))
    });
    Ok(render(&look, &alerts.await?))
}

pub(super) fn render(look: &Look, alerts: &[Alert]) -> Html<String> {
    let Look { overview, disk } = look;
    let now = overview.now.unix_ms;
    let content = html! {
        div.head { h1 { "Ropewalk" } span.faint { (moment(now)) } }
        p { (summary(look)) }
        (disk_line(*disk))
        h2 { "Jobs" }
        (jobs(&overview.jobs.iter().map(|job| &job.status).collect::<Vec<_>>(), now))
        h2 { "Workers" }
        (workers(&overview.workers, now))
        h2 { "Alerts" }
        (alert_list(alerts))
    };
    page("Ropewalk", true, &content)
}

fn summary(look: &Look) -> String {
    let jobs = &look.overview.jobs;
    let count = |state| jobs.iter().filter(|job| job.status.state == state).count();
    let states = [JobState::Running, JobState::Reporting, JobState::Paused, JobState::Done, JobState::Failed];
    let states = states.into_iter().filter(|&state| state == JobState::Running || count(state) > 0);
    let mut parts: Vec<String> = states.map(|state| format!("{} {state}", count(state))).collect();
    let connected = look.overview.workers.iter().filter(|worker| worker.connected);
    let speed: f64 = connected.clone().map(|worker| worker.tokens_per_second).sum();
    let workers = connected.count();
    parts.push(format!("{workers} worker{} connected", if workers == 1 { "" } else { "s" }));
    parts.push(format!("{} tokens a second", thousands(speed as u64)));
    parts.join(", ")
}

fn disk_line(disk: Disk) -> Markup {
    html! {
        p.faint {
            @if let Some(used) = disk.used { "Store " (bytes(used)) }
            @if let Some(free) = disk.free { ", " (bytes(free)) " free on its disk" }
        }
    }
}

fn jobs(jobs: &[&JobStatus], now: u64) -> Markup {
    // Stable: each part stays in the order of all jobs.
    let mut shown = jobs.to_vec();
    shown.sort_by_key(|job| job.state.is_final());
    let left_out = shown.len().saturating_sub(JOBS);
    shown.truncate(JOBS);
    html! {
        @if shown.is_empty() {
            div.card { p { "No jobs yet: " code { "ropewalk launch" } " starts one." } }
        }
        @for status in shown { (job_card(status, now)) }
        @if left_out > 0 {
            p.faint { (left_out) " older jobs are not shown: " code { "ropewalk jobs" } " lists all." }
        }
    }
}

fn job_card(status: &JobStatus, now: u64) -> Markup {
    let best = status.best_perplexity.map(|best| format!("best {} {best:.4}", measure(status.objective)));
    let factor = f64::from(status.target_length) / f64::from(status.original_length.max(1));
    html! {
        div.card {
            (heading(status, true))
            p.faint {
                (status.model_name) ", " (thousands(status.original_length)) " to "
                (thousands(status.target_length)) " tokens"
                @if factor > 1.0 { " (" (format!("{factor:.0}")) "x)" }
                ", started " (moment(status.created_ms)) " (" (ago(now, status.created_ms)) ")"
            }
            @if !status.state.is_final() || status.finished_ms.is_none() {
                (progress_bar(status))
            }
            @if let Some(best) = best { p { strong { (best) } } }
            (reason(status))
        }
    }
}

fn workers(workers: &[WorkerStatus], now: u64) -> Markup {
    let mut shown: Vec<&WorkerStatus> = workers.iter().collect();
    shown.sort_by_key(|worker| !worker.connected);
    let left_out = shown.len().saturating_sub(WORKERS);
    shown.truncate(WORKERS);
    let header = ["name", "device", "numbers", "longest", "tokens/s", "holds", "results", "failures", "last heard"];
    html! {
        @if shown.is_empty() {
            div.card { p { "No workers yet: " code { "ropewalk-worker --coordinator URL --model-root DIR" } " starts one." } }
        } @else {
            div.card.wide {
                table {
                    thead { tr { @for name in header { th { (name) } } } }
                    tbody { @for worker in shown { (worker_row(worker, now)) } }
                }
            }
        }
        @if left_out > 0 {
            p.faint { (left_out) " more workers are not shown: " code { "ropewalk workers" } " lists all." }
        }
    }
}

fn worker_row(worker: &WorkerStatus, now: u64) -> Markup {
    let holds = match (&worker.training, worker.leased) {
        (Some(job), _) => format!("trains {job}"),
        (None, 0) => "-".to_owned(),
        (None, 1) => "1 unit".to_owned(),
        (None, units) => format!("{units} units"),
    };
    html! {
        tr class=(if worker.connected { "" } else { "away" }) {
            td title=(worker.worker_id) { (worker.name) }
            td { (worker.device) }
            td { (worker.dtype) }
            td { (if worker.max_tokens > u64::from(u32::MAX) { "any".to_owned() } else { thousands(worker.max_tokens) }) }
            td { (thousands(worker.tokens_per_second as u64)) }
            td { (holds) }
            td { (thousands(worker.results)) }
            td { (thousands(worker.failures)) }
            td { (ago(now, worker.last_seen_ms)) }
        }
    }
}

fn alert_list(alerts: &[Alert]) -> Markup {
    html! {
        div.card {
            @if alerts.is_empty() { p.faint { "Nothing went wrong that is known of." } }
            ul {
                @for Alert { job, event } in alerts {
                    li {
                        time { (moment(event.time_ms)) }
                        a href={ "/jobs/" (job) } { (job) } " "
                        (event_line(&event.what, "value"))
                    }
                }
            }
        }
    }
}
