//! Calls to the coordinator: which are under way, and starting those that are due.

use super::super::fetch::{FetchError, fetch};
use super::super::link::Link;
use super::Desk;
use ropewalk_shared::sample::{Sample, SampleId};
use ropewalk_shared::wire::pb;
use ropewalk_shared::work::{LeaseRequest, WorkerProfile};
use std::collections::HashSet;
use std::time::{Duration, Instant};
use tokio::task::{AbortHandle, JoinSet};
use tonic::{Response, Status};

/// How long the coordinator may hold a lease request until there is work.
const LEASE_WAIT: Duration = Duration::from_secs(20);
/// Beyond that, for the answer to arrive.
const ANSWER: Duration = Duration::from_secs(20);
/// How long a worker that ends tries to say so.
const FAREWELL: Duration = Duration::from_secs(2);
/// Most outcomes in one report.
const MAX_REPORTS: usize = 256;
/// Most samples fetched at a time.
const MAX_FETCHES: usize = 2;

/// A call that ended.
pub(super) enum Returned {
    Registered(Result<pb::RegisterResponse, Status>),
    Leased(Result<pb::LeaseResponse, Status>),
    Beaten(Result<pb::HeartbeatResponse, Status>),
    Reported(Vec<u64>, Result<pb::ReportResponse, Status>),
    Fetched(SampleId, Result<Sample, FetchError>),
}

impl Returned {
    /// How the call failed, if it did.
    pub(super) fn failure(&self) -> Option<&Status> {
        match self {
            Self::Registered(result) => result.as_ref().err(),
            Self::Leased(result) => result.as_ref().err(),
            Self::Beaten(result) => result.as_ref().err(),
            Self::Reported(_, result) => result.as_ref().err(),
            Self::Fetched(_, Err(FetchError::Call(status))) => Some(status),
            Self::Fetched(..) => None,
        }
    }
}

/// The calls under way; one of a kind but for fetches.
pub(super) struct Calls {
    /// Each with the session it was made in.
    running: JoinSet<(u64, Returned)>,
    pub(super) registering: bool,
    pub(super) beating: bool,
    pub(super) reporting: bool,
    pub(super) lease: Option<LeaseCall>,
    pub(super) fetching: HashSet<SampleId>,
    pub(super) next_request: u64,
    pub(super) beat_at: Instant,
    /// No lease request before.
    pub(super) lease_at: Option<Instant>,
}

/// A lease request that was not answered yet. It keeps its id until it is: the coordinator may have answered already.
pub(super) struct LeaseCall {
    pub(super) request: LeaseRequest,
    pub(super) sent: Instant,
    /// Absent while it waits to be sent again.
    pub(super) running: Option<AbortHandle>,
}

impl Default for Calls {
    fn default() -> Self {
        Self {
            running: JoinSet::new(),
            registering: false,
            beating: false,
            reporting: false,
            lease: None,
            fetching: HashSet::new(),
            next_request: 1,
            beat_at: Instant::now(),
            lease_at: None,
        }
    }
}

// === impl Calls ===

impl Calls {
    /// The next call that ends, with the session it was made in. Never ready when there is none.
    pub(super) async fn next(&mut self) -> (u64, Returned) {
        loop {
            match self.running.join_next().await {
                Some(Ok(returned)) => return returned,
                Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                // Recalled.
                Some(Err(_)) => {}
                None => std::future::pending().await,
            }
        }
    }

    pub(super) fn is_leasing(&self) -> bool {
        self.lease.is_some()
    }

    pub(super) fn beat_at(&self) -> Instant {
        self.beat_at
    }

    pub(super) fn lease_at(&self) -> Option<Instant> {
        self.lease_at
    }

    fn start<T>(
        &mut self,
        link: &Link,
        limit: Duration,
        call: impl Future<Output = Result<Response<T>, Status>> + Send + 'static,
        returned: impl FnOnce(Result<T, Status>) -> Returned + Send + 'static,
    ) -> AbortHandle {
        let session = link.session();
        self.running.spawn(async move {
            let late = |_| Err(Status::deadline_exceeded(format!("no answer within {limit:?}")));
            let answer = tokio::time::timeout(limit, call).await.unwrap_or_else(late);
            (session, returned(answer.map(Response::into_inner)))
        })
    }
}

// === impl Desk ===

