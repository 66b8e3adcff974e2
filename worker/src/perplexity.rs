//! The loss of a document: the sum of the negative log-likelihoods of its tokens, each given all before it.

use crate::cancel::CancelFlag;
use crate::first_layer::Share;
use crate::model::{Model, Pass};
use crate::rope_table::RopeTable;
use ropewalk_shared::rope::{AngleRule, InvalidRescale, Rescale};

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
        matches!(self, Self::TooLarge { .. } | Self::OutOfMemory { .. })
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
    evaluate_sharing(model, rescale, tokens, chunk, &mut Share::none(), cancel, progress)
}

/// The same with what an earlier evaluation of these tokens, in chunks of the same size, has left of the first layer.
pub(crate) fn evaluate_sharing(
    model: &Model,
    rescale: &Rescale,
    tokens: &[u32],
    chunk: usize,
    share: &mut Share<'_>,
    cancel: &CancelFlag,
    progress: &mut dyn FnMut(f32),
) -> Result<Loss, EvalError> {
    check(model, tokens)?;
    let rule = AngleRule::new(&model.description().geometry, rescale)?;
    let device = |error| EvalError::device(error, tokens.len());
    let chunk = chunk.max(1);

    let mut table = RopeTable::new(rule, tokens.len(), chunk, model.device());
    let mut pass = Pass::new(model, tokens, chunk).map_err(device)?;
    let layers = model.spec().layers();
    let steps = (layers + 1) * pass.chunks();
    let mut done = 0;
    let mut step = || {
        progress(done as f32 / steps as f32);
        done += 1;
        if cancel.is_cancelled() { Err(EvalError::Cancelled) } else { Ok(()) }
    };
    for layer in 0..layers {
        for index in 0..pass.chunks() {
            step()?;
            let (cos, sin) = table.rotation(index).map_err(device)?;
            let advanced = match layer {
                0 => pass.advance_first(index, (&cos, &sin), share),
                _ => pass.advance(layer, index, (&cos, &sin)),
            };
            advanced.map_err(device)?;
        }
    }
    let mut nll_sum = 0.0;
    for (index, targets) in tokens[1..].chunks(chunk).enumerate() {
        step()?;
        nll_sum += pass.loss(index, targets).map_err(device)?;
    }
    progress(1.0);
    Ok(Loss { nll_sum, tokens: tokens.len() as u64 - 1 })
}
