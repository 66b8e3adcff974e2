//! The connections: bounded in number, in what they send, and in time.
//!
//! Each carries one request, so whoever is slow in asking or in listening is cut off, and holds up nobody meanwhile.

use super::error::DashboardError;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Connections at a time; who comes then waits to be accepted.
const CONNECTIONS: usize = 256;
/// How long a request may take to arrive.
const ASKING: Duration = Duration::from_secs(5);
/// How long a connection may last.
const LIMIT: Duration = Duration::from_secs(30);
/// How long a request under way may go on once the coordinator is stopping.
const DRAIN: Duration = Duration::from_secs(1);
/// What of a request is kept, in bytes: its first line and headers.
const HEAD: usize = 16 << 10;

/// Takes an address.
///
/// # Errors
/// [`DashboardError`] when it cannot be had.
pub async fn bind(address: &str) -> Result<TcpListener, DashboardError> {
    TcpListener::bind(address).await.map_err(|error| DashboardError::of(address, &error))
}

/// Accepts connections until `closing` is raised, and waits until the last of them has ended.
pub(super) async fn serve(listener: TcpListener, routes: Router, mut closing: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut open = JoinSet::new();
    loop {
        let accepted = async {
            let place = places.clone().acquire_owned().await;
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            accepted = accepted => accepted,
            () = raised(&mut closing) => break,
        };
        while open.try_join_next().is_some() {}
        match accepted {
            Ok((stream, _)) => {
                let (routes, closing) = (routes.clone(), closing.clone());
                open.spawn(async move {
                    connection(stream, routes, closing).await;
                    drop(place);
                });
            }
            Err(error) => {
                // As where the process has no file left to open.
                tracing::debug!(%error, "a connection to the dashboard was not accepted");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
    while open.join_next().await.is_some() {}
}

async fn connection(stream: TcpStream, routes: Router, mut closing: watch::Receiver<bool>) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(ASKING)
        .keep_alive(false)
        .max_buf_size(HEAD)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    tokio::pin!(connection);
    // Whatever ends it, nobody is left to be told.
    tokio::select! {
        _ = timeout(LIMIT, connection.as_mut()) => {}
        () = raised(&mut closing) => {
            connection.as_mut().graceful_shutdown();
            let _ = timeout(DRAIN, connection).await;
        }
    }
}

/// Completes when the coordinator is stopping.
async fn raised(closing: &mut watch::Receiver<bool>) {
    // Whoever raises the flag lives until everything has ended; if not, this is the end as well.
    let _ = closing.wait_for(|closing| *closing).await;
}
