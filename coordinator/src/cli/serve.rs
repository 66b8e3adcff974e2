//! `ropewalk serve`: a coordinator for workers on other machines.

use super::failure::{Failure, OrFail as _, Outcome};
use super::options::DEFAULT_LISTEN;
use super::output::{self, note};
use crate::service::{ServeOptions, serve};
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

/// Run a coordinator: it keeps jobs, leases their work to workers, and stores every result.
///
/// The first line on standard output is the address: "listening on http://127.0.0.1:7311". The connection is neither
/// encrypted nor authenticated: listen on a network you trust.
#[derive(Args, Debug)]
pub struct ServeArgs {
    /// Address and port to listen on; port 0 takes a free one
    #[arg(long, env = "ROPEWALK_LISTEN", default_value = DEFAULT_LISTEN, value_name = "ADDR")]
    listen: String,

    /// Folder that keeps jobs, samples, results and events
    #[arg(long, env = "ROPEWALK_STORE", default_value = "ropewalk-store", value_name = "DIR")]
    store: PathBuf,

    /// Seconds after which the work of a silent worker goes to another
    #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(2..=86_400))]
    lease: u64,
}

pub(super) async fn run(args: ServeArgs) -> Outcome {
    let options = ServeOptions { lease: Duration::from_secs(args.lease) };
    let serving = serve(&args.listen, &args.store, options, stop_signal()).await.map_err(Failure::work)?;
    output::line(format!("listening on {}", serving.url()))?;
    note(format!("store: {}; stop with Ctrl-C, nothing is lost", args.store.display()));
    serving.finished().await.or_work()
}

/// Completes when the process is asked to stop.
pub(super) async fn stop_signal() {
    let interrupt = tokio::signal::ctrl_c();
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! { _ = interrupt => {}, _ = terminate.recv() => {} }
            return;
        }
    }
    // Without a handler the default action ends the process, which loses nothing either.
    let _ = interrupt.await;
}
