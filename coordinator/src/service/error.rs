//! What keeps a coordinator from serving, and what its errors are in gRPC.

use crate::dashboard::DashboardError;
use crate::engine::EngineError;
use crate::store::StoreError;
use ropewalk_shared::wire::{InvalidField, InvalidTransfer};
use tonic::{Code, Status};

/// A coordinator that could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Something listens there already.
    #[error("the address {address} is in use: stop what runs there, or choose another one with --listen")]
    PortInUse {
        /// The address.
        address: String,
    },
    /// The address cannot be bound.
    #[error(
        "cannot listen on {address}: {reason}; give an address of this machine with --listen, for example 127.0.0.1:7311"
    )]
    Bind {
        /// The address.
        address: String,
        /// What the system says.
        reason: String,
    },
    /// Not an address.
    #[error("--listen {address} is no address: {reason}; give a host and a port, for example 127.0.0.1:7311")]
    NoAddress {
        /// What was given.
        address: String,
        /// Why it is none.
        reason: String,
    },
    /// The dashboard cannot have its address.
    #[error(transparent)]
    Dashboard(#[from] DashboardError),
    /// The store cannot be opened, or has failed since.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The server broke.
    #[error("the server has stopped: {0}; start the coordinator again, everything acknowledged is kept")]
    Server(String),
}

// === impl ServeError ===

impl ServeError {
    /// Whether the request itself was wrong: an address that cannot be had is.
    pub fn is_input(&self) -> bool {
        matches!(self, Self::PortInUse { .. } | Self::Bind { .. } | Self::NoAddress { .. } | Self::Dashboard(_))
    }
}

// === conversions to Status ===

/// For `map_err`: the one map from the engine's errors to gRPC.
pub(super) fn refused(error: EngineError) -> Status {
    let code = match &error {
        EngineError::AmbiguousJob { .. }
        | EngineError::InvalidJob(_)
        | EngineError::InvalidTraining(_)
        | EngineError::InvalidPlan(_)
        | EngineError::ShortSample { .. }
        | EngineError::TooManyUnits { .. }
        | EngineError::TooMuchState { .. } => Code::InvalidArgument,
        EngineError::UnknownJob(_) | EngineError::UnknownWorker(_) => Code::NotFound,
        EngineError::MissingSamples { .. }
        | EngineError::WrongState { .. }
        | EngineError::NoResult(_)
        | EngineError::NoFactors(_)
        | EngineError::FactorsInFolder(_)
        | EngineError::PlanFolderInUse { .. } => Code::FailedPrecondition,
        EngineError::TooManyWorkers => Code::ResourceExhausted,
        EngineError::Store(error) => store_code(error),
        EngineError::Stopping => Code::Unavailable,
    };
    Status::new(code, error.to_string())
}

/// For `map_err`: a failure of the store outside of the engine.
pub(super) fn store_failed(error: StoreError) -> Status {
    Status::new(store_code(&error), error.to_string())
}

fn store_code(error: &StoreError) -> Code {
    match error {
        // Nothing is broken, but somebody has to make room.
        StoreError::NoRoomForSample { .. } => Code::ResourceExhausted,
        // Whoever asks again later may find it repaired.
        StoreError::Full { .. } | StoreError::Io { .. } | StoreError::Locked { .. } => Code::Unavailable,
        StoreError::Version { .. } | StoreError::NotAStore { .. } => Code::FailedPrecondition,
        StoreError::Corrupt { .. } => Code::DataLoss,
    }
}

/// For `map_err`: a message that cannot be accepted.
pub(super) fn invalid(error: InvalidField) -> Status {
    Status::invalid_argument(error.to_string())
}

/// For `map_err`: a sample that did not arrive as announced.
pub(super) fn invalid_transfer(error: InvalidTransfer) -> Status {
    Status::invalid_argument(error.to_string())
}
