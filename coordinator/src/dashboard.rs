//! What can be read of a coordinator with a browser or a monitoring system: pages, JSON, metrics, health.
//!
//! It only reads, and is a client of the engine like the gRPC services. It looks at most once a second, whoever asks how often,
//! and gives up when there is no answer in time, so that it slows nothing and nothing waits for it.
//!
//! ```text
//! server (connections) -> routes -> pages, metrics, health, api -> look (engine), reading (store)
//! ```

mod alerts;
mod api;
mod chart;
mod error;
mod health;
mod history;
mod kind;
mod look;
mod metrics;
mod pages;
mod reading;
mod routes;
#[cfg(test)]
mod samples;
mod server;

pub use error::{DashboardError, Unavailable};
pub use server::bind;

use crate::engine::Engine;
use alerts::Alerts;
use look::Looks;
use reading::Reading;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// What requests are answered from.
#[derive(Debug)]
struct Dashboard {
    engine: Engine,
    looks: Looks,
    reading: Reading,
    alerts: Arc<Mutex<Alerts>>,
}

/// Answers requests until `closing` is raised, and lets go of all connections then.
pub async fn run(listener: TcpListener, engine: Engine, closing: watch::Receiver<bool>) {
    let reading = Reading::new(engine.store().clone());
    let looks = Looks::new(engine.clone(), reading.clone());
    let dashboard = Arc::new(Dashboard { engine, looks, reading, alerts: Arc::default() });
    server::serve(listener, routes::routes(dashboard), closing).await;
}
