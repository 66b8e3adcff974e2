//! An evaluator: a model, threads of its own, and a bound on what it holds.

use crate::cancel::CancelFlag;
use crate::memory;
use crate::model::Model;
use crate::perplexity::{self, EvalError, Loss};
use crate::rope_table;
use ropewalk_shared::rope::Rescale;
use std::sync::Arc;

/// Share of the free memory that is taken for granted.
const USABLE_SHARE: f64 = 0.8;

/// How an evaluator works.
#[derive(Clone, Debug, PartialEq)]
pub struct EvaluatorOptions {
    /// Threads; 0 for one per processor core. Results do not depend on it.
    pub threads: usize,
    /// Tokens that go through a layer at a time.
    pub chunk_tokens: usize,
    /// Longest document accepted; what fits into the free memory when absent.
    pub max_tokens: Option<usize>,
}

/// Evaluates documents on one model, one at a time, with threads of its own.
#[derive(Debug)]
pub struct Evaluator {
    model: Arc<Model>,
    pool: rayon::ThreadPool,
    chunk_tokens: usize,
    max_tokens: usize,
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
        Self { threads: 0, chunk_tokens: 512, max_tokens: None }
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
        let max_tokens = options.max_tokens.unwrap_or_else(|| match memory::available_bytes() {
            Some(bytes) if model.device().is_cpu() => {
                max_tokens_for(&model, chunk_tokens, (bytes as f64 * USABLE_SHARE) as u64)
            }
            _ => usize::MAX,
        });
        Ok(Self { model, pool, chunk_tokens, max_tokens })
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
        self.pool
            .install(|| perplexity::evaluate(&self.model, rescale, tokens, self.chunk_tokens, cancel, &mut progress))
    }
}

/// Bytes that an evaluation of `tokens` tokens takes beside the weights: hidden states, one layer's keys and values,
/// the rotation, and the buffers of a chunk.
pub fn evaluation_bytes(model: &Model, chunk_tokens: usize, tokens: usize) -> u64 {
    let (spec, number) = (model.spec(), model.dtype().bytes());
    let chunk = chunk_tokens.min(tokens);
    let per_token = (spec.hidden + 2 * spec.key_width()) * number + size_of::<u32>();
    // Generous for the CPU, whose buffers are f32 and reused; elsewhere there are a few of each.
    let wide = 2 * spec.hidden + 2 * (spec.query_width() + 2 * spec.key_width()) + 4 * spec.intermediate;
    let buffers = chunk * (wide + 2 * spec.vocab.min(4096)) * size_of::<f32>();
    let table = rope_table::bytes(spec.rotary_dim / 2, tokens, chunk);
    (tokens * per_token + buffers + table) as u64
}

/// The longest document whose evaluation takes no more than `bytes` beside the weights.
pub fn max_tokens_for(model: &Model, chunk_tokens: usize, bytes: u64) -> usize {
    // The need grows with the length but for one step down where tables are no longer kept, so doubling and halving
    // finds a length that fits; a few percent less than the largest is good enough.
    let fits = |tokens: usize| evaluation_bytes(model, chunk_tokens, tokens) <= bytes;
    let mut low = 0;
    let mut step = 1 << 32;
    while step > 0 {
        if fits(low + step) {
            low += step;
        }
        step /= 2;
    }
    low
}
