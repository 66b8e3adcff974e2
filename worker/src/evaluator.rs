//! An evaluator: a model, threads of its own, and a bound on what it holds.

use crate::cancel::CancelFlag;
use crate::cost;
use crate::counted::{self, Counted};
use crate::first_layer::FirstLayers;
use crate::gradient::{self, Gradient};
use crate::greedy;
use crate::memory;
use crate::model::Model;
use crate::perplexity::{self, EvalError, Loss};
use ropewalk_shared::rope::Rescale;
use std::sync::Arc;

/// Share of the free memory that is taken for granted.
const USABLE_SHARE: f64 = 0.8;
/// The part of that which may hold the first layer of samples.
const SHARED_PART: u64 = 8;

/// How an evaluator works.
#[derive(Clone, Debug, PartialEq)]
pub struct EvaluatorOptions {
    /// Threads; 0 for one per processor core. Results do not depend on it.
    pub threads: usize,
    /// Tokens that go through a layer at a time.
    pub chunk_tokens: usize,
    /// Longest document accepted; what fits into the free memory when absent.
    pub max_tokens: Option<usize>,
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
    first_layers: FirstLayers,
}

/// An evaluator that cannot be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start {threads} threads: {source}")]
pub struct StartError {
    threads: usize,
    source: rayon::ThreadPoolBuildError,
}

impl Default for EvaluatorOptions {
    fn default() -> Self {
        Self { threads: 0, chunk_tokens: 512, max_tokens: None, shared_bytes: cost::SHARED_BYTES }
    }
}

// === impl Evaluator ===

impl Evaluator {
    /// Starts the threads of an evaluator.
    ///
    /// # Errors
    /// When the system refuses them.
    pub fn new(model: Arc<Model>, options: EvaluatorOptions) -> Result<Self, StartError> {
        let threads = options.threads;
        let named = rayon::ThreadPoolBuilder::new().thread_name(|index| format!("evaluator-{index}"));
        let pool = named.num_threads(threads).build().map_err(|source| StartError { threads, source })?;
        let chunk_tokens = options.chunk_tokens.clamp(1, 1 << 20);
        let free = memory::available_bytes().filter(|_| model.device().is_cpu());
        let free = free.map(|bytes| (bytes as f64 * USABLE_SHARE) as u64);
        let shared_bytes = options.shared_bytes.min(free.map_or(u64::MAX, |free| free / SHARED_PART));
        let free = free.map(|free| free - shared_bytes);
        let spec = model.spec();
        let evaluations = || free.map_or(usize::MAX, |free| cost::max_tokens(spec, model.dtype(), chunk_tokens, free));
        let max_tokens = options.max_tokens.unwrap_or_else(evaluations);
        let gradients = free.map_or(usize::MAX, |free| gradient::max_tokens(spec, chunk_tokens, free));
        let max_gradient_tokens = max_tokens.min(gradients);
        let first_layers = FirstLayers::new(shared_bytes);
        Ok(Self { model, pool, chunk_tokens, max_tokens, max_gradient_tokens, first_layers })
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

    /// The loss of a document under rescaled RoPE; see [`perplexity::evaluate`].
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
        if tokens.len() > self.max_tokens {
            return Err(EvalError::TooLarge { tokens: tokens.len(), max_tokens: self.max_tokens });
        }
        let mut progress = |fraction| progress(fraction);
        let (model, chunk) = (&self.model, self.chunk_tokens);
        let row_bytes = cost::first_layer_bytes(model.spec(), model.dtype(), tokens.len());
        let mut share = self.first_layers.share(tokens, row_bytes);
        self.pool
            .install(|| perplexity::evaluate_sharing(model, rescale, tokens, chunk, &mut share, cancel, &mut progress))
    }

    /// The loss of a document's tokens from position `counted_from` on, and how many of them are the arg max; see
    /// [`counted::evaluate`].
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
        if tokens.len() > self.max_tokens {
            return Err(EvalError::TooLarge { tokens: tokens.len(), max_tokens: self.max_tokens });
        }
        let (mut progress, counted) = (|fraction| progress(fraction), (tokens, counted_from));
        self.pool.install(|| counted::evaluate(&self.model, rescale, counted, self.chunk_tokens, cancel, &mut progress))
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
        let need = greedy::bytes(self.model.spec(), self.model.dtype(), self.chunk_tokens, tokens.min(self.max_tokens));
        let fits = free.is_none_or(|free| need as f64 <= free as f64 * USABLE_SHARE);
        if tokens > self.max_tokens || !fits {
            return Err(EvalError::TooLarge { tokens, max_tokens: self.max_tokens.min(tokens.saturating_sub(1)) });
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
