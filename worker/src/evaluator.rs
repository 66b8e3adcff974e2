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
use room::Rooms;
use ropewalk_shared::rope::Rescale;
use std::sync::Arc;

pub use crate::ring::Asked;
pub use open::OpenError;

/// What evaluations may take on these devices, before a model is loaded; `given` is the bound on each.
pub fn room(devices: &[candle_core::Device], given: Option<u64>) -> Room {
    Rooms::System { given }.before(devices)
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
    /// Longest document accepted; what fits when absent.
    most: Option<usize>,
    rooms: Rooms,
    /// By what was free when the model was loaded.
    bounds: Bounds,
    first_layers: FirstLayers,
}

/// What evaluations may take, and what follows from that.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// What there is, without what is kept for the next candidates.
    room: Room,
    max_tokens: usize,
    max_gradient_tokens: usize,
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
        let rooms = Rooms::System { given: options.device_memory };
        let room = rooms.beside(&model, 0);
        Self::within(model, room, rooms, options)
    }

    /// The same with so much memory, what the model has of it included, and as much as `rooms` says later on.
    fn within(model: Arc<Model>, room: Room, rooms: Rooms, options: EvaluatorOptions) -> Result<Self, StartError> {
        let threads = options.threads;
        let named = rayon::ThreadPoolBuilder::new().thread_name(|index| format!("evaluator-{index}"));
        let pool = named.num_threads(threads).build().map_err(|source| StartError { threads, source })?;
        let chunk_tokens = options.chunk_tokens.clamp(1, 1 << 20);
        let cpu = model.device().is_cpu();
        let free = if cpu { free_of(room.host, &model) } else { None };
        let shared_bytes = options.shared_bytes.min(free.map_or(u64::MAX, |free| free / SHARED_PART));
        let (most, first_layers) = (options.max_tokens, FirstLayers::new(shared_bytes));
        let bounds = Bounds::of(&model, room.without(shared_bytes, cpu), chunk_tokens, most);
        Ok(Self { model, pool, chunk_tokens, most, rooms, bounds, first_layers })
    }

    /// Those by which a document fits, if there are any. What was free when the model was loaded may have been little for a
    /// moment, so that the memory is asked again before a document is refused.
    fn bounds(&self, fits: impl Fn(&Bounds) -> bool) -> Bounds {
        if fits(&self.bounds) {
            return self.bounds;
        }
        let cpu = self.model.device().is_cpu();
        let room = self.rooms.beside(&self.model, self.first_layers.bytes()).without(self.first_layers.limit(), cpu);
        let anew = Bounds::of(&self.model, room, self.chunk_tokens, self.most);
        if fits(&anew) || anew.max_tokens > self.bounds.max_tokens { anew } else { self.bounds }
    }

    /// Those for an evaluation of a document of `tokens` tokens.
    fn bounds_for(&self, tokens: usize) -> Bounds {
        self.bounds(|bounds| tokens <= bounds.max_tokens && self.place(tokens, bounds.room).is_ok())
    }

    fn place(&self, tokens: usize, room: Room) -> Result<Placement, NoPlacement> {
        let (devices, weights) = (self.model.devices().len(), self.model.weights());
        Placement::choose(self.load(tokens), room, devices, Some(weights))
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
        self.bounds(|_| false).max_tokens
    }

    /// The longest document whose gradient is computed.
    pub fn max_gradient_tokens(&self) -> usize {
        self.bounds(|_| false).max_gradient_tokens
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
        let Bounds { room, max_tokens, .. } = self.bounds_for(tokens.len());
        if tokens.len() > max_tokens {
            return Err(EvalError::TooLarge { tokens: tokens.len(), max_tokens });
        }
        let (model, pool) = (&*self.model, &self.pool);
        let hidden = self.place(tokens.len(), room)?.hidden;
        let route = Route::new(model, asked, (tokens, counted_from), self.chunk_tokens)?.placed(hidden, pool);
        let row_bytes = cost::first_layer_bytes(model.spec(), model.format(), tokens.len());
        let mut share = self.first_layers.share(tokens, row_bytes);
        ring::run(&route, &mut share, &mut |fraction| progress(fraction))
    }

    /// How many candidates may go together on a document of `tokens` tokens: several where weights are streamed, as they
    /// are fetched once for all of them, as many as there is memory for.
    pub fn most_together(&self, tokens: usize) -> usize {
        let Bounds { room, max_tokens, .. } = self.bounds_for(tokens);
        match self.place(tokens, room) {
            Ok(place) if place.weights == Residence::Host && tokens <= max_tokens => {
                place.with_most_together(self.load(tokens), room, MOST_TOGETHER).together
            }
            _ => 1,
        }
    }

    /// What lies where while a document of `tokens` tokens is evaluated.
    ///
    /// # Errors
    /// When device or host are too small for any placement that leaves the weights where they are.
    pub fn placement(&self, tokens: usize) -> Result<Placement, NoPlacement> {
        self.place(tokens, self.bounds_for(tokens).room)
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
        let Bounds { room, max_tokens, .. } = self.bounds_for(tokens);
        let host = memory::available_bytes().filter(|_| self.model.device().is_cpu()).map(room::usable);
        let free = host.into_iter().chain(free_of(room.device, &self.model)).min();
        let fits = |tokens| free.is_none_or(|free| greedy::bytes(self.load(tokens)) <= free);
        if tokens > max_tokens || !fits(tokens) {
            let max_tokens = cost::longest(|length| length <= max_tokens && fits(length));
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
        let max_tokens = self.bounds(|bounds| tokens.len() <= bounds.max_gradient_tokens).max_gradient_tokens;
        if tokens.len() > max_tokens {
            return Err(EvalError::TooLarge { tokens: tokens.len(), max_tokens });
        }
        let (mut progress, counted) = (|fraction| progress(fraction), (tokens, counted_from));
        self.pool
            .install(|| gradient::evaluate(&self.model, rescale, counted, self.chunk_tokens, cancel, &mut progress))
    }
}

// === impl Bounds ===

impl Bounds {
    /// Of a model that is loaded, in so much memory; `most` is the longest document accepted, whatever there is.
    fn of(model: &Model, room: Room, chunk_tokens: usize, most: Option<usize>) -> Self {
        let load = Load { spec: model.spec(), format: model.format(), chunk_tokens, tokens: 0 };
        let cpu = model.device().is_cpu();
        let (host, device) = if cpu { (room.host, room.device) } else { (u64::MAX, u64::MAX) };
        let (host, device) = (free_of(host, model), free_of(device, model));
        let evaluations = || {
            let placed = place_of_weights(model).longest(load, room);
            host.map_or(usize::MAX, |free| cost::max_tokens(load, free)).min(placed)
        };
        let max_tokens = most.unwrap_or_else(evaluations);
        // Nothing of theirs is streamed.
        let free = host.into_iter().chain(device).min();
        let gradients = free.map_or(usize::MAX, |free| gradient::max_tokens(load.spec, chunk_tokens, free));
        let max_gradient_tokens = if model.is_whole() { max_tokens.min(gradients) } else { 0 };
        Self { room, max_tokens, max_gradient_tokens }
    }
}

/// What a model leaves of a memory; none where nothing bounds it.
fn free_of(memory: u64, model: &Model) -> Option<u64> {
    let live = model.ledgers().iter().map(Ledger::live).sum();
    (memory < u64::MAX).then(|| memory.saturating_sub(live))
}

fn place_of_weights(model: &Model) -> Placement {
    Placement { weights: model.weights(), devices: model.devices().len(), ..Placement::RESIDENT }
}
