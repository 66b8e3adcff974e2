//! What is refused, and with which words.

use crate::fake_worker::{evaluated, is, lease_request, register};
use crate::support::{Coordinator, job, launch, samples};
use ropewalk_coordinator::client::{Client, ClientError};
use ropewalk_coordinator::service::{ServeError, ServeOptions, serve};
use ropewalk_coordinator::store::StoreError;
use ropewalk_shared::rope::Rescale;
use ropewalk_shared::wire::pb;
use ropewalk_shared::wire::pb::report_response::Verdict;
use ropewalk_shared::wire::pb::ropewalk_client::RopewalkClient;
use ropewalk_shared::wire::pb::work_client::WorkClient;
use std::time::{Duration, Instant};
use tonic::Code;

#[tokio::test]
async fn a_coordinator_that_is_not_there() {
    // Bound and dropped: a port on which nobody listens.
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let begin = Instant::now();
    let error = Client::connect(&free.to_string()).await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().starts_with(&format!("no coordinator answers at http://{free}: ")), "{error}");
    assert!(error.to_string().contains("ropewalk serve"), "{error}");
    // Something that takes connections and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Client::connect(&silent.local_addr().unwrap().to_string()).await;
    let waiting = tokio::time::timeout(Duration::from_secs(1), async { client?.jobs().await });
    assert!(!matches!(waiting.await, Ok(Ok(_))));
    for url in ["", "http://", "ftp://host", "not a host:99999"] {
        let error = Client::connect(url).await.unwrap_err();
        assert!(matches!(error, ClientError::Url { .. }), "{url}: {error:?}");
    }
    assert!(begin.elapsed() < Duration::from_secs(30));
}

#[tokio::test]
async fn ports_and_stores_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(&folder.path().join("store")).await;
    let start = |listen: String, store: &'static str| {
        let store = folder.path().join(store);
        async move { serve(&listen, &store, ServeOptions::default(), std::future::pending()).await }
    };
    let error = start(coordinator.listen(), "other").await.unwrap_err();
    assert!(matches!(error, ServeError::PortInUse { .. }), "{error:?}");
    assert!(error.to_string().contains(&coordinator.listen()) && error.to_string().contains("--listen"), "{error}");
    let error = start("127.0.0.1:0".into(), "store").await.unwrap_err();
    assert!(matches!(error, ServeError::Store(StoreError::Locked { .. })), "{error:?}");
    let error = start("256.1.1.1:1".into(), "other").await.unwrap_err();
    assert!(matches!(error, ServeError::Bind { .. }), "{error:?}");
    coordinator.stop().await;
}

