//! Whether the process is there, and whether it can work.

use super::Dashboard;
use super::error::Unavailable;
use super::look::ask;
use axum::extract::State;
use std::sync::Arc;
use std::time::Duration;

/// How long a coordinator may take to say that it can work.
const PATIENCE: Duration = Duration::from_secs(3);

/// The process answers.
pub(super) async fn alive() -> &'static str {
    "ok\n"
}

/// The engine answers, and the store takes writes.
pub(super) async fn ready(State(dashboard): State<Arc<Dashboard>>) -> Result<&'static str, Unavailable> {
    ask(&dashboard.engine, PATIENCE, |_, _| Ok(())).await?;
    dashboard.reading.read(|store| Ok(store.takes_writes()?)).await?;
    Ok("ready\n")
}
