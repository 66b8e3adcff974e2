//! The connection to the coordinator: as whom, since when in trouble, and when to try again.

use super::WorkerError;
use super::backoff::Backoff;
use ropewalk_shared::access::Access;
use ropewalk_shared::wire::connection::{Bearer, Calls, TlsProblem, endpoint, root_cause, tls_problem, with_scheme};
use ropewalk_shared::wire::pb::training_client::TrainingClient;
use ropewalk_shared::wire::pb::work_client::WorkClient;
use ropewalk_shared::work::Registration;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::{Duration, Instant};
use tonic::{Code, Status};

/// A full answer to a lease request stays far below: 1,024 units of a model with 8,192 rotary pairs.
const MAX_MESSAGE_BYTES: usize = 80 << 20;

/// A connection that is made when it is needed, and made again when it broke.
#[derive(Debug)]
pub(super) struct Link {
    url: String,
    calls: Calls,
    /// As whom; absent before the first registration and after having been forgotten.
    registration: Option<Registration>,
    /// Counts registrations, so that answers meant for an earlier one can be told apart.
    session: u64,
    /// Nothing is sent before.
    retry_at: Option<Instant>,
    backoff: Backoff,
    trouble: Option<Trouble>,
}

/// Why nothing gets through.
#[derive(Debug)]
struct Trouble {
    since: Instant,
    last: String,
}

/// What a failed call means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The coordinator does not know this worker: it restarted, or gave it up. Register again.
    Forgotten,
    /// Without the coordinator's token nothing is answered, now or later.
    Denied,
    /// The request itself is refused, and will be the next time.
    Refused,
    /// Anything that may be over soon.
    Passing,
}

// === impl Link ===

