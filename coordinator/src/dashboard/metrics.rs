//! Metrics in the text format of Prometheus, read from the engine's own state at each scrape.
//!
//! Labels are bounded: jobs have series of their own while they are not over, and so many at most; workers are told apart by
//! device alone. docs/monitoring.md lists all of them.

mod jobs;
mod series;
mod workers;

use super::Dashboard;
use super::error::Unavailable;
use super::look::Look;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::prometheus_text::{CONTENT_TYPE as FORM, encode};
use prometheus_client::registry::Registry;
use ropewalk_shared::outcome::FailureKind;
use ropewalk_shared::work::Verdict;
use series::Series;
use std::fmt;
use std::sync::Arc;

/// What every name begins with.
const PREFIX: &str = "ropewalk";

const VERDICTS: [(Verdict, &str); 5] = [
    (Verdict::Accepted, "accepted"),
    (Verdict::Duplicate, "duplicate"),
    (Verdict::Conflict, "conflict"),
    (Verdict::NotWanted, "not_wanted"),
    (Verdict::Refused, "refused"),
];

const FAILURES: [(FailureKind, &str); 7] = [
    (FailureKind::ModelMissing, "model_missing"),
    (FailureKind::FingerprintMismatch, "fingerprint_mismatch"),
    (FailureKind::TooLarge, "too_large"),
    (FailureKind::SampleUnavailable, "sample_unavailable"),
    (FailureKind::Evaluation, "evaluation"),
    (FailureKind::HandedBack, "handed_back"),
    (FailureKind::NoGradient, "no_gradient"),
];

/// `GET /metrics`
pub(super) async fn scrape(State(dashboard): State<Arc<Dashboard>>) -> Result<Response, Unavailable> {
    let text = text(dashboard.looks.look().await?)?;
    Ok(([(CONTENT_TYPE, FORM)], text).into_response())
}

fn text(look: Arc<Look>) -> Result<String, Unavailable> {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(Scrape(look)));
    let mut text = String::new();
    encode(&mut text, &registry).map_err(|error| Unavailable::Broken(error.to_string()))?;
    Ok(text)
}

/// A look, as metrics.
#[derive(Debug)]
struct Scrape(Arc<Look>);

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut series = Series::new(encoder);
        let Look { overview, disk } = self.0.as_ref();
        process(&mut series, &self.0)?;
        jobs::all(&mut series, &overview.jobs)?;
        workers::all(&mut series, &overview.workers)?;
        done(&mut series, &self.0)?;
        series.gauge("store_size_bytes", "Size of the store on disk", disk.used)?;
        series.gauge("store_free_bytes", "Free space on the disk of the store", disk.free)
    }
}

fn process(series: &mut Series<'_>, look: &Look) -> fmt::Result {
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    series.gauges("build_info", "The program; always 1", [(version, 1u64)])?;
    let start = look.overview.now.unix_ms_at(std::time::Duration::ZERO);
    series.gauge("start_time_seconds", "When the coordinator started, in seconds since 1970", Some(seconds(start)))
}

/// What was done since the start.
fn done(series: &mut Series<'_>, look: &Look) -> fmt::Result {
    let tally = &look.overview.tally;
    series.counter("workers_registered", "Workers that registered", tally.registered)?;
    series.counter("units_leased", "Units (a candidate on a document) that were leased", tally.leased)?;
    series.counter("leases_expired", "Leases that were not renewed in time", tally.expired)?;
    let results =
        VERDICTS.map(|(verdict, name)| ([("verdict", name)], tally.results.get(&verdict).copied().unwrap_or(0)));
    let help = "Results that workers brought, by what became of them; conflict: it differs from the one that stands";
    series.counters("results", help, results)?;
    series.counter("evaluated_tokens", "Tokens that were predicted in accepted results", tally.tokens)?;
    let last = tally.last_result_ms.map(seconds);
    series.gauge("last_result_timestamp_seconds", "When a result was last accepted, in seconds since 1970", last)?;
    series.counter(
        "units_stopped",
        "Evaluations that workers stopped because nobody wanted them any more",
        tally.stopped,
    )?;
    let failures = FAILURES.map(|(kind, name)| ([("kind", name)], tally.failures.get(&kind).copied().unwrap_or(0)));
    series.counters("failures", "Units that workers could not evaluate, by kind", failures)?;
    series.counter("candidates_failed", "Candidates that were given up", tally.candidates_failed)
}

fn seconds(milliseconds: u64) -> f64 {
    milliseconds as f64 / 1000.0
}

#[cfg(test)]
mod tests;