#[tokio::test]
async fn hostile_messages_are_refused_and_the_coordinator_lives() {
    let store = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(store.path()).await;
    let mut clients = RopewalkClient::connect(coordinator.url()).await.unwrap();
    let mut workers = WorkClient::connect(coordinator.url()).await.unwrap();
    let spec = |change: fn(&mut pb::JobSpec)| {
        let mut spec = pb::JobSpec::from(&job(1));
        change(&mut spec);
        pb::LaunchJobRequest { spec: Some(spec) }
    };
    let oversized = spec(|spec| spec.model.as_mut().unwrap().config_json = "x".repeat(9 << 20));
    assert!(is(clients.launch_job(oversized).await, Code::OutOfRange));
    for refused in [
        spec(|spec| spec.model.as_mut().unwrap().config_json = "x".repeat(2 << 20)),
        spec(|spec| spec.model.as_mut().unwrap().fingerprint = vec![1; 31]),
        spec(|spec| spec.model = None),
        spec(|spec| spec.search.as_mut().unwrap().strategy = 0),
        spec(|spec| spec.search.as_mut().unwrap().strategy = 77),
        spec(|spec| spec.search.as_mut().unwrap().step = f64::NAN),
        spec(|spec| spec.search.as_mut().unwrap().attention_factor = "-1".into()),
        spec(|spec| spec.search.as_mut().unwrap().init = vec![(&Rescale::identity(3)).into()]),
        spec(|spec| spec.samples = vec![vec![0; 3]]),
        spec(|spec| spec.name = "../../etc".into()),
        pb::LaunchJobRequest { spec: None },
    ] {
        assert!(is(clients.launch_job(refused).await, Code::InvalidArgument));
    }
    let missing = clients.launch_job(spec(|_| ())).await.unwrap_err();
    assert_eq!(missing.code(), Code::FailedPrecondition);
    assert!(missing.message().contains("5 of the job's samples are not stored here"), "{}", missing.message());

    for job_id in ["nope", "", "../x", &"a".repeat(1000), "\u{1b}[31m"] {
        let error = clients.get_job(pb::GetJobRequest { job_id: job_id.into() }).await.unwrap_err();
        assert_eq!(error.code(), Code::NotFound);
        assert!(error.message().contains("`ropewalk jobs` lists them"), "{}", error.message());
        assert!(!error.message().contains('\u{1b}'));
    }
    let bad_chunk =
        pb::SampleChunk { sample_id: vec![1; 32], total_tokens: 4, token_ids: vec![0; 16], counted_from: 0 };
    let wrong_content = clients.put_sample(tokio_stream::iter([bad_chunk])).await.unwrap_err();
    assert!(wrong_content.message().contains("send the sample again"), "{}", wrong_content.message());
    assert!(is(clients.put_sample(tokio_stream::iter([])).await, Code::InvalidArgument));

    assert!(is(workers.lease(lease_request("no-such", 1, 1, 0)).await, Code::NotFound));
    assert!(is(workers.lease(lease_request("bad id\n", 1, 1, 0)).await, Code::InvalidArgument));
    assert!(is(workers.lease(lease_request("w", 1, 0, 0)).await, Code::InvalidArgument));
    assert!(is(workers.lease(lease_request("w", 1, u32::MAX, 0)).await, Code::InvalidArgument));
    assert!(is(workers.lease(lease_request("w", 1, 1, u64::MAX)).await, Code::InvalidArgument));
    assert!(is(workers.get_sample(pb::GetSampleRequest { sample_id: vec![] }).await, Code::InvalidArgument));
    let heartbeat = pb::HeartbeatRequest { worker_id: "w".into(), lease_ids: vec![1; 20_000], leaving: false };
    assert!(is(workers.heartbeat(heartbeat).await, Code::InvalidArgument));
    assert!(coordinator.client().await.jobs().await.unwrap().is_empty());
    drop((clients, workers));
    coordinator.stop().await;
}

#[tokio::test]
async fn one_bad_report_does_not_spoil_those_beside_it() {
    let store = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(store.path()).await;
    launch(&coordinator.client().await, &job(1)).await;
    let mut service = WorkClient::connect(coordinator.url()).await.unwrap();
    let worker_id = register(&mut service, 1000).await.unwrap();
    let units = service.lease(lease_request(&worker_id, 1, 5, 0)).await.unwrap().into_inner().units;
    let mut reports: Vec<_> = units.into_iter().map(|unit| evaluated(unit.try_into().unwrap())).collect();
    reports[0].outcome = None;
    reports[1].rescale.as_mut().unwrap().factors.push(1.0);
    reports[3].sample_id = vec![1];
    let verdicts = service.report(pb::ReportRequest { worker_id, reports }).await.unwrap().into_inner().verdicts;
    let (accepted, refused) = (Verdict::Accepted as i32, Verdict::Refused as i32);
    assert_eq!(verdicts, [refused, refused, accepted, refused, accepted]);
    drop(service);
    coordinator.stop().await;
}

#[tokio::test]
async fn health_and_reflection_answer() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

    let store = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(store.path()).await;
    let channel = tonic::transport::Endpoint::from_shared(coordinator.url()).unwrap().connect().await.unwrap();
    let mut health = HealthClient::new(channel.clone());
    for service in ["", "ropewalk.v1.Ropewalk", "ropewalk.v1.Work"] {
        let answer = health.check(HealthCheckRequest { service: service.into() }).await.unwrap().into_inner();
        assert_eq!(answer.status, 1, "{service}");
    }
    let mut reflection = ServerReflectionClient::new(channel.clone());
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = reflection.server_reflection_info(tokio_stream::iter([ask])).await.unwrap().into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) = answers.message().await.unwrap().unwrap().message_response
    else {
        panic!("no list of services");
    };
    let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    assert!(names.contains(&"ropewalk.v1.Work".to_owned()), "{names:?}");
    drop((channel, health, reflection, answers));
    coordinator.stop().await;
}

#[tokio::test]
async fn samples_shorter_than_the_job_are_named() {
    let store = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(store.path()).await;
    let client = coordinator.client().await;
    client.put_samples(&samples(), |_, _| ()).await.unwrap();
    let mut spec = job(1);
    spec.target_length = 66;
    let error = client.launch(&spec).await.unwrap_err().to_string();
    assert!(error.contains("has 64 tokens, the job needs at least its target length, 66"), "{error}");
    coordinator.stop().await;
}
