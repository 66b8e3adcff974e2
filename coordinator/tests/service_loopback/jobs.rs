//! Jobs from launch to result.

use crate::fake_worker::work;
use crate::support::{Coordinator, follow, job, launch, samples};
use ropewalk_shared::event::JobEvent;
use ropewalk_shared::sample::Sample;
use ropewalk_shared::status::JobState;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_runs_over_grpc() {
    let store = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(store.path()).await;
    let (client, spec) = (coordinator.client().await, job(4));
    let workers: Vec<_> = (1..3).map(|units| tokio::spawn(work(coordinator.url(), units))).collect();

    let ids: Vec<_> = samples().iter().map(Sample::id).collect();
    assert_eq!(client.missing_samples(&ids).await.unwrap().len(), 5);
    let mut progress = Vec::new();
    client.put_samples(&samples(), |sent, total| progress.push((sent, total))).await.unwrap();
    assert_eq!((progress.first(), progress.last()), (Some(&(0, 330)), Some(&(330, 330))));
    assert!(client.missing_samples(&ids).await.unwrap().is_empty());
    client.put_samples(&samples(), |_, total| assert_eq!(total, 0)).await.unwrap();

    let (id, created) = client.launch(&spec).await.unwrap();
    assert_eq!((&id, created), (&spec.id(), true));
    let (events, status) = follow(&client, &spec).await;
    assert_eq!(status.state, JobState::Done);
    assert!(matches!(events.last().unwrap().what, JobEvent::Done { .. }));
    assert_eq!(client.launch(&spec).await.unwrap(), (id, false));

    let result = client.result("test").await.unwrap();
    assert!(result.complete);
    assert_eq!(result.config_json, spec.model.config_json);
    assert_eq!(result.factors.search.unwrap().evaluations, status.evaluations);
    assert_eq!(serde_json::from_str::<Vec<serde_json::Value>>(&result.history_json).unwrap().len(), 5);
    assert_eq!(client.jobs().await.unwrap(), [status]);
    let known = client.workers().await.unwrap();
    assert_eq!(known.len(), 2);
    assert!(known.iter().all(|worker| worker.connected && worker.leased == 0));
    workers.iter().for_each(|worker| worker.abort());
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watching_outlives_the_coordinator() {
    let folder = tempfile::tempdir().unwrap();
    let undisturbed = Coordinator::start(&folder.path().join("undisturbed")).await;
    let spec = job(30);
    let worker = tokio::spawn(work(undisturbed.url(), 3));
    let client = undisturbed.client().await;
    launch(&client, &spec).await;
    follow(&client, &spec).await;
    let expected = client.result("test").await.unwrap().factors_json;
    worker.abort();
    undisturbed.stop().await;

    let store = folder.path().join("disturbed");
    let mut coordinator = Coordinator::start(&store).await;
    let (listen, client) = (coordinator.listen(), coordinator.client().await);
    launch(&client, &spec).await;
    let watching = tokio::spawn({
        let (client, spec) = (client.clone(), spec.clone());
        async move { follow(&client, &spec).await }
    });
    let worker = tokio::spawn(work(coordinator.url(), 2));
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        coordinator.stop().await;
        coordinator = Coordinator::start_at(&listen, &store).await;
    }
    let (_, status) = watching.await.unwrap();
    assert_eq!(status.state, JobState::Done);
    assert_eq!(client.result("test").await.unwrap().factors_json, expected);
    worker.abort();
    coordinator.stop().await;
}

#[tokio::test]
async fn a_job_is_paused_resumed_and_cancelled() {
    let store = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(store.path()).await;
    let (client, spec) = (coordinator.client().await, job(4));
    launch(&client, &spec).await;
    assert_eq!(client.job("te").await.unwrap().state, JobState::Running);
    assert_eq!(client.pause("te").await.unwrap().state, JobState::Paused);
    assert_eq!(client.resume("te").await.unwrap().state, JobState::Running);
    let error = client.result("te").await.unwrap_err().to_string();
    assert!(error.contains("no candidate with a score yet"), "{error}");
    assert_eq!(client.cancel("te").await.unwrap().state, JobState::Cancelled);
    let (events, status) = follow(&client, &spec).await;
    assert_eq!(status.state, JobState::Cancelled);
    assert!(matches!(events.last().unwrap().what, JobEvent::Cancelled));
    let error = client.pause("te").await.unwrap_err().to_string();
    assert!(error.ends_with("is cancelled and cannot be paused"), "{error}");
    coordinator.stop().await;
}

#[tokio::test]
async fn a_watch_can_begin_in_the_middle() {
    let store = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(store.path()).await;
    let (client, spec) = (coordinator.client().await, job(4));
    launch(&client, &spec).await;
    client.cancel("test").await.unwrap();
    let mut watch = client.watch("test", 2);
    let mut sequences = Vec::new();
    while let Some(step) = watch.next().await.unwrap() {
        if let ropewalk_coordinator::client::Watched::Progress { events, .. } = step {
            sequences.extend(events.into_iter().map(|event| event.sequence));
        }
    }
    assert_eq!(sequences, [2, 3]);
    coordinator.stop().await;
}
