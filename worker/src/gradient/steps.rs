//! Progress of a gradient, and the places where it can be stopped.

use crate::cancel::CancelFlag;
use crate::perplexity::EvalError;

/// Parts of the work by chunk, in about equal units: a layer forwards, a layer again and backwards up to its attention,
/// the attention backwards, the rest.
const FORWARD: usize = 2;
const FEED_FORWARD: usize = 3;
const ATTENTION: usize = 3;
const PROJECTION: usize = 1;

/// Why a gradient is not finished.
pub(super) enum Stop {
    Cancelled,
    Device(candle_core::Error),
}

impl Stop {
    /// The same to the caller, of a document of so many tokens.
    pub fn error(self, tokens: usize) -> EvalError {
        match self {
            Self::Cancelled => EvalError::Cancelled,
            Self::Device(error) => EvalError::device(error, tokens),
        }
    }
}

/// What is about to begin.
#[derive(Clone, Copy)]
pub(super) enum Step {
    /// A layer over a chunk.
    Forward,
    /// The output head over a chunk.
    Head,
    /// A layer over a chunk again, and backwards up to its attention.
    FeedForward,
    /// The attention of a layer over all chunks, backwards.
    Attention,
    /// What is before the attention over a chunk, backwards.
    Projection,
}

/// Counts steps.
pub(super) struct Steps<'a> {
    cancel: &'a CancelFlag,
    progress: &'a mut dyn FnMut(f32),
    chunks: usize,
    total: usize,
    done: usize,
}

impl<'a> Steps<'a> {
    pub fn new(layers: usize, chunks: usize, cancel: &'a CancelFlag, progress: &'a mut dyn FnMut(f32)) -> Self {
        let total = chunks * (layers * (FORWARD + FEED_FORWARD + ATTENTION + PROJECTION) + FORWARD);
        Self { cancel, progress, chunks, total, done: 0 }
    }

    /// Reports what is done before this step, and stops if that is wanted.
    pub fn next(&mut self, step: Step) -> Result<(), Stop> {
        (self.progress)(self.done as f32 / self.total as f32);
        self.done += match step {
            Step::Forward | Step::Head => FORWARD,
            Step::FeedForward => FEED_FORWARD,
            Step::Attention => ATTENTION * self.chunks,
            Step::Projection => PROJECTION,
        };
        self.check()
    }

    /// Stops if that is wanted.
    pub fn check(&self) -> Result<(), Stop> {
        if self.cancel.is_cancelled() { Err(Stop::Cancelled) } else { Ok(()) }
    }

    /// For parts that are long enough to look for themselves; [`Steps::check`] afterwards.
    pub fn cancel(&self) -> &CancelFlag {
        self.cancel
    }

    pub fn finish(self) {
        (self.progress)(1.0);
    }
}

impl From<candle_core::Error> for Stop {
    fn from(error: candle_core::Error) -> Self {
        Self::Device(error)
    }
}
