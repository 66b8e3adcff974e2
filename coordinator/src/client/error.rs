//! What can go wrong between a client and its coordinator.

use ropewalk_shared::wire::connection::{AccessError, root_cause, tls_problem};
use tonic::{Code, Status};

/// A call that did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Not an address.
    #[error("{url:?} is no coordinator address: {reason}; give for example http://127.0.0.1:7311")]
    Url {
        /// What was given.
        url: String,
        /// Why it is none.
        reason: String,
    },
    /// Nobody answers.
    #[error(
        "no coordinator answers at {url}: {reason}; start one with `ropewalk serve`, or correct the address (--coordinator)"
    )]
    Unreachable {
        /// The address.
        url: String,
        /// What the system says.
        reason: String,
    },
    /// The connection broke, or the coordinator cannot serve now. The same call may succeed later.
    #[error("the coordinator at {url} is not available: {reason}; try again, and see its log if it stays so")]
    Unavailable {
        /// The address.
        url: String,
        /// What is known.
        reason: String,
    },
    /// One of both cannot show who it is.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The coordinator answered no, with its reason.
    #[error("{message}")]
    Refused {
        /// Which kind of no.
        code: Code,
        /// The reason, and what to do.
        message: String,
    },
    /// The answer makes no sense to this version.
    #[error("the coordinator's answer cannot be read: {0}; use the same version of ropewalk on both sides")]
    Answer(String),
}

// === impl ClientError ===

impl ClientError {
    /// Whether the request itself was wrong.
    pub fn is_input(&self) -> bool {
        match self {
            Self::Url { .. } | Self::Access(_) => true,
            Self::Refused { code, .. } => matches!(code, Code::NotFound | Code::InvalidArgument),
            _ => false,
        }
    }

    /// Whether the coordinator or its caller cannot show who they are.
    pub fn is_access(&self) -> bool {
        matches!(self, Self::Access(_))
    }

    /// Whether the same call may succeed later, unchanged.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Unavailable { .. })
    }
}

/// For `map_err`: what a status means to the caller.
pub(super) fn refused(url: &str) -> impl Fn(Status) -> ClientError {
    move |status| match status.code() {
        // What a broken connection looks like depends on the moment at which it breaks.
        Code::Unavailable | Code::Unknown | Code::Cancelled => {
            let reason = std::error::Error::source(&status).map_or_else(|| status.message().to_owned(), root_cause);
            ClientError::Unavailable { url: url.to_owned(), reason }
        }
        Code::Unauthenticated => {
            AccessError::Denied { url: url.to_owned(), reason: status.message().to_owned() }.into()
        }
        code => ClientError::Refused { code, message: status.message().to_owned() },
    }
}

/// For `map_err`: an answer that cannot be converted.
pub(super) fn answer(error: impl std::fmt::Display) -> ClientError {
    ClientError::Answer(error.to_string())
}

/// Why there is no connection.
pub(super) fn unconnected(url: &str, error: &tonic::transport::Error) -> ClientError {
    match tls_problem(error) {
        Some(problem) => AccessError::Tls { url: url.to_owned(), problem }.into(),
        None => ClientError::Unreachable { url: url.to_owned(), reason: root_cause(error) },
    }
}
