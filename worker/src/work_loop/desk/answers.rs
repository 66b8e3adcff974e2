//! What the coordinator's answers, and its silence, change.

use super::super::WorkerError;
use super::super::fetch::FetchError;
use super::super::link::{Meaning, untrusted};
use super::calls::Returned;
use super::{Desk, MOST_FETCH_FAILURES};
use ropewalk_shared::outcome::{FailureKind, UnitFailure};
use ropewalk_shared::sample::{Sample, SampleId};
use ropewalk_shared::wire::connection::AccessError;
use ropewalk_shared::wire::pb;
use ropewalk_shared::wire::pb::report_response::Verdict;
use ropewalk_shared::work::{LeaseId, Registration, Unit};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tonic::Status;

/// Pause after an empty answer that came sooner than it should.
const PAUSE: Duration = Duration::from_millis(500);

impl Desk {
    /// Takes in the answer to a call.
    ///
    /// # Errors
    /// When the token is refused, or the first registration.
    pub(super) fn answered(&mut self, (session, returned): (u64, Returned)) -> Result<(), WorkerError> {
        if let Some(status) = returned.failure() {
            self.check_access(status)?;
        }
        // Answers to somebody this worker is no longer carry no news.
        let current = session == self.link.session();
        match returned {
            Returned::Registered(result) => return self.registered(result),
            Returned::Fetched(id, result) => self.fetched(id, result),
            Returned::Reported(numbers, result) => {
                self.calls.reporting = false;
                match result {
                    Ok(response) => self.reported(&numbers, &response),
                    Err(status) => self.not_reported(&numbers, &status, current),
                }
            }
            Returned::Beaten(result) => {
                self.calls.beating = false;
                match result {
                    _ if !current => {}
                    Ok(response) => self.beaten(&response),
                    Err(status) => self.failed("heartbeat", &status),
                }
            }
            Returned::Leased(result) if current => match result {
                Ok(response) => self.leased(response),
                Err(status) => self.not_leased(&status),
            },
            Returned::Leased(_) => {}
        }
        Ok(())
    }

    /// Whether trying again makes sense, as far as access is concerned.
    fn check_access(&self, status: &Status) -> Result<(), WorkerError> {
        let url = || self.link.url().to_owned();
        if Meaning::of(status) == Meaning::Denied {
            return Err(AccessError::Denied { url: url(), reason: status.message().to_owned() }.into());
        }
        // A certificate that was once accepted may just be being renewed.
        match untrusted(status) {
            Some(problem) if self.link.session() == 0 => Err(AccessError::Tls { url: url(), problem }.into()),
            _ => Ok(()),
        }
    }

    fn registered(&mut self, result: Result<pb::RegisterResponse, Status>) -> Result<(), WorkerError> {
        self.calls.registering = false;
        let refused = |url: &str, reason: String| Err(WorkerError::Refused { url: url.to_owned(), reason });
        match result.map(Registration::try_from) {
            Ok(Ok(registration)) => {
                tracing::info!(
                    coordinator = self.link.url(),
                    worker = %registration.worker,
                    lease = ?registration.lease,
                    "registered"
                );
                self.calls.beat_at = Instant::now() + registration.heartbeat;
                self.link.registered(registration);
            }
            Ok(Err(error)) => return refused(self.link.url(), error.to_string()),
            Err(status) if self.link.session() == 0 && Meaning::of(&status) == Meaning::Refused => {
                return refused(self.link.url(), status.message().to_owned());
            }
            Err(status) => self.link.failed("register", &status, self.stopping.is_some()),
        }
        Ok(())
    }

    fn beaten(&mut self, response: &pb::HeartbeatResponse) {
        self.link.served();
        if !response.revoked.is_empty() {
            tracing::debug!(leases = ?response.revoked, "leases are no longer wanted");
        }
        response.revoked.iter().for_each(|lease| self.held.revoke(LeaseId(*lease)));
    }

