//! The pages: everything is rendered here, and what others wrote is escaped by the templates.

mod facts;
mod home;
mod job;
mod numbers;

pub(super) use home::home;
pub(super) use job::job;

use super::kind::kind;
use axum::http::header::CONTENT_TYPE;
use axum::response::{Html, IntoResponse, Response};
use maud::{DOCTYPE, Markup, html};
use ropewalk_shared::status::JobStatus;

/// Seconds after which a page of something that goes on is loaded again.
const REFRESH: u32 = 5;

/// `GET /style.css`
pub(super) async fn style() -> Response {
    ([(CONTENT_TYPE, "text/css; charset=utf-8")], include_str!("style.css")).into_response()
}

/// A page around its content.
fn page(title: &str, goes_on: bool, content: &Markup) -> Html<String> {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                @if goes_on { meta http-equiv="refresh" content=(REFRESH); }
                title { (title) }
                link rel="icon" href="data:,";
                link rel="stylesheet" href="/style.css";
            }
            body {
                (content)
                footer {
                    "Ropewalk " (env!("CARGO_PKG_VERSION")) ". Times are UTC. The same for programs: "
                    a href="/api/jobs" { "jobs" } ", " a href="/api/workers" { "workers" } ", " a href="/metrics" { "metrics" } "."
                }
            }
        }
    };
    Html(page.into_string())
}

/// How far a job is: what is done, of what, and in words.
fn progress(status: &JobStatus) -> (u64, u64, String) {
    if let Some(training) = &status.training {
        let (done, of) = (u64::from(training.steps_done), u64::from(training.steps));
        let loss = training.loss.map_or_else(String::new, |loss| format!(", loss {loss:.4}"));
        return (done, of, format!("step {done} of {of}{loss}"));
    }
    if let Some(plan) = &status.plan {
        let stage =
            plan.stage.as_ref().map_or_else(String::new, |stage| format!(", at {} ({})", stage.name, stage.kind));
        let (done, of) = (u64::from(plan.stages_done), u64::from(plan.stages));
        return (done, of, format!("{done} of {of} stages{stage}"));
    }
    let JobStatus { generation, generations, evaluations, planned_evaluations, passes, .. } = status;
    let said = format!(
        "generation {generation} of {generations}, {evaluations} of {planned_evaluations} evaluations, {passes} document passes"
    );
    (*evaluations, *planned_evaluations, said)
}

/// A bar, and what it says in words.
fn progress_bar(status: &JobStatus) -> Markup {
    let (done, of, said) = progress(status);
    html! {
        @if of > 0 { progress max=(of) value=(done.min(of)) aria-label="progress" {} }
        p { (said) }
    }
}

/// A job's id, state and kind.
fn heading(status: &JobStatus, link: bool) -> Markup {
    html! {
        div.head {
            @if link {
                h3 { a href={ "/jobs/" (status.job_id) } { (status.job_id) } }
            } @else {
                h1 { (status.job_id) }
            }
            span class={ "state " (status.state.name()) } { (status.state) }
            span.faint { (kind(status)) }
        }
    }
}

/// What it waits for, or why it failed.
fn reason(status: &JobStatus) -> Markup {
    let class = if status.state.is_final() { "bad" } else { "waits" };
    html! { @if let Some(reason) = &status.reason { p class=(class) { (reason) } } }
}

#[cfg(test)]
mod tests;
