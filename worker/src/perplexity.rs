//! The loss of a document: the sum of the negative log-likelihoods of its tokens, each given all before it.

use crate::cancel::CancelFlag;
use crate::counted;
use crate::model::{LoadError, Model};
use crate::placement::NoPlacement;
use ropewalk_shared::rope::{InvalidRescale, Rescale};

pub use ropewalk_shared::outcome::Loss;

/// Why an evaluation gave no loss.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// The factors do not fit the model.
    #[error(transparent)]
    Rescale(#[from] InvalidRescale),
    /// There is nothing to predict.
    #[error("a document of {0} tokens has nothing to predict: at least 2 are needed")]
    TooShort(usize),
    /// The counted positions lie behind the end.
    #[error("counting from position {counted_from} on leaves nothing of a document of {tokens} tokens")]
    NothingCounted {
        /// First counted position.
        counted_from: usize,
        /// Tokens of the document.
        tokens: usize,
    },
    /// A token id that the model does not have.
    #[error(
        "token {position} is {token}, but the model's vocabulary has {vocab} ids: was the document tokenised for another model?"
    )]
    Token {
        /// Where in the document.
        position: usize,
        /// The id.
        token: u32,
        /// Ids of the model.
        vocab: usize,
    },
    /// More than this evaluator can hold.
    #[error(
        "{tokens} tokens are too many for this worker: it holds {max_tokens}; use shorter documents or a device with more memory"
    )]
    TooLarge {
        /// Tokens asked for.
        tokens: usize,
        /// Tokens that would fit.
        max_tokens: usize,
    },
    /// The device ran out of memory on a document that should have fit.
    #[error("{tokens} tokens are too many for the device's free memory: {reason}")]
    OutOfMemory {
        /// Tokens asked for.
        tokens: usize,
        /// What the device said.
        reason: String,
    },
    /// The device is too small however things are placed.
    #[error(transparent)]
    NoPlacement(#[from] NoPlacement),
    /// Weights that are streamed could not be read again.
    #[error("cannot read a layer again: {0}; leave the model's files as they are while it is in use")]
    Weights(#[source] Box<LoadError>),
    /// What needs the whole model on one device.
    #[error(
        "gradients, training and token-by-token decoding need all weights on one device: leave out --devices, or give more \
         --device-memory"
    )]
    NotWhole,
    /// A gradient was asked for where it cannot be computed.
    #[error("gradients are computed on the CPU in f32 only: use a worker with --device cpu and --dtype f32")]
    NoGradient,
    /// The flag was raised.
    #[error("the evaluation was cancelled")]
    Cancelled,
    /// The device failed.
    #[error("the device failed: {0}")]
    Device(#[source] Box<candle_core::Error>),
}

// === impl EvalError ===

impl EvalError {
    /// Whether the document is too large for this worker, so that a larger one should have it.
    pub fn is_too_large(&self) -> bool {
        matches!(self, Self::TooLarge { .. } | Self::OutOfMemory { .. } | Self::NoPlacement(_))
    }

    pub(crate) fn device(error: candle_core::Error, tokens: usize) -> Self {
        let reason = error.to_string();
        // The driver's code reaches us as text only.
        if reason.to_lowercase().contains("out of memory") || reason.contains("OUT_OF_MEMORY") {
            return Self::OutOfMemory { tokens, reason };
        }
        Self::Device(error.into())
    }
}

/// Checks that the model can be run on these tokens, and that there is something to predict.
pub(crate) fn check(model: &Model, tokens: &[u32]) -> Result<(), EvalError> {
    let vocab = model.spec().vocab;
    if tokens.len() < 2 {
        return Err(EvalError::TooShort(tokens.len()));
    }
    match tokens.iter().position(|&token| token as usize >= vocab) {
        Some(position) => Err(EvalError::Token { position, token: tokens[position], vocab }),
        None => Ok(()),
    }
}

/// Runs `tokens` through `model` under `rescale`, `chunk` tokens at a time, on the current thread pool.
///
/// `progress` is called with the finished fraction between chunks, and `cancel` looked at.
///
/// # Errors
/// [`EvalError`]; a loss that is not finite is none.
pub fn evaluate(
    model: &Model,
    rescale: &Rescale,
    tokens: &[u32],
    chunk: usize,
    cancel: &CancelFlag,
    progress: &mut dyn FnMut(f32),
) -> Result<Loss, EvalError> {
    counted::evaluate(model, rescale, (tokens, 0), chunk, cancel, progress).map(|counted| counted.loss)
}