    fn leased(&mut self, response: pb::LeaseResponse) {
        self.link.served();
        let Some(call) = self.calls.lease.take() else { return };
        // The coordinator gives units of a model again once it was named as missing and then no more.
        self.unnamed.retain(|model| !call.request.missing.contains(model));
        if response.units.is_empty() && call.sent.elapsed() < call.request.wait.min(PAUSE) {
            self.calls.lease_at = Some(Instant::now() + PAUSE);
        }
        for unit in response.units {
            let lease = unit.lease_id;
            match Unit::try_from(unit) {
                Ok(unit) => self.held.add(unit),
                // It goes to another worker when the lease expires; here nothing can be done with it.
                Err(error) => tracing::error!(lease, "the coordinator sent a unit that makes no sense: {error}"),
            }
        }
        if self.stopping.is_some() {
            self.summary.handed_back += self.held.hand_back_waiting() as u64;
        } else if self.gate.is_shut() {
            self.hand_back_for_training();
        }
    }

    fn not_leased(&mut self, status: &Status) {
        if let Some(call) = &mut self.calls.lease {
            call.running = None;
        }
        if Meaning::of(status) == Meaning::Refused {
            // The same request would be refused again.
            self.calls.lease = None;
        }
        self.failed("lease", status);
    }

    fn reported(&mut self, numbers: &[u64], response: &pb::ReportResponse) {
        self.link.served();
        self.held.acknowledged(numbers);
        for verdict in response.verdicts() {
            match verdict {
                Verdict::Accepted | Verdict::Duplicate => {}
                Verdict::NotWanted => tracing::debug!("a result is no longer wanted"),
                Verdict::Conflict => tracing::warn!("a result differs from the one that another evaluation gave"),
                Verdict::Refused | Verdict::Unspecified => tracing::error!("the coordinator refused a result"),
            }
        }
    }

    fn not_reported(&mut self, numbers: &[u64], status: &Status, current: bool) {
        if current && Meaning::of(status) == Meaning::Refused {
            // It would be refused for ever, and everything behind it held up.
            tracing::error!(count = numbers.len(), "the coordinator refused a report: {}", status.message());
            self.held.acknowledged(numbers);
            return;
        }
        self.held.not_acknowledged(numbers);
        if current {
            self.failed("report", status);
        }
    }

    fn fetched(&mut self, id: SampleId, result: Result<Sample, FetchError>) {
        self.calls.fetching.remove(&id);
        match result {
            Ok(sample) => {
                self.unfetched.remove(&id);
                self.samples.insert(id, Arc::new(sample));
            }
            Err(FetchError::Call(status)) if self.may_come(id, &status) => {
                self.link.failed("get-sample", &status, self.stopping.is_some());
            }
            Err(error) => {
                self.unfetched.remove(&id);
                tracing::warn!("{error}");
                let queued = self.held.queued().filter(|(_, unit)| unit.sample == id);
                let numbers: Vec<u64> = queued.map(|(number, _)| number).collect();
                for number in numbers {
                    self.summary.failures += 1;
                    let failure = UnitFailure { kind: FailureKind::SampleUnavailable, reason: error.to_string() };
                    self.held.fail(number, failure);
                }
            }
        }
    }

    /// Whether it makes sense to ask for a sample again. Where everything else gets through, what it is that does not is the
    /// sample, and units that wait for it would keep all others waiting.
    fn may_come(&mut self, id: SampleId, status: &Status) -> bool {
        if Meaning::of(status) == Meaning::Refused {
            return false;
        }
        if self.link.is_down() {
            return true;
        }
        let failures = self.unfetched.entry(id).or_default();
        *failures += 1;
        *failures < MOST_FETCH_FAILURES
    }

    /// A call of a registered worker failed.
    fn failed(&mut self, call: &str, status: &Status) {
        if Meaning::of(status) != Meaning::Forgotten {
            return self.link.failed(call, status, self.stopping.is_some());
        }
        self.link.forgotten();
        self.held.forget_leases();
        if let Some(running) = self.calls.lease.take().and_then(|lease| lease.running) {
            running.abort();
        }
    }
}
