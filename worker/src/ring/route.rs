//! What goes through which layers: a document, its chunks and its candidates.

use super::Stop;
use crate::cancel::CancelFlag;
use crate::model::Model;
use crate::perplexity::{self, EvalError};
use crate::placement::Residence;
use rayon::ThreadPool;
use ropewalk_shared::rope::{AngleRule, Rescale};
use std::ops::Range;

/// A candidate whose loss is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The candidate.
    pub rescale: &'a Rescale,
    /// Stops it between two chunks; others that go with it go on.
    pub cancel: &'a CancelFlag,
}

/// The way of a document.
pub(crate) struct Route<'a> {
    pub model: &'a Model,
    pub tokens: &'a [u32],
    /// Where hidden states wait from layer to layer.
    pub hidden: Residence,
    /// What is computed on; the current pool when absent.
    pub pool: Option<&'a ThreadPool>,
    pub candidates: Vec<(AngleRule, &'a CancelFlag)>,
    /// Tokens of a chunk.
    pub chunk: usize,
    /// The row that predicts the first counted token.
    first_row: usize,
}

// === impl Route ===

impl<'a> Route<'a> {
    /// The way of `tokens`, `chunk` at a time, whose loss counts from position `counted_from` on.
    ///
    /// # Errors
    /// As [`perplexity::evaluate`]; and [`EvalError::NothingCounted`].
    pub fn new(
        model: &'a Model,
        asked: &[Asked<'a>],
        (tokens, counted_from): (&'a [u32], usize),
        chunk: usize,
    ) -> Result<Self, EvalError> {
        perplexity::check(model, tokens)?;
        if counted_from >= tokens.len() {
            return Err(EvalError::NothingCounted { counted_from, tokens: tokens.len() });
        }
        let geometry = &model.description().geometry;
        let rule = |asked: &Asked<'a>| Ok((AngleRule::new(geometry, asked.rescale)?, asked.cancel));
        let candidates = asked.iter().map(rule).collect::<Result<_, EvalError>>()?;
        let hidden = if model.devices().len() > 1 { Residence::Host } else { Residence::Device };
        let (chunk, first_row) = (chunk.max(1), counted_from.max(1) - 1);
        Ok(Self { model, tokens, hidden, pool: None, candidates, chunk, first_row })
    }

    /// The same with hidden states here, on this pool.
    pub fn placed(self, hidden: Residence, pool: &'a ThreadPool) -> Self {
        let hidden = if self.model.devices().len() > 1 { Residence::Host } else { hidden };
        Self { hidden, pool: Some(pool), ..self }
    }

    /// Number of chunks.
    pub fn chunks(&self) -> usize {
        self.tokens.len().div_ceil(self.chunk)
    }

    /// Tokens of a chunk.
    pub fn chunk_tokens(&self, chunk: usize) -> &'a [u32] {
        &self.tokens[chunk * self.chunk..self.tokens.len().min((chunk + 1) * self.chunk)]
    }

    /// Number of layers. As the number of a layer it stands for the output head.
    pub fn layers(&self) -> usize {
        self.model.spec().layers()
    }

    /// Layers of a station.
    pub fn layers_of(&self, station: usize) -> impl Iterator<Item = usize> + use<> {
        (station..self.layers()).step_by(self.model.devices().len())
    }

    /// Chunks that come to a layer.
    pub fn chunks_at(&self, layer: usize) -> Range<usize> {
        let first = if layer < self.layers() { 0 } else { self.first_row / self.chunk };
        first..self.chunks()
    }

    /// Rows of a chunk that a layer need not compute.
    pub fn skip(&self, layer: usize, chunk: usize) -> usize {
        if layer + 1 < self.layers() { 0 } else { self.first_row.saturating_sub(chunk * self.chunk) }
    }

    /// What the rows of a chunk are to predict that the last layer has left.
    pub fn targets(&self, chunk: usize) -> &'a [u32] {
        let (first, end) = (chunk * self.chunk + self.skip(self.layers(), chunk) + 1, (chunk + 1) * self.chunk + 1);
        &self.tokens[first.min(self.tokens.len())..end.min(self.tokens.len())]
    }

    /// Number of counted tokens.
    pub fn counted(&self) -> usize {
        self.tokens.len() - 1 - self.first_row
    }

    /// Everything that comes to a station, in order: layer, candidate, chunk. The first has the head too.
    pub fn visits(&self, station: usize) -> impl Iterator<Item = [usize; 3]> {
        let layers = self.layers_of(station).chain((station == 0).then_some(self.layers()));
        layers.flat_map(move |layer| {
            let candidates = 0..self.candidates.len();
            candidates.flat_map(move |candidate| self.chunks_at(layer).map(move |chunk| [layer, candidate, chunk]))
        })
    }

    /// Whether nobody wants a candidate any more.
    pub fn is_cancelled(&self, candidate: usize) -> bool {
        self.candidates[candidate].1.is_cancelled()
    }

    /// Computes a part on the pool that all stations share. They themselves run on threads outside of it: those of the pool
    /// must not wait for each other, and what an allocator keeps for one thread is of no use to another.
    pub fn compute<T: Send>(&self, part: impl FnOnce() -> T + Send) -> T {
        match self.pool {
            Some(pool) => pool.install(part),
            None => part(),
        }
    }

    /// A failure of a device.
    pub(super) fn failed(&self, error: candle_core::Error) -> Stop {
        Stop::Failed(EvalError::device(error, self.tokens.len()))
    }
}
