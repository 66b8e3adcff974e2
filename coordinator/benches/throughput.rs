//! How many results a second pass through the coordinator, each durable before it is acknowledged.
//!
//! `cargo bench -p ropewalk-coordinator --bench throughput`
#![allow(clippy::unwrap_used, reason = "a measurement that cannot be made should stop")]

// What the service's tests are made of.
#[allow(dead_code)]
#[path = "../tests/service_loopback/fake_worker.rs"]
mod fake_worker;
#[allow(dead_code)]
#[path = "../tests/service_loopback/support.rs"]
mod support;

use fake_worker::work;
use std::time::Instant;
use support::{Coordinator, follow, job, launch};

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    for (workers, units) in [(1, 1), (8, 1), (64, 1), (8, 16), (8, 128)] {
        let store = tempfile::tempdir().unwrap();
        let coordinator = Coordinator::start(store.path()).await;
        let (client, mut spec) = (coordinator.client().await, job(2));
        spec.search.start_tokens = (0..100).collect();
        (spec.search.evolution.population, spec.search.evolution.mutations) = (if units == 1 { 500 } else { 5000 }, 1);
        let crew: Vec<_> = (0..workers).map(|_| tokio::spawn(work(coordinator.url(), units))).collect();
        let begin = Instant::now();
        launch(&client, &spec).await;
        let (_, status) = follow(&client, &spec).await;
        let rate = status.passes as f64 / begin.elapsed().as_secs_f64();
        eprintln!("{workers:>3} workers, {units:>3} units a request: {rate:>8.0} results a second");
        crew.iter().for_each(|worker| worker.abort());
        coordinator.stop().await;
    }
}
