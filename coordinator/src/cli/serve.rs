//! `ropewalk serve`: a coordinator for workers on other machines.

mod security;

use super::failure::{Failure, OrFail as _, Outcome};
use super::options::DEFAULT_LISTEN;
use super::output::{self, note};
use super::stop::stop_signal;
#[cfg(feature = "local")]
use crate::driver::{PlanOptions, order::PlanRoot};
use crate::service::{ServeOptions, serve};
#[cfg(feature = "local")]
use anyhow::Context as _;
use clap::Args;
use security::SecurityArgs;
use std::path::PathBuf;
use std::time::Duration;

/// Run a coordinator: it keeps jobs, leases their work to workers, and stores every result.
///
/// The first line on standard output is the address: "listening on http://127.0.0.1:7311". Without --token-file
/// everybody who reaches the address may use the coordinator, without --tls-cert everybody on the way may read along: give
/// both where the network is not trusted.
#[derive(Args, Debug)]
pub struct ServeArgs {
    /// Address and port to listen on; port 0 takes a free one
    #[arg(long, env = "ROPEWALK_LISTEN", default_value = DEFAULT_LISTEN, value_name = "ADDR")]
    listen: String,

    /// Address and port of the dashboard, metrics and health checks (GET only), for example 127.0.0.1:7312. There is no login: keep
    /// it on a loopback address, or behind a proxy that has one [default: none]
    #[arg(long, env = "ROPEWALK_HTTP", value_name = "ADDR")]
    http: Option<String>,

    /// Folder that keeps jobs, samples, results and events
    #[arg(long, env = "ROPEWALK_STORE", default_value = "ropewalk-store", value_name = "DIR")]
    store: PathBuf,

    /// Seconds after which the work of a silent worker goes to another
    #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(2..=86_400))]
    lease: u64,

    /// Carry out plans (`ropewalk extend --detach`) whose folders lie in this one, or which is a plan's own. What a plan's
    /// stages compute besides searches and trainings runs on this machine, programs that the plan names too
    #[cfg(feature = "local")]
    #[arg(long, env = "ROPEWALK_PLAN_ROOT", value_name = "DIR")]
    plan_root: Option<PathBuf>,

    #[command(flatten)]
    security: SecurityArgs,
}

pub(super) async fn run(args: ServeArgs) -> Outcome {
    let security = args.security.read()?;
    let (asks, encrypts) = (security.token.is_some(), security.tls.is_some());
    // Empty as where a unit file leaves it open.
    let http = args.http.clone().filter(|address| !address.is_empty());
    let options = ServeOptions { lease: Duration::from_secs(args.lease), plans: args.plans()?, security, http };
    if args.store.exists() && !args.store.is_dir() {
        let store = args.store.display();
        return Err(Failure::input_message(format!("--store {store} is a file; name a folder, which may be new")));
    }
    let serving = serve(&args.listen, &args.store, options, stop_signal()).await;
    let serving = serving.map_err(|error| Failure::sorted(error.is_input(), error))?;
    // As it was asked for: who listens on 0.0.0.0 is reached from other machines.
    let (scheme, address) = (if encrypts { "https" } else { "http" }, serving.address());
    output::line(format!("listening on {scheme}://{address}"))?;
    if let Some(address) = serving.dashboard() {
        note(format!("dashboard: http://{address}"));
        if !address.ip().is_loopback() {
            note(
                "warning: anybody who reaches the dashboard's address can read it; put a proxy with a login before it",
            );
        }
    }
    note(format!("store: {}; stop with Ctrl-C, nothing is lost", args.store.display()));
    if !address.ip().is_loopback() {
        match (asks, encrypts) {
            (false, _) => note(
                "warning: everybody who reaches this address may use the coordinator; ask for a token with --token-file \
                 (docs/security.md)",
            ),
            (true, false) => note(
                "warning: the token arrives unencrypted, for everybody on the way to read; encrypt with --tls-cert and \
                 --tls-key",
            ),
            (true, true) => {}
        }
    }
    serving.finished().await.or_work()
}

// === impl ServeArgs ===

impl ServeArgs {
    #[cfg(feature = "local")]
    fn plans(&self) -> Result<Option<PlanOptions>, Failure> {
        let Some(root) = &self.plan_root else { return Ok(None) };
        let root = root.canonicalize().with_context(|| format!("--plan-root {}", root.display())).or_input()?;
        if !root.is_dir() {
            let message =
                format!("--plan-root {} is not a folder; it has plans' folders in it, or is one", root.display());
            return Err(Failure::input_message(message));
        }
        let program = std::env::current_exe().context("cannot tell where this program lies").or_work()?;
        Ok(Some(PlanOptions { root: PlanRoot::new(root), program, own: self.security.own_address()? }))
    }

    /// Carrying out a plan takes the evaluator.
    #[cfg(not(feature = "local"))]
    fn plans(&self) -> Result<Option<crate::driver::PlanOptions>, Failure> {
        Ok(None)
    }
}
