//! Leasing over gRPC: waiting, repeating, being forgotten, fetching samples.

use crate::fake_worker::{evaluated, is, lease_request, register};
use crate::support::{Coordinator, job, launch, samples};
use ropewalk_shared::sample::Sample;
use ropewalk_shared::wire::pb::report_response::Verdict;
use ropewalk_shared::wire::pb::work_client::WorkClient;
use ropewalk_shared::wire::{SampleAssembly, pb};
use std::time::{Duration, Instant};
use tonic::Code;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_worker_gets_work_as_soon_as_there_is_some() {
    let store = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(store.path()).await;
    let mut service = WorkClient::connect(coordinator.url()).await.unwrap();
    let worker = register(&mut service, 1000).await.unwrap();
    let nothing = service.lease(lease_request(&worker, 1, 2, 100)).await.unwrap().into_inner();
    assert!(nothing.units.is_empty());

    let waiting = {
        let (mut service, worker) = (service.clone(), worker.clone());
        tokio::spawn(async move { service.lease(lease_request(&worker, 2, 2, 30_000)).await })
    };
    tokio::time::sleep(Duration::from_millis(100)).await;
    let begin = Instant::now();
    launch(&coordinator.client().await, &job(1)).await;
    let units = waiting.await.unwrap().unwrap().into_inner().units;
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert_eq!(units.len(), 2);

    // The same request again, as after a broken connection.
    let again = service.lease(lease_request(&worker, 2, 2, 0)).await.unwrap().into_inner().units;
    assert_eq!(again, units);
    let more = service.lease(lease_request(&worker, 3, 2, 0)).await.unwrap().into_inner().units;
    assert!(more.iter().all(|unit| !units.contains(unit)));

    // Silent for longer than the lease: the units go to another.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let other = register(&mut service, 1000).await.unwrap();
    let taken = service.lease(lease_request(&other, 1, 4, 0)).await.unwrap().into_inner().units;
    assert_eq!(taken.iter().filter(|unit| unit.attempt == 2).count(), 4);
    let lease_ids = units.iter().map(|unit| unit.lease_id).collect::<Vec<_>>();
    let heartbeat = pb::HeartbeatRequest { worker_id: worker.clone(), lease_ids: lease_ids.clone(), leaving: false };
    assert_eq!(service.heartbeat(heartbeat).await.unwrap().into_inner().revoked, lease_ids);
    // What the first one computed counts all the same, and then not again.
    let report = |unit: &pb::Unit| evaluated(unit.clone().try_into().unwrap());
    let reports = vec![report(&units[0]), report(&taken[0])];
    let request = pb::ReportRequest { worker_id: worker, reports };
    let verdicts = service.report(request).await.unwrap().into_inner().verdicts;
    assert_eq!(verdicts, [Verdict::Accepted as i32, Verdict::Duplicate as i32]);
    coordinator.stop().await;
}

#[tokio::test]
async fn a_worker_that_says_that_it_ends_is_not_counted_any_more() {
    let store = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(store.path()).await;
    let (client, mut service) = (coordinator.client().await, WorkClient::connect(coordinator.url()).await.unwrap());
    launch(&client, &job(1)).await;
    let worker = register(&mut service, 1000).await.unwrap();
    let connected = async || client.workers().await.unwrap().iter().filter(|worker| worker.connected).count();
    assert_eq!(connected().await, 1);

    let heartbeat = pb::HeartbeatRequest { worker_id: worker.clone(), lease_ids: vec![], leaving: true };
    service.heartbeat(heartbeat).await.unwrap();
    assert_eq!(connected().await, 0);
    // It thought better of it.
    assert!(!service.lease(lease_request(&worker, 1, 1, 0)).await.unwrap().into_inner().units.is_empty());
    assert_eq!(connected().await, 1);
    coordinator.stop().await;
}

#[tokio::test]
async fn a_restarted_coordinator_takes_results_of_its_former_life() {
    let store = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(store.path()).await;
    let mut service = WorkClient::connect(coordinator.url()).await.unwrap();
    launch(&coordinator.client().await, &job(1)).await;
    let worker = register(&mut service, 1000).await.unwrap();
    let unit = service.lease(lease_request(&worker, 1, 1, 0)).await.unwrap().into_inner().units.remove(0);
    drop(service);
    coordinator.stop().await;

    let coordinator = Coordinator::start(store.path()).await;
    let mut service = WorkClient::connect(coordinator.url()).await.unwrap();
    assert!(is(service.lease(lease_request(&worker, 2, 1, 0)).await, Code::NotFound));
    let heartbeat = |worker_id: &str| pb::HeartbeatRequest {
        worker_id: worker_id.into(),
        lease_ids: vec![unit.lease_id],
        leaving: false,
    };
    assert!(is(service.heartbeat(heartbeat(&worker)).await, Code::NotFound));
    let again = register(&mut service, 1000).await.unwrap();
    assert_ne!(again, worker);
    let revoked = service.heartbeat(heartbeat(&again)).await.unwrap().into_inner().revoked;
    assert!(revoked.is_empty(), "the result is still welcome");
    let reports = vec![evaluated(unit.clone().try_into().unwrap())];
    let request = pb::ReportRequest { worker_id: worker, reports };
    let verdicts = service.report(request).await.unwrap().into_inner().verdicts;
    assert_eq!(verdicts, [Verdict::Accepted as i32]);
    drop(service);
    coordinator.stop().await;
}

#[tokio::test]
async fn a_sample_of_many_chunks_goes_in_and_out() {
    let store = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(store.path()).await;
    let sample = Sample::new((0..300_000).collect()).unwrap();
    coordinator.client().await.put_samples(std::slice::from_ref(&sample), |_, _| ()).await.unwrap();
    let mut service = WorkClient::connect(coordinator.url()).await.unwrap();
    let request = pb::GetSampleRequest { sample_id: sample.id().as_bytes().to_vec() };
    let mut stream = service.get_sample(request).await.unwrap().into_inner();
    let mut assembly = SampleAssembly::default();
    while let Some(chunk) = stream.message().await.unwrap() {
        assembly.push(&chunk).unwrap();
    }
    assert_eq!(assembly.finish().unwrap(), (sample.id(), sample));
    let unknown = pb::GetSampleRequest { sample_id: samples()[0].id().as_bytes().to_vec() };
    assert!(is(service.get_sample(unknown).await, Code::NotFound));
    drop((service, stream));
    coordinator.stop().await;
}