impl Link {
    /// A link to the coordinator at this URL; `http://` may be left out. Nothing is sent yet.
    pub(super) fn new(url: &str, access: &Access) -> Result<Self, WorkerError> {
        let invalid = |reason: String| WorkerError::Address { url: url.to_owned(), reason };
        let endpoint = endpoint(url, access).map_err(invalid)?;
        if endpoint.uri().port().is_none() {
            return Err(invalid("it has no port".to_owned()));
        }
        let full = with_scheme(url);
        let channel = endpoint
            .connect_timeout(Duration::from_secs(5))
            // A coordinator whose machine vanished sends no farewell.
            .http2_keep_alive_interval(Duration::from_secs(15))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true)
            .connect_lazy();
        Ok(Self {
            url: full,
            calls: Calls::new(channel, Bearer::of(access.token.as_ref())),
            registration: None,
            session: 0,
            retry_at: None,
            backoff: Backoff::default(),
            trouble: None,
        })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Calls about units.
    pub(super) fn client(&self) -> WorkClient<Calls> {
        WorkClient::new(self.calls.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Calls about trainings.
    pub(super) fn trainings(&self) -> TrainingClient<Calls> {
        TrainingClient::new(self.calls.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    pub(super) fn registration(&self) -> Option<&Registration> {
        self.registration.as_ref()
    }

    pub(super) fn session(&self) -> u64 {
        self.session
    }

    /// When calls may be made again; `None` for now.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.retry_at.filter(|at| *at > Instant::now())
    }

    /// Whether the last call failed.
    pub(super) fn is_down(&self) -> bool {
        self.trouble.is_some()
    }

    /// What the last failure said.
    pub(super) fn last_trouble(&self) -> &str {
        self.trouble.as_ref().map_or("no answer yet", |trouble| &trouble.last)
    }

    /// The coordinator took this worker in.
    pub(super) fn registered(&mut self, registration: Registration) {
        self.session += 1;
        self.registration = Some(registration);
        self.recovered();
        // The pauses go on growing until a registered worker was served, so that one that is forgotten
        // at every turn does not register in a tight loop.
    }

    /// The coordinator does not know this worker any more.
    pub(super) fn forgotten(&mut self) {
        tracing::info!(coordinator = self.url, "the coordinator does not know this worker: registering again");
        self.registration = None;
        self.session += 1;
        self.pause();
    }

    /// A call of a registered worker was answered.
    pub(super) fn served(&mut self) {
        self.recovered();
        self.backoff.reset();
    }

    /// A call failed: nothing is sent until a pause is over. `quiet` where nobody needs to be told.
    pub(super) fn failed(&mut self, call: &str, status: &Status, quiet: bool) {
        let (now, pause) = (Instant::now(), self.pause());
        let last = describe(status);
        match &mut self.trouble {
            // Said once; the rest is for those who look closer.
            None => {
                if !quiet {
                    tracing::warn!(coordinator = self.url, call, "no answer ({last}); trying again until there is one");
                }
                self.trouble = Some(Trouble { since: now, last });
            }
            Some(trouble) => {
                tracing::debug!(coordinator = self.url, call, ?pause, "still no answer ({last})");
                trouble.last = last;
            }
        }
    }

    fn pause(&mut self) -> Duration {
        let pause = self.backoff.next(random_fraction());
        self.retry_at = Some(Instant::now() + pause);
        pause
    }

    fn recovered(&mut self) {
        self.retry_at = None;
        if let Some(trouble) = self.trouble.take() {
            tracing::info!(coordinator = self.url, after = ?trouble.since.elapsed(), "the coordinator answers again");
        }
    }
}

// === impl Meaning ===

impl Meaning {
    /// Of a call of a registered worker.
    pub(super) fn of(status: &Status) -> Self {
        match status.code() {
            Code::NotFound | Code::FailedPrecondition => Self::Forgotten,
            Code::Unauthenticated => Self::Denied,
            Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented | Code::PermissionDenied => Self::Refused,
            _ => Self::Passing,
        }
    }
}

/// The innermost cause of a status: tonic itself says only "transport error".
fn describe(status: &Status) -> String {
    match std::error::Error::source(status).map(root_cause) {
        // What the beginning of TLS looks like to HTTP/2.
        Some(cause) if cause.contains("frame with invalid size") => {
            format!("{cause}; if it serves with TLS, its address begins with https://")
        }
        Some(cause) => cause,
        None if status.message().is_empty() => status.code().to_string(),
        None => status.message().to_owned(),
    }
}

/// What is wrong with TLS, if that is why a call failed.
pub(super) fn untrusted(status: &Status) -> Option<TlsProblem> {
    std::error::Error::source(status).and_then(tls_problem)
}

/// Uniform in 0..1.
fn random_fraction() -> f64 {
    // The keys of a hasher are random, and that is all the chance that is needed here.
    RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_are_checked_at_once() {
        for (given, url) in [
            ("http://host:7311", "http://host:7311"),
            ("https://host:7311", "https://host:7311"),
            ("127.0.0.1:1", "http://127.0.0.1:1"),
        ] {
            assert_eq!(Link::new(given, &Access::default()).unwrap().url(), url);
        }
        for (given, fragment) in [("ftp://host:1", "ftp:// is not"), ("http://host", "no port"), ("", ""), ("a b", "")]
        {
            let error = Link::new(given, &Access::default()).unwrap_err().to_string();
            assert!(error.contains(fragment) && error.contains("http://127.0.0.1:7311"), "{error}");
        }
    }

    #[tokio::test]
    async fn trouble_ends_with_an_answer() {
        let mut link = Link::new("127.0.0.1:1", &Access::default()).unwrap();
        link.failed("lease", &Status::unavailable("connection refused"), false);
        assert!(link.is_down() && link.retry_at().is_some());
        assert_eq!(link.last_trouble(), "connection refused");
        link.served();
        assert!(!link.is_down() && link.retry_at().is_none());
    }

    #[test]
    fn chance_is_a_fraction() {
        assert!((0..100).all(|_| (0.0..=1.0).contains(&random_fraction())));
    }
}
