//! Why a training did not end.

use crate::model::LoadError;
use crate::perplexity::EvalError;
use ropewalk_shared::rope::InvalidRescale;
use ropewalk_shared::training::{InvalidSequence, InvalidTraining};
use std::io;
use std::path::{Path, PathBuf};

/// Why a training did not end: what, where, and what to do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The specification does not hold together, or does not fit the model.
    #[error(transparent)]
    Spec(#[from] InvalidTraining),
    /// The factors do not fit the model.
    #[error(transparent)]
    Rescale(#[from] InvalidRescale),
    /// A sequence cannot be trained on.
    #[error(transparent)]
    Sequence(#[from] InvalidSequence),
    /// There is nothing to train on.
    #[error("there are no sequences to train on")]
    NoSequences,
    /// The model has none of the projections that are to be trained.
    #[error("the model has none of the projections named as LoRA targets; phi3 has qkv_proj and gate_up_proj")]
    NothingTrained,
    /// The model cannot be loaded.
    #[error(transparent)]
    Model(#[from] LoadError),
    /// More memory is needed than there is.
    #[error(
        "training on sequences of {tokens} tokens takes {} MiB, {} MiB are available; train on shorter sequences, or with \
         an external command on larger machines", needed >> 20, available >> 20
    )]
    TooLarge {
        /// Tokens of the longest sequence.
        tokens: usize,
        /// Bytes needed.
        needed: u64,
        /// Bytes available.
        available: u64,
    },
    /// A gradient could not be computed.
    #[error(transparent)]
    Gradient(#[from] EvalError),
    /// Loss or gradient is no number any more.
    #[error(
        "the training diverged: {what} of step {step} is not finite; {}", checkpoint_words(*checkpoint)
    )]
    Diverged {
        /// The step, from 1.
        step: u32,
        /// The loss, or the gradient.
        what: &'static str,
        /// The step after which the last checkpoint was taken; absent when there is none.
        checkpoint: Option<u32>,
    },
    /// It was stopped on purpose; the same call goes on.
    #[error("the training was interrupted after step {step} of {steps}; the same command goes on from there")]
    Interrupted {
        /// Steps that are done and kept.
        step: u32,
        /// Steps there are.
        steps: u32,
    },
    /// The folder of checkpoints belongs to another training.
    #[error(
        "{} holds checkpoints of another training (other settings, model or documents); name another folder, or remove it",
        dir.display()
    )]
    OtherTraining {
        /// The folder.
        dir: PathBuf,
    },
    /// Somebody else trains there.
    #[error("another process trains in {}; wait for it, or name another folder", dir.display())]
    Busy {
        /// The folder of checkpoints.
        dir: PathBuf,
    },
    /// A checkpoint cannot be read.
    #[error("checkpoint {} cannot be used: {reason}; remove it to begin anew", path.display())]
    Checkpoint {
        /// Its folder.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Something is where the result is to be.
    #[error("{} exists and is not the result of this training; name another folder, or remove it", out.display())]
    OutputExists {
        /// The folder.
        out: PathBuf,
    },
    /// Something that cannot be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The device failed.
    #[error("the device failed: {0}")]
    Device(#[source] Box<candle_core::Error>),
}

fn checkpoint_words(checkpoint: Option<u32>) -> String {
    let advice = "lower the learning rate or lengthen the warm-up";
    match checkpoint {
        Some(step) => format!("the checkpoint after step {step} is kept; {advice}"),
        None => format!("no checkpoint had been taken; {advice}"),
    }
}

impl From<candle_core::Error> for TrainError {
    fn from(error: candle_core::Error) -> Self {
        Self::Device(error.into())
    }
}

impl TrainError {
    /// Whether the request was wrong, and not the work.
    pub fn is_input(&self) -> bool {
        !matches!(
            self,
            Self::Diverged { .. }
                | Self::Interrupted { .. }
                | Self::Busy { .. }
                | Self::Io { .. }
                | Self::Device(_)
                | Self::Gradient(_)
        )
    }

    /// Wraps what a file operation reports.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}
