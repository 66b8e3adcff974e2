//! A service for trainings that does as it is told, and remembers what it was sent.

use super::super::fake::{Fake, Served};
use ropewalk_shared::training::{StepRecord, TrainingJob, TrainingUnit};
use ropewalk_shared::wire::pb;
use ropewalk_shared::wire::pb::report_training_request::End;
use ropewalk_shared::wire::pb::training_server::{Training, TrainingServer};
use ropewalk_shared::work::LeaseId;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tonic::{Code, Request, Response, Status};

/// What the fake knows and what it was told to do.
pub(super) struct State {
    /// Leased in this order, each once.
    pub(super) jobs: VecDeque<TrainingJob>,
    pub(super) requests: Vec<pb::LeaseTrainingRequest>,
    /// Those that were answered.
    pub(super) reports: Vec<pb::ReportTrainingRequest>,
    /// When the last of them was.
    pub(super) answered: Option<Instant>,
    /// Reports from which on, by their steps, nothing is wanted.
    pub(super) unwanted_from: Option<u32>,
    /// With what every call fails.
    pub(super) failing: Option<Code>,
    pub(super) lease: Duration,
    pub(super) leased: u64,
}

/// The service; clones share their state.
#[derive(Clone)]
pub(super) struct FakeTrainings(Arc<Mutex<State>>);

// === impl FakeTrainings ===

impl FakeTrainings {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            jobs: VecDeque::new(),
            requests: Vec::new(),
            reports: Vec::new(),
            answered: None,
            unwanted_from: None,
            failing: None,
            lease: Duration::from_secs(10),
            leased: 0,
        })))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Serves both services, the one for units as `fake` has them.
    pub(super) async fn serve(&self, fake: &Fake) -> Served {
        fake.serve_with("127.0.0.1:0", |router| router.add_service(TrainingServer::new(self.clone()))).await
    }

    /// Waits until the state is as wanted.
    pub(super) async fn until(&self, what: &str, wanted: impl Fn(&State) -> bool) {
        let reached = async {
            while !wanted(&self.state()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(tokio::time::timeout(Duration::from_secs(60), reached).await.is_ok(), "{what} did not come about");
    }

    fn check(&self) -> Result<MutexGuard<'_, State>, Status> {
        let state = self.state();
        match state.failing {
            Some(code) => Err(Status::new(code, "as told")),
            None => Ok(state),
        }
    }
}

// === impl State ===

impl State {
    /// How the lease with this number ended.
    pub(super) fn end(&self, lease: u64) -> Option<&End> {
        self.reports.iter().find(|report| report.lease_id == lease && report.end.is_some())?.end.as_ref()
    }

    /// Why the lease with this number ended without a model.
    pub(super) fn failure(&self, lease: u64) -> Option<&pb::TrainingFailure> {
        match self.end(lease) {
            Some(End::Failure(failure)) => Some(failure),
            _ => None,
        }
    }

    /// The steps told under a lease.
    pub(super) fn steps(&self, lease: u64) -> Vec<StepRecord> {
        let reports = self.reports.iter().filter(|report| report.lease_id == lease);
        reports.flat_map(|report| &report.steps).map(|step| StepRecord::try_from(*step).unwrap()).collect()
    }
}

#[tonic::async_trait]
impl Training for FakeTrainings {
    async fn launch_training(
        &self,
        _: Request<pb::LaunchTrainingRequest>,
    ) -> Result<Response<pb::LaunchJobResponse>, Status> {
        Err(Status::unimplemented("workers launch nothing"))
    }

    async fn lease_training(
        &self,
        request: Request<pb::LeaseTrainingRequest>,
    ) -> Result<Response<pb::LeaseTrainingResponse>, Status> {
        let request = request.into_inner();
        let deadline = tokio::time::Instant::now() + Duration::from_millis(request.wait_ms);
        self.state().requests.push(request.clone());
        loop {
            {
                let mut state = self.check()?;
                let wanted = |job: &TrainingJob| !request.declined_jobs.contains(&job.id().to_string());
                let at = state.jobs.iter().position(wanted);
                let unit = at.and_then(|at| state.jobs.remove(at)).map(|job| {
                    state.leased += 1;
                    TrainingUnit { lease: LeaseId(state.leased), id: job.id(), job, attempt: 1 }
                });
                if unit.is_some() || tokio::time::Instant::now() >= deadline {
                    let lease_ms = state.lease.as_millis() as u64;
                    let unit = unit.as_ref().map(Into::into);
                    return Ok(Response::new(pb::LeaseTrainingResponse { unit, lease_ms, report_ms: lease_ms / 5 }));
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn report_training(
        &self,
        request: Request<pb::ReportTrainingRequest>,
    ) -> Result<Response<pb::ReportTrainingResponse>, Status> {
        let report = request.into_inner();
        let mut state = self.check()?;
        let last = report.steps.last().map_or(0, |step| step.step);
        let wanted = report.end.is_none() && state.unwanted_from.is_none_or(|from| last < from);
        state.reports.push(report);
        state.answered = Some(Instant::now());
        Ok(Response::new(pb::ReportTrainingResponse { wanted }))
    }
}
