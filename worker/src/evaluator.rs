//! An evaluator: a model, threads of its own, and a bound on what it holds.

mod open;
mod room;

use crate::cancel::CancelFlag;
use crate::cost::{self, Load};
use crate::counted::Counted;
use crate::first_layer::FirstLayers;
use crate::gradient::{self, Gradient};
use crate::greedy;
use crate::ledger::Ledger;
use crate::memory;
use crate::model::Model;
use crate::perplexity::{EvalError, Loss};
use crate::placement::{NoPlacement, Placement, Residence, Room};
use crate::ring::{self, Route};
use ropewalk_shared::rope::Rescale;
use std::sync::Arc;

pub use crate::ring::Asked;
pub use open::OpenError;

/// What evaluations may take on these devices, before a model is loaded; `given` is the bound on each.
pub fn room(devices: &[candle_core::Device], given: Option<u64>) -> Room {
    room::free(devices, given)
}

/// The part of the free memory which may hold the first layer of samples.
const SHARED_PART: u64 = 8;

/// Most candidates that go together: what is saved by one more becomes less and less.
const MOST_TOGETHER: usize = 16;

/// How an evaluator works.
#[derive(Clone, Debug, PartialEq)]
pub struct EvaluatorOptions {
    /// Threads; 0 for one per processor core. Results do not depend on it.
    pub threads: usize,
    /// Tokens that go through a layer at a time.
    pub chunk_tokens: usize,
    /// Longest document accepted; what fits into the memory when absent.
    pub max_tokens: Option<usize>,
    /// Bytes of each device that are used at most; what it has when absent.
    pub device_memory: Option<u64>,
    /// Bytes that may be kept of the first layer, which is the same for all candidates of a sample; less where memory
    /// is short. Results do not depend on it.
    pub shared_bytes: u64,
}

/// Evaluates documents on one model, one at a time, with threads of its own.
#[derive(Debug)]
pub struct Evaluator {
    model: Arc<Model>,
    pool: rayon::ThreadPool,
    chunk_tokens: usize,
    max_tokens: usize,
    max_gradient_tokens: usize,
    /// What there is, without what is kept for the next candidates.
    room: Room,
    first_layers: FirstLayers,
}

/// An evaluator that cannot be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start {threads} threads: {source}")]
pub struct StartError {
    threads: usize,
    source: rayon::ThreadPoolBuildError,
}

// === impl EvaluatorOptions ===

impl EvaluatorOptions {
    /// The usual ones on the CPU, or on a GPU.
    pub fn on(cpu: bool) -> Self {
        Self { chunk_tokens: cost::chunk_tokens(cpu), ..Self::default() }
    }
}

impl Default for EvaluatorOptions {
    fn default() -> Self {
        let chunk_tokens = cost::chunk_tokens(true);
        Self { threads: 0, chunk_tokens, max_tokens: None, device_memory: None, shared_bytes: cost::SHARED_BYTES }
    }
}

// === impl Evaluator ===

impl Evaluator {
    /// Starts the threads of an evaluator, which takes what memory is free now.
    ///
    /// # Errors
    /// When the system refuses them.
    pub fn new(model: Arc<Model>, options: EvaluatorOptions) -> Result<Self, StartError> {
        let room = room::beside(&model, options.device_memory);
        Self::within(model, room, options)
    }

