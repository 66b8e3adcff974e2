//! The engine with its threads: answers, endings, failures.

use super::rig::{job, sample};
use crate::engine::{Engine, EngineError, Stopped};
use crate::scheduler::SchedulerOptions;
use crate::store::{Store, StoreError};
use std::panic::resume_unwind;
use std::sync::Arc;

async fn start(path: &std::path::Path) -> (Engine, crate::engine::EngineThreads) {
    let store = Store::open(path).unwrap();
    for number in 0..10 {
        let sample = sample(number);
        store.put_sample(sample.id(), &sample).unwrap();
    }
    Engine::start(Arc::new(store), SchedulerOptions::default()).unwrap()
}

#[tokio::test]
async fn what_is_acknowledged_is_there_when_it_starts_again() {
    let folder = tempfile::tempdir().unwrap();
    let (engine, threads) = start(folder.path()).await;
    let launched = engine.durable(|core, now| core.launch(job(1), now)).await.unwrap();
    engine.stop().await;
    threads.join().await;
    assert_eq!(engine.stopped().await, Stopped::Asked);
    let late = engine.durable(|core, now| Ok(core.statuses(now))).await;
    assert_eq!(late, Err(EngineError::Stopping));
    drop(engine);
    let (engine, threads) = start(folder.path()).await;
    let jobs = engine.durable(|core, now| Ok(core.statuses(now))).await.unwrap();
    assert_eq!(jobs[0].job_id, launched.job);
    engine.stop().await;
    threads.join().await;
}

#[tokio::test]
async fn when_the_store_fails_nothing_is_acknowledged_and_the_engine_stops() {
    let folder = tempfile::tempdir().unwrap();
    let (engine, threads) = start(folder.path()).await;
    let full = StoreError::Full { path: folder.path().to_owned(), doing: "flushing" };
    engine.store().fail_from_now_on(full.clone());
    let answer = engine.durable(|core, now| core.launch(job(1), now)).await;
    assert_eq!(answer, Err(EngineError::Store(full.clone())));
    assert_eq!(engine.stopped().await, Stopped::Store(full.clone()));
    let late = engine.durable(|core, now| Ok(core.statuses(now))).await;
    assert_eq!(late, Err(EngineError::Store(full)), "whoever comes later is told why");
    threads.join().await;
    drop(engine);
    let (engine, threads) = start(folder.path()).await;
    assert_eq!(engine.durable(|core, now| Ok(core.statuses(now))).await, Ok(Vec::new()));
    engine.stop().await;
    threads.join().await;
}

/// A panic without a message on standard error, which would look like a failure of the test.
#[tokio::test]
async fn a_panic_ends_the_engine_and_nobody_waits_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let (engine, threads) = start(folder.path()).await;
    let answer = engine.durable::<()>(|_, _| resume_unwind(Box::new("on purpose"))).await;
    assert_eq!(answer, Err(EngineError::Stopping));
    assert_eq!(engine.stopped().await, Stopped::Panicked("on purpose".into()));
    threads.join().await;
}