impl Desk {
    pub(super) fn register(&mut self) {
        if self.calls.registering || self.stopping.is_some() {
            return;
        }
        self.calls.registering = true;
        let profile = WorkerProfile {
            name: self.config.name.clone(),
            device: self.config.devices.to_string(),
            dtype: self.config.dtype.to_string(),
            max_tokens: self.config.capacity(),
            max_gradient_tokens: self.config.gradient_capacity(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let (mut client, request) = (self.link.client(), pb::RegisterRequest::from(&profile));
        let call = async move { client.register(request).await };
        self.calls.start(&self.link, ANSWER, call, Returned::Registered);
    }

    /// Sends what is finished: alone when it comes alone, together when it gathered while the last report was out.
    pub(super) fn report(&mut self) {
        let Some(registration) = self.link.registration() else { return };
        if self.calls.reporting || !self.held.has_reports() {
            return;
        }
        self.calls.reporting = true;
        let (numbers, reports) = self.held.reports(MAX_REPORTS);
        let request = pb::ReportRequest {
            worker_id: registration.worker.to_string(),
            reports: reports.iter().map(pb::UnitReport::from).collect(),
        };
        let mut client = self.link.client();
        let call = async move { client.report(request).await };
        self.calls.start(&self.link, ANSWER, call, move |result| Returned::Reported(numbers, result));
    }

    pub(super) fn beat(&mut self, now: Instant) {
        let Some(registration) = self.link.registration() else { return };
        if self.calls.beating || now < self.calls.beat_at {
            return;
        }
        self.calls.beating = true;
        self.calls.beat_at = now + registration.heartbeat;
        // Late ones are given up for the next.
        let limit = registration.lease.max(registration.heartbeat);
        let request = pb::HeartbeatRequest {
            worker_id: registration.worker.to_string(),
            lease_ids: self.held.leases().map(|lease| lease.0).collect(),
            leaving: false,
        };
        let mut client = self.link.client();
        let call = async move { client.heartbeat(request).await };
        self.calls.start(&self.link, limit, call, Returned::Beaten);
        // At the pace of heartbeats is often enough to notice that units became longer.
        let surplus = self.pace.surplus(self.held.open(), self.held.running_for(now));
        self.hand_back(surplus);
    }

    /// Tells the coordinator that nothing more comes from here, so that it need not find out. Where it cannot be told, it will.
    pub(super) async fn farewell(&self) {
        let Some(registration) = self.link.registration().filter(|_| !self.link.is_down()) else { return };
        let worker_id = registration.worker.to_string();
        let request = pb::HeartbeatRequest { worker_id, lease_ids: Vec::new(), leaving: true };
        let _ = tokio::time::timeout(FAREWELL, self.link.client().heartbeat(request)).await;
    }

    fn hand_back(&mut self, count: usize) {
        if count > 0 {
            tracing::debug!(count, "units take longer than those before: some go back");
            self.summary.handed_back += count as u64;
            self.held
                .hand_back(count, "units turned out to take longer than expected; others may have time for this one");
        }
    }

    /// Fetches the samples that queued units need, the first needed first.
    pub(super) fn fetch(&mut self) {
        let mut wanted = Vec::new();
        for (_, unit) in self.held.queued() {
            let known = self.calls.fetching.contains(&unit.sample) || wanted.contains(&(unit.sample, unit.tokens));
            if !known
                && self.calls.fetching.len() + wanted.len() < MAX_FETCHES
                && self.samples.get(&unit.sample).is_none()
            {
                wanted.push((unit.sample, unit.tokens));
            }
        }
        for (id, tokens) in wanted {
            self.calls.fetching.insert(id);
            let (client, session) = (self.link.client(), self.link.session());
            self.calls.running.spawn(async move { (session, Returned::Fetched(id, fetch(client, id, tokens).await)) });
        }
    }

    /// Asks for more work, or again for what was not answered.
    pub(super) fn lease(&mut self, now: Instant) {
        let Some(registration) = self.link.registration() else { return };
        if self.calls.lease.as_ref().is_some_and(|lease| lease.running.is_some()) {
            return;
        }
        let mut request = match self.calls.lease.take() {
            Some(unanswered) => unanswered.request,
            None => {
                if self.is_leasing_nothing() || self.calls.lease_at.is_some_and(|at| now < at) {
                    return;
                }
                let max_units = self.pace.wanted(self.held.open(), self.held.running_for(now)) as u32;
                if max_units == 0 {
                    return;
                }
                self.calls.next_request += 1;
                let missing =
                    self.missing.iter().chain(self.unnamed.iter().filter(|model| !self.missing.contains(model)));
                LeaseRequest {
                    worker: registration.worker.clone(),
                    request_id: self.calls.next_request,
                    max_units,
                    wait: LEASE_WAIT,
                    loaded: self.loaded.into_iter().collect(),
                    missing: missing.copied().collect(),
                }
            }
        };
        if self.is_leasing_nothing() {
            request.wait = Duration::ZERO;
        }
        let (mut client, message) = (self.link.client(), pb::LeaseRequest::from(&request));
        let call = async move { client.lease(message).await };
        let running = self.calls.start(&self.link, request.wait + ANSWER, call, Returned::Leased);
        self.calls.lease_at = None;
        self.calls.lease = Some(LeaseCall { request, sent: now, running: Some(running) });
    }

    /// Calls back a lease request that waits for work. It is sent once more, without waiting: leases that were given
    /// just now must be handed back, or they would be missed until they expire.
    pub(super) fn recall_lease(&mut self) {
        if let Some(running) = self.calls.lease.as_mut().and_then(|lease| lease.running.take()) {
            running.abort();
        }
    }
}
