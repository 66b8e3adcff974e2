//! One job: how far it is, its curves, what it found, and what happened.

use super::facts::{self, Facts};
use super::numbers::{ago, moment, perplexity, thousands};
use super::{heading, page, progress_bar, reason};
use crate::dashboard::Dashboard;
use crate::dashboard::alerts::is_alert;
use crate::dashboard::chart::{Chart, Series};
use crate::dashboard::error::Unavailable;
use crate::dashboard::history::{Generation, History};
use crate::dashboard::look::{PATIENCE, ask};
use crate::report::comparison::perplexity as compared;
use crate::report::{Comparison, event_line, measure};
use axum::extract::{Path, State};
use axum::response::Html;
use maud::{Markup, html};
use ropewalk_shared::factor_file::FactorFile;
use ropewalk_shared::rope::Rescale;
use ropewalk_shared::status::{JobState, JobStatus};
use std::sync::Arc;

/// Generations that have a row; of more, the last ones.
const ROWS: usize = 40;

/// Everything that the page shows.
pub(super) struct View {
    pub status: JobStatus,
    pub now_ms: u64,
    /// Absent where the specification cannot be read.
    pub facts: Option<Facts>,
    pub history: History,
    /// Present once the search is done.
    pub comparison: Option<Comparison>,
}

/// `GET /jobs/ID`
pub(in crate::dashboard) async fn job(
    State(dashboard): State<Arc<Dashboard>>,
    Path(id): Path<String>,
) -> Result<Html<String>, Unavailable> {
    let asked = ask(&dashboard.engine, PATIENCE, move |core, now| {
        core.status(&id, now).map(|(status, last)| (status, last, now.unix_ms))
    });
    let (status, last, now_ms) = asked.await?;
    let view = dashboard.reading.read(move |store| {
        // A job that cannot be read says so in its status: the rest is shown as far as it goes.
        let facts = facts::facts(store, &status).ok();
        let history = History::read(store, &status.job_id, last).unwrap_or_default();
        let file = store.factors(&status.job_id).ok().flatten();
        let file = file.and_then(|text| FactorFile::from_json(&text).ok());
        let comparison = file.as_ref().and_then(Comparison::of_factor_file);
        Ok(View { status, now_ms, facts, history, comparison })
    });
    Ok(render(&view.await?))
}

pub(super) fn render(view: &View) -> Html<String> {
    let View { status, history, .. } = view;
    let content = html! {
        p { a href="/" { "All jobs" } }
        (heading(status, false))
        p.faint {
            (status.model_name) ", " (thousands(status.original_length)) " to "
            (thousands(status.target_length)) " tokens, started " (moment(status.created_ms)) " ("
            (ago(view.now_ms, status.created_ms)) ")"
            @if let Some(finished) = status.finished_ms { ", ended " (moment(finished)) }
        }
        (standing(status))
        @if let Some(comparison) = &view.comparison { h2 { "Against published methods" } (compare(comparison)) }
        (charts(status, history))
        @if !history.stages.is_empty() { h2 { "Stages that are done" } (stages(&history.stages)) }
        @if !history.generations.is_empty() { h2 { "Generations" } (generations(&history.generations)) }
        @if let Some(facts) = &view.facts { h2 { "Launched with" } div.card { (facts::list(facts)) } }
        (export(status))
        h2 { "Events" }
        (events(history, status))
    };
    page(&format!("{} - Ropewalk", status.job_id), !status.state.is_final(), &content)
}

fn standing(status: &JobStatus) -> Markup {
    html! {
        div.card {
            (progress_bar(status))
            @if status.training.is_none() && status.plan.is_none() && !status.state.is_final() {
                p { "this stage: " (status.stage_done) " of " (status.stage_units) " units done, " (status.leased) " leased" }
            }
            @if let (Some(value), Some(best)) = (status.best_perplexity, &status.best) {
                p {
                    strong { "best " (measure(status.objective)) " " (format!("{value:.4}")) }
                    ", " (best.start_tokens) " starting tokens, attention factor " (format!("{:.4}", best.attention_factor))
                }
            }
            @if let Some(training) = &status.training {
                p {
                    @match training.checkpoint { 0 => "no checkpoint yet", step => { "checkpoint after step " (step) } }
                    @if let Some(worker) = &training.worker { ", worker " (worker) }
                }
            }
            @if let Some(job) = status.plan.as_ref().and_then(|plan| plan.job.as_ref()) {
                p { "its job is " a href={ "/jobs/" (job) } { (job) } }
            }
            (reason(status))
        }
    }
}

fn compare(comparison: &Comparison) -> Markup {
    let best = comparison.best().map(|best| best.factors.as_str());
    let text = comparison.rows.iter().any(|row| row.held_out_text.is_some());
    let said = comparison.to_string();
    // What follows the table in a terminal.
    let said = said.lines().skip(3 + comparison.rows.len());
    html! {
        div.card {
            div.wide {
                table {
                    thead {
                        tr {
                            th { "factors" } th { "start tokens" } th { "attention" } th { "search" } th { "held-out" }
                            @if text { th { "held-out text" } }
                        }
                    }
                    tbody {
                        @for row in &comparison.rows {
                            tr class=(if best == Some(row.factors.as_str()) { "best" } else { "" }) {
                                td { (row.factors) }
                                td { (row.start_tokens) }
                                td { (format!("{:.4}", row.attention_factor)) }
                                td { (compared(row.search)) }
                                td { (compared(row.held_out)) }
                                @if text { td { (compared(row.held_out_text)) } }
                            }
                        }
                    }
                }
            }
            @for line in said { p { (line.trim_start_matches("* ")) } }
        }
    }
}

