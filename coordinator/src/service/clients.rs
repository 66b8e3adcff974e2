//! The service for those who launch searches.

use super::error::{invalid, refused};
use super::samples::Transfers;
use super::watch::{MESSAGES_AHEAD, Watcher};
use crate::engine::{Core, Engine, EngineError, Now};
use ropewalk_shared::job::JobSpec;
use ropewalk_shared::sample::SampleId;
use ropewalk_shared::status::JobStatus;
use ropewalk_shared::wire::pb;
use ropewalk_shared::wire::pb::ropewalk_server::Ropewalk;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Ids asked about in one request.
const MAX_IDS: usize = 20_000;

/// The client-facing service.
#[derive(Debug)]
pub(super) struct Clients {
    pub engine: Engine,
    pub transfers: Transfers,
    pub closing: watch::Receiver<bool>,
}

// === impl Clients ===

impl Clients {
    async fn status(
        &self,
        command: impl FnOnce(&mut Core, Now) -> Result<JobStatus, EngineError> + Send + 'static,
    ) -> Result<Response<pb::JobStatus>, Status> {
        let status = self.engine.durable(command).await.map_err(refused)?;
        Ok(Response::new((&status).into()))
    }
}

#[tonic::async_trait]
impl Ropewalk for Clients {
    type WatchJobStream = ReceiverStream<Result<pb::WatchJobResponse, Status>>;

    async fn missing_samples(
        &self,
        request: Request<pb::MissingSamplesRequest>,
    ) -> Result<Response<pb::MissingSamplesResponse>, Status> {
        let ids = request.into_inner().sample_ids;
        if ids.len() > MAX_IDS {
            let message = format!("{} sample ids in one request, at most {MAX_IDS} are accepted", ids.len());
            return Err(Status::invalid_argument(message));
        }
        let ids = ids.iter().map(|id| sample_id(id)).collect::<Result<_, _>>()?;
        let missing = self.transfers.missing(ids).await?;
        let sample_ids = missing.iter().map(|id| id.as_bytes().to_vec()).collect();
        Ok(Response::new(pb::MissingSamplesResponse { sample_ids }))
    }

    async fn put_sample(
        &self,
        request: Request<Streaming<pb::SampleChunk>>,
    ) -> Result<Response<pb::PutSampleResponse>, Status> {
        let id = self.transfers.receive(request.into_inner()).await?;
        Ok(Response::new(pb::PutSampleResponse { sample_id: id.as_bytes().to_vec() }))
    }

    async fn launch_job(
        &self,
        request: Request<pb::LaunchJobRequest>,
    ) -> Result<Response<pb::LaunchJobResponse>, Status> {
        let spec = request.into_inner().spec.ok_or_else(|| Status::invalid_argument("field spec: is missing"))?;
        let spec = JobSpec::try_from(spec).map_err(invalid)?;
        let launched = self.engine.durable(move |core, now| core.launch(spec, now)).await.map_err(refused)?;
        Ok(Response::new(pb::LaunchJobResponse { job_id: launched.job.to_string(), created: launched.created }))
    }

    async fn list_jobs(
        &self,
        _request: Request<pb::ListJobsRequest>,
    ) -> Result<Response<pb::ListJobsResponse>, Status> {
        let jobs = self.engine.durable(|core, now| Ok(core.statuses(now))).await.map_err(refused)?;
        Ok(Response::new(pb::ListJobsResponse { jobs: jobs.iter().map(Into::into).collect() }))
    }

    async fn get_job(&self, request: Request<pb::GetJobRequest>) -> Result<Response<pb::JobStatus>, Status> {
        let job = request.into_inner().job_id;
        self.status(move |core, now| core.status(&job, now).map(|(status, _)| status)).await
    }

    async fn watch_job(&self, request: Request<pb::WatchJobRequest>) -> Result<Response<Self::WatchJobStream>, Status> {
        let pb::WatchJobRequest { job_id, from_sequence } = request.into_inner();
        let named = self.engine.durable(move |core, now| core.status(&job_id, now)).await;
        let (status, _) = named.map_err(refused)?;
        let (sender, receiver) = mpsc::channel(MESSAGES_AHEAD);
        let watcher = Watcher {
            engine: self.engine.clone(),
            job: status.job_id,
            next: from_sequence.max(1),
            sender,
            closing: self.closing.clone(),
        };
        tokio::spawn(watcher.run());
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn pause_job(&self, request: Request<pb::PauseJobRequest>) -> Result<Response<pb::JobStatus>, Status> {
        let job = request.into_inner().job_id;
        self.status(move |core, now| core.set_paused(&job, true, now)).await
    }

    async fn resume_job(&self, request: Request<pb::ResumeJobRequest>) -> Result<Response<pb::JobStatus>, Status> {
        let job = request.into_inner().job_id;
        self.status(move |core, now| core.set_paused(&job, false, now)).await
    }

    async fn cancel_job(&self, request: Request<pb::CancelJobRequest>) -> Result<Response<pb::JobStatus>, Status> {
        let job = request.into_inner().job_id;
        self.status(move |core, now| core.cancel(&job, now)).await
    }

    async fn get_result(
        &self,
        request: Request<pb::GetResultRequest>,
    ) -> Result<Response<pb::GetResultResponse>, Status> {
        let job = request.into_inner().job_id;
        let result = self.engine.durable(move |core, now| core.result(&job, now)).await.map_err(refused)?;
        Ok(Response::new(pb::GetResultResponse {
            complete: result.complete,
            factors_json: result.factors_json,
            config_json: result.config_json,
            history_json: result.history_json,
        }))
    }

    async fn list_workers(
        &self,
        _request: Request<pb::ListWorkersRequest>,
    ) -> Result<Response<pb::ListWorkersResponse>, Status> {
        let workers = self.engine.durable(|core, now| Ok(core.workers(now))).await.map_err(refused)?;
        Ok(Response::new(pb::ListWorkersResponse { workers: workers.iter().map(Into::into).collect() }))
    }
}

/// A sample id from outside.
pub(super) fn sample_id(bytes: &[u8]) -> Result<SampleId, Status> {
    let id: Result<[u8; 32], _> = bytes.try_into();
    let message = || Status::invalid_argument(format!("a sample id has 32 bytes, this one has {}", bytes.len()));
    id.map(SampleId::from).map_err(|_| message())
}
