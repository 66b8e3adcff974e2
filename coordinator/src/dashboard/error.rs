//! What keeps the dashboard from being there, and from answering.

use crate::engine::EngineError;
use crate::store::StoreError;
use axum::http::StatusCode;
use std::io::ErrorKind;
use std::time::Duration;

/// An address that the dashboard cannot have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DashboardError {
    /// Something listens there already.
    #[error(
        "the address {address} of the dashboard is in use: stop what runs there, or choose another one with --http"
    )]
    PortInUse {
        /// The address.
        address: String,
    },
    /// It cannot be bound.
    #[error(
        "cannot listen on {address} for the dashboard: {reason}; give an address of this machine with --http, for example 127.0.0.1:7312"
    )]
    Bind {
        /// The address.
        address: String,
        /// What the system says.
        reason: String,
    },
}

/// Why a request cannot be answered now.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Unavailable {
    /// No answer in time.
    #[error("the {who} did not answer within {} s: look at the coordinator's log and its disk", within.as_secs())]
    Silent {
        /// Who did not.
        who: &'static str,
        /// How long it was waited for.
        within: Duration,
    },
    /// The engine says no.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The store does not give what is asked for.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Something here broke.
    #[error("the request could not be carried out: {0}; the coordinator goes on")]
    Broken(String),
}

// === impl DashboardError ===

impl DashboardError {
    pub(super) fn of(address: &str, error: &std::io::Error) -> Self {
        let address = address.to_owned();
        match error.kind() {
            ErrorKind::AddrInUse => Self::PortInUse { address },
            _ => Self::Bind { address, reason: error.to_string() },
        }
    }
}

// === impl Unavailable ===

impl Unavailable {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Engine(EngineError::UnknownJob(_) | EngineError::AmbiguousJob { .. }) => StatusCode::NOT_FOUND,
            Self::Silent { .. } | Self::Engine(_) | Self::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Broken(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}
