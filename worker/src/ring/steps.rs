//! How far all stations are together, and which candidates are still wanted.

use super::{Route, Stop};
use crate::perplexity::EvalError;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Steps are chunks that go through a layer, or through the head.
pub(super) struct Steps<'r> {
    route: &'r Route<'r>,
    all: usize,
    done: AtomicUsize,
}

impl<'r> Steps<'r> {
    pub fn new(route: &'r Route<'r>) -> Self {
        let (layers, candidates) = (route.layers(), route.candidates.len());
        let all = candidates * (layers * route.chunks() + route.chunks_at(layers).len());
        Self { route, all, done: AtomicUsize::new(0) }
    }

    /// The part that is done.
    pub fn share(&self) -> f32 {
        self.done.load(Ordering::Relaxed) as f32 / self.all as f32
    }

    /// Begins a step. Returns whether the candidate is still wanted.
    ///
    /// # Errors
    /// When none is.
    pub fn next(&self, candidate: usize) -> Result<bool, Stop> {
        self.done.fetch_add(1, Ordering::Relaxed);
        if !self.route.is_cancelled(candidate) {
            return Ok(true);
        }
        let all = (0..self.route.candidates.len()).all(|candidate| self.route.is_cancelled(candidate));
        if all { Err(EvalError::Cancelled.into()) } else { Ok(false) }
    }
}