    /// The same with so much memory, what the model has of it included.
    fn within(model: Arc<Model>, room: Room, options: EvaluatorOptions) -> Result<Self, StartError> {
        let threads = options.threads;
        let named = rayon::ThreadPoolBuilder::new().thread_name(|index| format!("evaluator-{index}"));
        let pool = named.num_threads(threads).build().map_err(|source| StartError { threads, source })?;
        let chunk_tokens = options.chunk_tokens.clamp(1, 1 << 20);
        let (spec, cpu) = (model.spec(), model.device().is_cpu());
        let live = model.ledgers().iter().map(Ledger::live).sum::<u64>();
        let free = (cpu && room.host < u64::MAX).then(|| room.host.saturating_sub(live));
        let shared_bytes = options.shared_bytes.min(free.map_or(u64::MAX, |free| free / SHARED_PART));
        let (free, room) = (free.map(|free| free - shared_bytes), room.without(shared_bytes, cpu));
        let load = Load { spec, format: model.format(), chunk_tokens, tokens: 0 };
        let evaluations = || {
            let placed = place_of_weights(&model).longest(load, room);
            free.map_or(usize::MAX, |free| cost::max_tokens(load, free)).min(placed)
        };
        let max_tokens = options.max_tokens.unwrap_or_else(evaluations);
        let gradients = free.map_or(usize::MAX, |free| gradient::max_tokens(spec, chunk_tokens, free));
        let max_gradient_tokens = if model.is_whole() { max_tokens.min(gradients) } else { 0 };
        let first_layers = FirstLayers::new(shared_bytes);
        Ok(Self { model, pool, chunk_tokens, max_tokens, max_gradient_tokens, room, first_layers })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// The longest document that is accepted.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// The longest document whose gradient is computed.
    pub fn max_gradient_tokens(&self) -> usize {
        self.max_gradient_tokens
    }

    /// The loss of a document under rescaled RoPE; see [`crate::perplexity::evaluate`].
    ///
    /// The same document and factors give the same loss to the last bit, whatever the number of threads. `progress`
    /// is called on another thread than the caller's.
    ///
    /// # Errors
    /// [`EvalError`]; one for which [`EvalError::is_too_large`] holds says that a larger worker is needed.
    pub fn evaluate(
        &self,
        rescale: &Rescale,
        tokens: &[u32],
        cancel: &CancelFlag,
        progress: &mut (dyn FnMut(f32) + Send),
    ) -> Result<Loss, EvalError> {
        self.evaluate_counted(rescale, tokens, 0, cancel, progress).map(|counted| counted.loss)
    }

    /// The loss of a document's tokens from position `counted_from` on, and how many of them are the arg max; see
    /// [`crate::counted::evaluate`].
    ///
    /// # Errors
    /// As [`Self::evaluate`]; and [`EvalError::NothingCounted`].
    pub fn evaluate_counted(
        &self,
        rescale: &Rescale,
        tokens: &[u32],
        counted_from: usize,
        cancel: &CancelFlag,
        progress: &mut (dyn FnMut(f32) + Send),
    ) -> Result<Counted, EvalError> {
        let all = self.evaluate_together(&[Asked { rescale, cancel }], (tokens, counted_from), progress)?;
        all.into_iter().flatten().next().ok_or(EvalError::Cancelled)
    }

    /// The same of several candidates, which go through each layer one after the other while its weights are there; none
    /// for those that were cancelled. [`Self::most_together`] says how many fit. Losses are those of each alone, to the
    /// last bit.
    ///
    /// # Errors
    /// As [`Self::evaluate_counted`]; [`EvalError::Cancelled`] when all were.
    pub fn evaluate_together(
        &self,
        asked: &[Asked<'_>],
        (tokens, counted_from): (&[u32], usize),
        progress: &mut (dyn FnMut(f32) + Send),
    ) -> Result<Vec<Option<Counted>>, EvalError> {
        if tokens.len() > self.max_tokens {
            return Err(EvalError::TooLarge { tokens: tokens.len(), max_tokens: self.max_tokens });
        }
        let (model, pool) = (&*self.model, &self.pool);
        let hidden = self.placement(tokens.len())?.hidden;
        let route = Route::new(model, asked, (tokens, counted_from), self.chunk_tokens)?.placed(hidden, pool);
        let row_bytes = cost::first_layer_bytes(model.spec(), model.format(), tokens.len());
        let mut share = self.first_layers.share(tokens, row_bytes);
        ring::run(&route, &mut share, &mut |fraction| progress(fraction))
    }

    /// How many candidates may go together on a document of `tokens` tokens: several where weights are streamed, as they
    /// are fetched once for all of them, as many as there is memory for.
    pub fn most_together(&self, tokens: usize) -> usize {
        match self.placement(tokens) {
            Ok(place) if place.weights == Residence::Host && tokens <= self.max_tokens => {
                place.with_most_together(self.load(tokens), self.room, MOST_TOGETHER).together
            }
            _ => 1,
        }
    }

    /// What lies where while a document of `tokens` tokens is evaluated.
    ///
    /// # Errors
    /// When device or host are too small for any placement that leaves the weights where they are.
    pub fn placement(&self, tokens: usize) -> Result<Placement, NoPlacement> {
        let (devices, weights) = (self.model.devices().len(), self.model.weights());
        Placement::choose(self.load(tokens), self.room, devices, Some(weights))
    }

    fn load(&self, tokens: usize) -> Load<'_> {
        let (model, chunk_tokens) = (&self.model, self.chunk_tokens);
        Load { spec: model.spec(), format: model.format(), chunk_tokens, tokens }
    }

    /// The `count` tokens that greedy decoding gives after a prompt; see [`greedy::decode`].
    ///
    /// # Errors
    /// As [`Self::evaluate`], of prompt and answer together; keys and values of all layers take more memory than an
    /// evaluation of as many tokens.
    pub fn decode(
        &self,
        rescale: &Rescale,
        (prompt, count): (&[u32], usize),
        cancel: &CancelFlag,
        progress: &mut (dyn FnMut(f32) + Send),
    ) -> Result<Vec<u32>, EvalError> {
        let tokens = prompt.len().saturating_add(count);
        let free = memory::available_bytes().filter(|_| self.model.device().is_cpu());
        let fits = |tokens| free.is_none_or(|free| greedy::bytes(self.load(tokens)) <= room::usable(free));
        if tokens > self.max_tokens || !fits(tokens) {
            let max_tokens = cost::longest(|length| length <= self.max_tokens && fits(length));
            return Err(EvalError::TooLarge { tokens, max_tokens });
        }
        let (mut progress, asked) = (|fraction| progress(fraction), (prompt, count));
        self.pool.install(|| greedy::decode(&self.model, rescale, asked, self.chunk_tokens, cancel, &mut progress))
    }

    /// The loss of a document's tokens from a position on (0 and 1 both mean all that have one before them), and its
    /// gradient with respect to the candidate, for about three times the price; see [`gradient::evaluate`].
    ///
    /// # Errors
    /// As [`Self::evaluate_counted`]; and [`EvalError::NoGradient`] where the model is not on the CPU.
    pub fn gradient(
        &self,
        rescale: &Rescale,
        (tokens, counted_from): (&[u32], usize),
        cancel: &CancelFlag,
        progress: &mut (dyn FnMut(f32) + Send),
    ) -> Result<Gradient, EvalError> {
        if tokens.len() > self.max_gradient_tokens {
            return Err(EvalError::TooLarge { tokens: tokens.len(), max_tokens: self.max_gradient_tokens });
        }
        let (mut progress, counted) = (|fraction| progress(fraction), (tokens, counted_from));
        self.pool
            .install(|| gradient::evaluate(&self.model, rescale, counted, self.chunk_tokens, cancel, &mut progress))
    }
}

fn place_of_weights(model: &Model) -> Placement {
    Placement { weights: model.weights(), devices: model.devices().len(), ..Placement::RESIDENT }
}
