//! Plans over the wire, where nobody carries them out.

use crate::support::Coordinator;
use ropewalk_coordinator::client::ClientError;
use ropewalk_coordinator::driver::PlanOptions;
use ropewalk_coordinator::driver::order::PlanRoot;
use ropewalk_shared::plan::{OrderId, PlanJob};
use ropewalk_shared::status::JobState;
use ropewalk_shared::wire::pb;
use ropewalk_shared::wire::pb::plans_client::PlansClient;
use std::path::Path;
use std::time::Duration;
use tonic::Code;

const ORDER: &[u8] = b"{}";

fn plan() -> PlanJob {
    PlanJob {
        name: "mine".into(),
        model: "model".into(),
        folder: "plan".into(),
        order: OrderId::of(ORDER),
        original_length: 16,
        target_length: 64,
        stages: 2,
    }
}

/// Carries plans out with a program that is none.
fn options(root: &Path, program: &str) -> PlanOptions {
    PlanOptions { root: PlanRoot::new(root.to_owned()), program: program.into(), own: Default::default() }
}

fn put_order(root: &Path) {
    let path = plan().order.path(&root.join("plan"));
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, ORDER).unwrap();
}

fn refused(error: ClientError) -> String {
    let ClientError::Refused { code: Code::FailedPrecondition, message } = error else { panic!("{error}") };
    message
}

#[tokio::test]
async fn a_plan_is_launched_where_its_order_is_seen_and_tried_again_while_it_fails() {
    let (store, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let coordinator = Coordinator::start(store.path()).await;
    let said = refused(coordinator.client().await.launch_plan(&plan()).await.unwrap_err());
    assert!(said.contains("--plan-root"), "{said}");
    coordinator.stop().await;

    let options = options(root.path(), "/no/such/program");
    let coordinator = Coordinator::start_with(store.path(), Some(options)).await;
    let client = coordinator.client().await;
    let said = refused(client.launch_plan(&plan()).await.unwrap_err());
    assert!(said.contains("not on the coordinator's machine"), "{said}");
    put_order(root.path());
    std::fs::write(plan().order.path(&root.path().join("plan")), b"{ }").unwrap();
    let said = refused(client.launch_plan(&plan()).await.unwrap_err());
    assert!(said.contains("was changed since"), "{said}");
    put_order(root.path());
    let (id, created) = client.launch_plan(&plan()).await.unwrap();
    assert!(created);
    let reason = loop {
        let status = client.job(id.as_str()).await.unwrap();
        match status.reason.filter(|reason| reason.contains("tried again")) {
            Some(reason) => break reason,
            None => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    assert!(reason.contains("cannot run /no/such/program"), "{reason}");
    assert!(!client.launch_plan(&plan()).await.unwrap().1, "the same is named");
    let said = refused(client.result(id.as_str()).await.unwrap_err());
    assert!(said.contains("is a plan"), "{said}");
    assert_eq!(client.cancel(id.as_str()).await.unwrap().state, JobState::Cancelled);
    coordinator.stop().await;
}

#[tokio::test]
async fn without_a_plan_root_a_plan_of_before_waits_and_says_so() {
    let (store, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    put_order(root.path());
    let coordinator = Coordinator::start_with(store.path(), Some(options(root.path(), "/no/such/program"))).await;
    let (id, _) = coordinator.client().await.launch_plan(&plan()).await.unwrap();
    coordinator.stop().await;
    let coordinator = Coordinator::start(store.path()).await;
    let status = coordinator.client().await.job(id.as_str()).await.unwrap();
    assert_eq!(status.state, JobState::Running);
    assert!(status.reason.unwrap().contains("--plan-root"));
    coordinator.stop().await;
}

#[tokio::test]
async fn hostile_messages_are_refused() {
    let store = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start_with(store.path(), Some(options(store.path(), "/no/such/program"))).await;
    let service = PlansClient::connect(coordinator.url()).await.unwrap();
    let launch = |change: &dyn Fn(&mut pb::PlanJob)| {
        let mut job = pb::PlanJob::from(&plan());
        change(&mut job);
        let mut service = service.clone();
        async move { service.launch_plan(pb::LaunchPlanRequest { job: Some(job) }).await.unwrap_err() }
    };
    let refused = [
        (launch(&|job| job.folder = "../..".into()).await, "folder"),
        (launch(&|job| job.folder = "/etc".into()).await, "folder"),
        (launch(&|job| job.name = "a\u{1b}b".into()).await, "name"),
        (launch(&|job| job.model = "x".repeat(100_000)).await, "model"),
        (launch(&|job| job.order = vec![0; 3]).await, "order"),
        (launch(&|job| job.stages = u32::MAX).await, "stages"),
    ];
    for (error, field) in refused {
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        assert!(error.message().contains(field), "{field}: {error}");
    }
    let empty = service.clone().launch_plan(pb::LaunchPlanRequest { job: None }).await.unwrap_err();
    assert_eq!(empty.code(), Code::InvalidArgument);
    assert!(coordinator.client().await.jobs().await.unwrap().is_empty());
    coordinator.stop().await;
}
