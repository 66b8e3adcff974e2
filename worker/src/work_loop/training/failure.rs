//! How a training's errors are told to the coordinator.

use crate::train::TrainError;
use ropewalk_shared::training::{TrainingFailure, TrainingFailureKind};

/// What an error means for the job; [`TrainError::Interrupted`] is none.
pub(super) fn of(error: &TrainError) -> TrainingFailure {
    let kind = match error {
        TrainError::TooLarge { .. } => TrainingFailureKind::TooLarge,
        TrainError::Busy { .. } => TrainingFailureKind::Busy,
        TrainError::Diverged { .. } => TrainingFailureKind::Diverged,
        TrainError::Interrupted { .. } => TrainingFailureKind::HandedBack,
        // Every worker would say the same.
        TrainError::Spec(_)
        | TrainError::Rescale(_)
        | TrainError::Sequence(_)
        | TrainError::NoSequences
        | TrainError::NothingTrained
        | TrainError::OutputExists { .. }
        | TrainError::OtherTraining { .. } => TrainingFailureKind::Invalid,
        TrainError::Model(_)
        | TrainError::Gradient(_)
        | TrainError::Checkpoint { .. }
        | TrainError::Io { .. }
        | TrainError::Device(_) => TrainingFailureKind::Training,
    };
    failure(kind, error.to_string())
}

/// A failure in this way, for this reason.
pub(super) fn failure(kind: TrainingFailureKind, reason: impl Into<String>) -> TrainingFailure {
    TrainingFailure { kind, reason: reason.into() }
}