fn charts(status: &JobStatus, history: &History) -> Markup {
    let charts: Vec<Markup> = [search_chart(history), loss_chart(history), factor_chart(status.best.as_ref())]
        .into_iter()
        .flatten()
        .filter_map(Chart::draw)
        .collect();
    html! { @if !charts.is_empty() { h2 { "Curves" } div.charts { @for chart in charts { (chart) } } } }
}

fn search_chart(history: &History) -> Option<Chart> {
    // Searches from before passes were counted have none.
    let counted = history.generations.last()?.document_passes > 0;
    let x = |of: &Generation| if counted { of.document_passes } else { of.total_evaluated } as f64;
    let points = |value: fn(&Generation) -> Option<f64>| -> Vec<(f64, f64)> {
        history.generations.iter().filter_map(|of| Some((x(of), value(of)?))).collect()
    };
    let best = points(|of| of.best);
    // What lies far above the first best would press the progress into a line.
    let (first, last) = (best.first()?.1, best.last()?.1);
    let ceiling = first + (1.5 * (first - last)).max(0.02 * first);
    let mut median = points(|of| of.median);
    median.retain(|(_, value)| *value <= ceiling);
    Some(Chart {
        title: "best and median perplexity of the generations".into(),
        x: if counted { "document passes" } else { "candidates evaluated" },
        y: "perplexity",
        log: false,
        dots: true,
        series: vec![Series { name: "best so far", points: best }, Series { name: "median", points: median }],
    })
}

fn loss_chart(history: &History) -> Option<Chart> {
    let steps = &history.steps;
    let points = |value: fn(&ropewalk_shared::training::StepRecord) -> Option<f64>| -> Vec<(f64, f64)> {
        steps.iter().filter_map(|step| Some((step.step.into(), value(step)?))).collect()
    };
    let (long, short) = (points(|step| step.long), points(|step| step.short));
    let series = if long.is_empty() || short.is_empty() {
        vec![Series { name: "all sequences", points: points(|step| Some(step.loss)) }]
    } else {
        vec![Series { name: "long windows", points: long }, Series { name: "short windows", points: short }]
    };
    let title = "loss by step".into();
    (!steps.is_empty()).then_some(Chart { title, x: "step", y: "loss (nats a token)", log: false, dots: false, series })
}

fn factor_chart(best: Option<&Rescale>) -> Option<Chart> {
    let points = (0..).map(f64::from).zip(best?.factors.iter().copied()).collect();
    Some(Chart {
        title: "rescale factors of the best candidate by rotary pair".into(),
        x: "rotary pair (fast to slow)",
        y: "rescale factor",
        log: true,
        dots: true,
        series: vec![Series { name: "best", points }],
    })
}

fn stages(stages: &[(String, String)]) -> Markup {
    html! {
        div.card.wide {
            table {
                thead { tr { th { "stage" } th.text { "made" } } }
                tbody { @for (name, summary) in stages { tr { td { (name) } td.text { (summary) } } } }
            }
        }
    }
}

fn generations(generations: &[Generation]) -> Markup {
    let left_out = generations.len().saturating_sub(ROWS);
    let header =
        ["generation", "candidates", "failed", "dropped", "passes so far", "its best", "median", "best so far"];
    html! {
        div.card.wide {
            table {
                thead { tr { @for name in header { th { (name) } } } }
                tbody {
                    @for of in generations.iter().rev().take(ROWS) {
                        tr class=(if of.improved { "best" } else { "" }) {
                            td { (of.generation) } td { (of.evaluated) } td { (of.failed) } td { (of.dropped) }
                            td { (thousands(of.document_passes)) }
                            td { (perplexity(of.own_best)) } td { (perplexity(of.median)) } td { (perplexity(of.best)) }
                        }
                    }
                }
            }
        }
        @if left_out > 0 { p.faint { (left_out) " earlier generations have no row; they are in the curve." } }
    }
}

/// How what was found is taken away.
fn export(status: &JobStatus) -> Markup {
    let id = &status.job_id;
    let is_search = status.training.is_none() && status.plan.is_none();
    html! {
        @if is_search && status.best.is_some() {
            h2 { "Export" }
            div.card {
                @if status.state != JobState::Done { p { "The best so far can be had before the end, without the comparison:" } }
                pre { "ropewalk export " (id) " --format hf --whole --out config.json\nropewalk export " (id) " --format json --out factors.json" }
            }
        } @else if !is_search && status.state == JobState::Done {
            h2 { "Export" }
            div.card { p { "What it made lies in its folder: models below models/, factors below stages/." } }
        }
    }
}

fn events(history: &History, status: &JobStatus) -> Markup {
    let measure = measure(status.objective);
    html! {
        div.card {
            @if history.latest.is_empty() { p.faint { "None." } }
            ul {
                @for event in &history.latest {
                    li {
                        time { (moment(event.time_ms)) }
                        span class=(if is_alert(&event.what) { "bad" } else { "" }) { (event_line(&event.what, &measure)) }
                    }
                }
            }
        }
        p.faint { code { "ropewalk watch " (status.job_id) } " follows them." }
    }
}
