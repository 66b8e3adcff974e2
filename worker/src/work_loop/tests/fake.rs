//! A coordinator that does as it is told, and remembers what it was sent.

use ropewalk_shared::sample::Sample;
use ropewalk_shared::wire::pb::work_server::{Work, WorkServer};
use ropewalk_shared::wire::{chunks, pb};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic::{Code, Request, Response, Status};

/// What the fake knows and what it was told to do.
#[derive(Default)]
pub(super) struct State {
    pub(super) units: VecDeque<pb::Unit>,
    pub(super) samples: HashMap<Vec<u8>, Vec<pb::SampleChunk>>,
    pub(super) reports: Vec<pb::UnitReport>,
    pub(super) registrations: u64,
    pub(super) sample_requests: u64,
    /// Samples that cannot be read for now, whenever that is.
    pub(super) unreadable: Vec<Vec<u8>>,
    pub(super) lease_requests: Vec<pb::LeaseRequest>,
    /// Leases that the next heartbeat revokes.
    pub(super) revoked: Vec<u64>,
    pub(super) heartbeats: Vec<pb::HeartbeatRequest>,
    /// Codes that the next calls of any kind fail with, registrations too.
    pub(super) failures: VecDeque<Code>,
    pub(super) heartbeat_ms: u64,
    leases: HashMap<(String, u64), Vec<pb::Unit>>,
    worker: Option<String>,
}

/// The service; clones share their state.
#[derive(Clone, Default)]
pub(super) struct Fake(Arc<Mutex<State>>);

/// A fake at an address.
pub(super) struct Served {
    pub(super) address: SocketAddr,
    server: JoinHandle<()>,
}

impl Fake {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Keeps a sample, so that it can be fetched.
    pub(super) fn hold(&self, sample: &Sample) {
        let chunks = chunks(sample.id(), sample).collect();
        self.state().samples.insert(sample.id().as_bytes().to_vec(), chunks);
    }

    /// Serves at the address; port 0 takes a free one.
    pub(super) async fn serve(&self, address: &str) -> Served {
        self.serve_with(address, |server| server).await
    }

    /// Serves at the address, and more services with it.
    pub(super) async fn serve_with(&self, address: &str, more: impl FnOnce(Router) -> Router) -> Served {
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = more(Server::builder().add_service(WorkServer::new(self.clone())));
        let server =
            tokio::spawn(async move { router.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap() });
        Served { address, server }
    }

    /// Waits until the state is as wanted.
    pub(super) async fn until(&self, what: &str, wanted: impl Fn(&State) -> bool) {
        let reached = async {
            while !wanted(&self.state()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(tokio::time::timeout(Duration::from_secs(30), reached).await.is_ok(), "{what} did not come about");
    }

    /// Fails when told to, or when the worker is not known.
    fn check(&self, worker: Option<&str>) -> Result<MutexGuard<'_, State>, Status> {
        let mut state = self.state();
        match state.failures.pop_front() {
            Some(Code::Ok) | None => {}
            Some(code) => {
                if code == Code::NotFound {
                    state.worker = None;
                }
                return Err(Status::new(code, "as told"));
            }
        }
        match worker {
            Some(worker) if state.worker.as_deref() != Some(worker) => Err(Status::not_found("no such worker")),
            _ => Ok(state),
        }
    }
}

impl Served {
    /// Ends it without farewell.
    pub(super) async fn kill(mut self) {
        self.server.abort();
        let _ = (&mut self.server).await;
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.server.abort();
    }
}

#[tonic::async_trait]
impl Work for Fake {
    async fn register(&self, _: Request<pb::RegisterRequest>) -> Result<Response<pb::RegisterResponse>, Status> {
        let mut state = self.check(None)?;
        state.registrations += 1;
        let worker_id = format!("w1-{}", state.registrations);
        state.worker = Some(worker_id.clone());
        let heartbeat_ms = if state.heartbeat_ms == 0 { 50 } else { state.heartbeat_ms };
        Ok(Response::new(pb::RegisterResponse { worker_id, lease_ms: 10 * heartbeat_ms, heartbeat_ms }))
    }

    async fn lease(&self, request: Request<pb::LeaseRequest>) -> Result<Response<pb::LeaseResponse>, Status> {
        let request = request.into_inner();
        let key = (request.worker_id.clone(), request.request_id);
        self.check(Some(&request.worker_id))?.lease_requests.push(request.clone());
        let deadline = tokio::time::Instant::now() + Duration::from_millis(request.wait_ms);
        loop {
            {
                let mut state = self.state();
                if let Some(units) = state.leases.get(&key) {
                    return Ok(Response::new(pb::LeaseResponse { units: units.clone() }));
                }
                let wanted = |unit: &pb::Unit| !request.missing_models.contains(&unit.model_fingerprint);
                let at = state.units.iter().position(wanted);
                if let Some(first) = at.and_then(|at| state.units.remove(at)) {
                    let mut units = vec![first];
                    while units.len() < request.max_units as usize {
                        let Some(at) = state.units.iter().position(wanted) else { break };
                        units.extend(state.units.remove(at));
                    }
                    state.leases.insert(key, units.clone());
                    return Ok(Response::new(pb::LeaseResponse { units }));
                }
            }
            if tokio::time::Instant::now() >= deadline {
                return Ok(Response::new(pb::LeaseResponse::default()));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn heartbeat(
        &self,
        request: Request<pb::HeartbeatRequest>,
    ) -> Result<Response<pb::HeartbeatResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.check(Some(&request.worker_id))?;
        state.heartbeats.push(request);
        let revoked = std::mem::take(&mut state.revoked);
        Ok(Response::new(pb::HeartbeatResponse { revoked }))
    }

    async fn report(&self, request: Request<pb::ReportRequest>) -> Result<Response<pb::ReportResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.check(Some(&request.worker_id))?;
        let verdicts = vec![pb::report_response::Verdict::Accepted.into(); request.reports.len()];
        state.reports.extend(request.reports);
        Ok(Response::new(pb::ReportResponse { verdicts }))
    }

    type GetSampleStream = tokio_stream::Iter<std::vec::IntoIter<Result<pb::SampleChunk, Status>>>;

    async fn get_sample(
        &self,
        request: Request<pb::GetSampleRequest>,
    ) -> Result<Response<Self::GetSampleStream>, Status> {
        let mut state = self.check(None)?;
        state.sample_requests += 1;
        let id = request.into_inner().sample_id;
        if state.unreadable.contains(&id) {
            return Err(Status::unavailable("a bad sector"));
        }
        let chunks = state.samples.get(&id).cloned();
        let chunks: Vec<_> = chunks.ok_or_else(|| Status::not_found("no such sample"))?.into_iter().map(Ok).collect();
        Ok(Response::new(tokio_stream::iter(chunks)))
    }
}
