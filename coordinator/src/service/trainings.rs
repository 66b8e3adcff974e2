//! The service for trainings: launching them, and carrying them out.

use super::error::{invalid, refused};
use super::raised;
use crate::engine::{Engine, EngineError};
use ropewalk_shared::training::{TrainingJob, TrainingLease, TrainingReport, TrainingRequest};
use ropewalk_shared::wire::pb;
use ropewalk_shared::wire::pb::training_server::Training;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tonic::{Request, Response, Status};

/// How often is looked again for what no offer announces.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// The service.
#[derive(Debug)]
pub(super) struct Trainings {
    pub engine: Engine,
    pub closing: watch::Receiver<bool>,
}

// === impl Trainings ===

impl Trainings {
    /// Leases a training, and waits for one where there is none.
    async fn wait_for_training(&self, request: TrainingRequest) -> Result<TrainingLease, EngineError> {
        let until = Instant::now() + request.wait;
        let mut offers = self.engine.offers();
        let mut closing = self.closing.clone();
        loop {
            // Noted before looking: what is offered while looking is seen as a change.
            offers.mark_unchanged();
            let asked = request.clone();
            let offered = self.engine.volatile(move |core, now| Ok(core.offered_training(&asked, now))).await?;
            if offered.is_some() || Instant::now() >= until || *closing.borrow() {
                let asked = request.clone();
                // Durable: a coordinator that is killed now must know who trains.
                let lease = self.engine.durable(move |core, now| core.lease_training(&asked, now)).await?;
                // Another may have been quicker.
                if lease.unit.is_some() || Instant::now() >= until || *closing.borrow() {
                    return Ok(lease);
                }
            }
            tokio::select! {
                _ = timeout_at(until.min(Instant::now() + LOOK_AGAIN), offers.changed()) => {}
                () = raised(&mut closing) => {}
            }
        }
    }
}

#[tonic::async_trait]
impl Training for Trainings {
    async fn launch_training(
        &self,
        request: Request<pb::LaunchTrainingRequest>,
    ) -> Result<Response<pb::LaunchJobResponse>, Status> {
        let job = request.into_inner().job.ok_or_else(|| Status::invalid_argument("field job: is missing"))?;
        let job = TrainingJob::try_from(job).map_err(invalid)?;
        let launched = self.engine.durable(move |core, now| core.launch_training(job, now)).await.map_err(refused)?;
        Ok(Response::new(pb::LaunchJobResponse { job_id: launched.job.to_string(), created: launched.created }))
    }

    async fn lease_training(
        &self,
        request: Request<pb::LeaseTrainingRequest>,
    ) -> Result<Response<pb::LeaseTrainingResponse>, Status> {
        let request = TrainingRequest::try_from(request.into_inner()).map_err(invalid)?;
        let lease = self.wait_for_training(request).await.map_err(refused)?;
        Ok(Response::new((&lease).into()))
    }

    async fn report_training(
        &self,
        request: Request<pb::ReportTrainingRequest>,
    ) -> Result<Response<pb::ReportTrainingResponse>, Status> {
        let report = TrainingReport::try_from(request.into_inner()).map_err(invalid)?;
        let wanted = self.engine.durable(move |core, now| core.report_training(&report, now)).await;
        Ok(Response::new(pb::ReportTrainingResponse { wanted: wanted.map_err(refused)? }))
    }
}
