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
///
/// The signals are caught from this call on, not only once somebody waits: whoever reads that the coordinator listens
/// can also stop it properly.
pub(super) fn stop_signal() -> impl Future<Output = ()> + Send + 'static {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{Signal, SignalKind, signal};
        let [interrupt, terminate] = [SignalKind::interrupt(), SignalKind::terminate()].map(|kind| signal(kind).ok());
        async fn received(signal: Option<Signal>) {
            match signal {
                Some(mut signal) => _ = signal.recv().await,
                // Without a handler the default action ends the process, which loses nothing either.
                None => std::future::pending().await,
            }
        }
        async move {
            tokio::select! { () = received(interrupt) => {}, () = received(terminate) => {} }
        }
    }
    #[cfg(not(unix))]
    async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    }
}
