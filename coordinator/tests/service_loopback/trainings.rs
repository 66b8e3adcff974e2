//! Trainings over the wire, with a worker that only says that it trains.

use crate::support::{Coordinator, job as search_job};
use ropewalk_coordinator::client::Watched;
use ropewalk_shared::event::JobEvent;
use ropewalk_shared::rope::Rescale;
use ropewalk_shared::status::JobState;
use ropewalk_shared::training::{SequencesId, TrainSpec, TrainingJob, TrainingPlace};
use ropewalk_shared::wire::pb;
use ropewalk_shared::wire::pb::report_training_request::End;
use ropewalk_shared::wire::pb::training_client::TrainingClient;
use std::time::Duration;
use tonic::Code;

fn training() -> TrainingJob {
    TrainingJob {
        name: "plan-tune".into(),
        model: search_job(1).model,
        settings: TrainSpec::new(30, 64, Rescale::identity(4)),
        sequences: SequencesId([2; 32]),
        place: TrainingPlace { folder: "plan".into(), stage: "tune".into(), output: "model-tune".into() },
        repetition: 0,
    }
}

fn lease_request(wait: Duration) -> pb::LeaseTrainingRequest {
    pb::LeaseTrainingRequest {
        worker_name: "one".into(),
        device: "cpu".into(),
        version: "0".into(),
        wait_ms: wait.as_millis() as u64,
        declined_jobs: Vec::new(),
    }
}

fn report(unit: &pb::TrainingUnit, steps: std::ops::RangeInclusive<u32>) -> pb::ReportTrainingRequest {
    let step = |step| pb::TrainingStep {
        step,
        loss: 2.5,
        gradient_norm: 0.5,
        learning_rate: 1e-4,
        tokens: 63,
        ..Default::default()
    };
    pb::ReportTrainingRequest {
        worker_name: "one".into(),
        lease_id: unit.lease_id,
        job_id: unit.job_id.clone(),
        steps: steps.map(step).collect(),
        checkpoint: 0,
        end: None,
    }
}

#[tokio::test]
async fn a_waiting_worker_is_given_a_training_and_its_steps_outlive_the_coordinator() {
    let store = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(store.path()).await;
    let listen = coordinator.listen();
    let mut service = TrainingClient::connect(coordinator.url()).await.unwrap();
    let nothing = service.lease_training(lease_request(Duration::ZERO)).await.unwrap().into_inner();
    assert_eq!((nothing.unit, nothing.lease_ms), (None, 2000));

    let waiting = tokio::spawn({
        let mut service = service.clone();
        async move { service.lease_training(lease_request(Duration::from_secs(30))).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (id, created) = coordinator.client().await.launch_training(&training()).await.unwrap();
    assert!(created);
    let unit = waiting.await.unwrap().unwrap().into_inner().unit.unwrap();
    assert_eq!(TrainingJob::try_from(unit.job.clone().unwrap()), Ok(training()));
    assert!(service.report_training(report(&unit, 1..=10)).await.unwrap().into_inner().wanted);

    coordinator.stop().await;
    let coordinator = Coordinator::start_at(&listen, store.path()).await;
    let client = coordinator.client().await;
    let status = client.job(id.as_str()).await.unwrap();
    assert_eq!(status.training.unwrap().steps_done, 10);
    // Under the lease of the coordinator's former life.
    let mut service = TrainingClient::connect(coordinator.url()).await.unwrap();
    let mut last = report(&unit, 11..=30);
    last.end = Some(End::Result(pb::TrainingResult { fingerprint: vec![7; 32] }));
    service.report_training(last).await.unwrap();

    let (mut steps, mut state) = (Vec::new(), None);
    let mut watch = client.watch(id.as_str(), 0);
    while let Some(step) = watch.next().await.unwrap() {
        if let Watched::Progress { events, status } = step {
            steps.extend(events.into_iter().filter_map(|event| match event.what {
                JobEvent::TrainingStep(step) => Some(step.step),
                _ => None,
            }));
            state = Some(status.state);
        }
    }
    assert_eq!(steps, (1..=30).collect::<Vec<_>>());
    assert_eq!(state, Some(JobState::Done));
    assert!(client.result(id.as_str()).await.unwrap_err().to_string().contains("is a training"));
    coordinator.stop().await;
}

#[tokio::test]
async fn hostile_messages_are_refused() {
    let store = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(store.path()).await;
    let mut service = TrainingClient::connect(coordinator.url()).await.unwrap();
    let launch = |change: &dyn Fn(&mut pb::TrainingJob)| {
        let mut job = pb::TrainingJob::from(&training());
        change(&mut job);
        let mut service = service.clone();
        async move { service.launch_training(pb::LaunchTrainingRequest { job: Some(job) }).await.unwrap_err() }
    };
    let refused = [
        (launch(&|job| job.folder = "../..".into()).await, "folder"),
        (launch(&|job| job.output = "a/b".into()).await, "output"),
        (launch(&|job| job.settings_json = "{\"steps\": 1e9}".into()).await, "settings_json"),
        (launch(&|job| job.sequences = vec![0; 3]).await, "sequences"),
        (launch(&|job| job.model = None).await, "model"),
    ];
    for (error, field) in refused {
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        assert!(error.message().contains(field), "{field}: {error}");
    }
    let empty = service.launch_training(pb::LaunchTrainingRequest { job: None }).await.unwrap_err();
    assert_eq!(empty.code(), Code::InvalidArgument);
    let long = service.lease_training(lease_request(Duration::from_secs(3600))).await.unwrap_err();
    assert!(long.message().contains("wait_ms"), "{long}");

    // Reports of trainings that nobody knows, or under a lease that was never given.
    let (id, _) = coordinator.client().await.launch_training(&training()).await.unwrap();
    let invented = pb::TrainingUnit { lease_id: 77, job_id: id.to_string(), ..Default::default() };
    let unknown = pb::TrainingUnit { lease_id: 1, job_id: "nothing-0".into(), ..Default::default() };
    for unit in [invented, unknown] {
        assert!(!service.report_training(report(&unit, 1..=5)).await.unwrap().into_inner().wanted);
    }
    let status = coordinator.client().await.job(id.as_str()).await.unwrap();
    assert_eq!(status.training.unwrap().steps_done, 0);
    coordinator.stop().await;
}
