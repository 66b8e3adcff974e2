//! The service for workers.

use super::clients::sample_id;
use super::error::{invalid, refused};
use super::raised;
use super::samples::Transfers;
use crate::engine::{Core, Engine, EngineError};
use ropewalk_shared::wire::pb;
use ropewalk_shared::wire::pb::report_response::Verdict as PbVerdict;
use ropewalk_shared::wire::pb::work_server::Work;
use ropewalk_shared::work::{
    LeaseId, LeaseRequest, MAX_REPORTS, Registration, Unit, UnitReport, Verdict, WorkerId, WorkerProfile,
};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// Leases named in one heartbeat.
const MAX_LEASES: usize = 10_000;
/// A worker that waits for work is asked for again this often, so that it counts as connected while it waits.
const TOUCH: Duration = Duration::from_secs(5);

/// The worker-facing service.
#[derive(Debug)]
pub(super) struct Workers {
    pub engine: Engine,
    pub transfers: Transfers,
    pub closing: watch::Receiver<bool>,
}

// === impl Workers ===

impl Workers {
    /// Leases units, and waits for some when there are none.
    async fn wait_for_units(&self, request: LeaseRequest) -> Result<Vec<Unit>, EngineError> {
        let until = Instant::now() + request.wait;
        let mut offers = self.engine.offers();
        let mut closing = self.closing.clone();
        loop {
            // Noted before looking: what is offered while looking is seen as a change.
            offers.mark_unchanged();
            let asked = request.clone();
            let units = self.engine.volatile(move |core, now| core.lease(asked, now)).await?;
            if !units.is_empty() || Instant::now() >= until || *closing.borrow() {
                return Ok(units);
            }
            tokio::select! {
                _ = timeout_at(until.min(Instant::now() + TOUCH), offers.changed()) => {}
                () = raised(&mut closing) => return Ok(Vec::new()),
            }
        }
    }
}

#[tonic::async_trait]
impl Work for Workers {
    type GetSampleStream = ReceiverStream<Result<pb::SampleChunk, Status>>;

    async fn register(&self, request: Request<pb::RegisterRequest>) -> Result<Response<pb::RegisterResponse>, Status> {
        let profile = WorkerProfile::try_from(request.into_inner()).map_err(invalid)?;
        let (name, device) = (profile.name.clone(), profile.device.clone());
        let registered = self.engine.volatile(move |core, now| core.register(profile, now)).await;
        let registration: Registration = registered.map_err(refused)?;
        tracing::info!(worker = %registration.worker, name, device, "a worker registered");
        Ok(Response::new((&registration).into()))
    }

    async fn lease(&self, request: Request<pb::LeaseRequest>) -> Result<Response<pb::LeaseResponse>, Status> {
        let request = LeaseRequest::try_from(request.into_inner()).map_err(invalid)?;
        let units = self.wait_for_units(request).await.map_err(refused)?;
        Ok(Response::new(pb::LeaseResponse { units: units.iter().map(Into::into).collect() }))
    }

    async fn heartbeat(
        &self,
        request: Request<pb::HeartbeatRequest>,
    ) -> Result<Response<pb::HeartbeatResponse>, Status> {
        let pb::HeartbeatRequest { worker_id, lease_ids, leaving } = request.into_inner();
        let worker = worker_of(worker_id)?;
        if lease_ids.len() > MAX_LEASES {
            let message = format!("{} leases in one heartbeat, at most {MAX_LEASES} are accepted", lease_ids.len());
            return Err(Status::invalid_argument(message));
        }
        let leases: Vec<LeaseId> = lease_ids.into_iter().map(LeaseId).collect();
        let heartbeat = move |core: &mut Core, now| {
            let revoked = core.heartbeat(&worker, &leases, now);
            if leaving {
                core.leaves(&worker);
            }
            revoked
        };
        let revoked = self.engine.volatile(heartbeat).await;
        let revoked = revoked.map_err(refused)?.into_iter().map(|lease| lease.0).collect();
        Ok(Response::new(pb::HeartbeatResponse { revoked }))
    }

    async fn report(&self, request: Request<pb::ReportRequest>) -> Result<Response<pb::ReportResponse>, Status> {
        let pb::ReportRequest { worker_id, reports } = request.into_inner();
        let worker = worker_of(worker_id)?;
        if reports.len() > MAX_REPORTS {
            let message = format!("{} reports in one request, at most {MAX_REPORTS} are accepted", reports.len());
            return Err(Status::invalid_argument(message));
        }
        // One report that makes no sense is refused by itself; the results beside it are as good as ever.
        let mut understood = Vec::with_capacity(reports.len());
        let mut refused_at = Vec::new();
        for (index, report) in reports.into_iter().enumerate() {
            match UnitReport::try_from(report) {
                Ok(report) => understood.push(report),
                Err(error) => {
                    tracing::warn!(%worker, %error, "a report was refused");
                    refused_at.push(index);
                }
            }
        }
        let verdicts = self.engine.durable(move |core, now| core.report(&worker, understood, now)).await;
        let mut verdicts = verdicts.map_err(refused)?;
        for index in refused_at {
            verdicts.insert(index, Verdict::Refused);
        }
        let verdicts = verdicts.into_iter().map(|verdict| PbVerdict::from(verdict).into()).collect();
        Ok(Response::new(pb::ReportResponse { verdicts }))
    }

    async fn get_sample(
        &self,
        request: Request<pb::GetSampleRequest>,
    ) -> Result<Response<Self::GetSampleStream>, Status> {
        let id = sample_id(&request.into_inner().sample_id)?;
        self.transfers.send(id).await.map(Response::new)
    }
}

fn worker_of(id: String) -> Result<WorkerId, Status> {
    WorkerId::new(id).map_err(|error| Status::invalid_argument(error.to_string()))
}
