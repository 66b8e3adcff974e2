//! What commands print with `--json`, byte for byte.

use super::Dashboard;
use super::error::Unavailable;
use super::look::{PATIENCE, ask};
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::sync::Arc;

/// One object.
const JSON: &str = "application/json";
/// One object a line, as where a command lists something.
const JSON_LINES: &str = "application/x-ndjson";

/// `ropewalk jobs --json`
pub(super) async fn jobs(State(dashboard): State<Arc<Dashboard>>) -> Result<Response, Unavailable> {
    let look = dashboard.looks.look().await?;
    lines(JSON_LINES, look.overview.jobs.iter().map(|job| &job.status))
}

/// `ropewalk status JOB --json`
pub(super) async fn job(
    State(dashboard): State<Arc<Dashboard>>,
    Path(id): Path<String>,
) -> Result<Response, Unavailable> {
    let (status, _) = ask(&dashboard.engine, PATIENCE, move |core, now| core.status(&id, now)).await?;
    lines(JSON, [&status])
}

/// `ropewalk workers --json`
pub(super) async fn workers(State(dashboard): State<Arc<Dashboard>>) -> Result<Response, Unavailable> {
    let look = dashboard.looks.look().await?;
    lines(JSON_LINES, &look.overview.workers)
}

fn lines<T: Serialize>(form: &'static str, values: impl IntoIterator<Item = T>) -> Result<Response, Unavailable> {
    let mut text = String::new();
    for value in values {
        text += &serde_json::to_string(&value).map_err(|error| Unavailable::Broken(error.to_string()))?;
        text.push('\n');
    }
    Ok(([(CONTENT_TYPE, form)], text).into_response())
}
