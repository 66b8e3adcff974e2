//! The exact gradient of a document's loss with respect to a candidate, the weights being what they are.
//!
//! One evaluation says how good a candidate is; this says, for little more than the price of three, into which direction
//! each of its numbers should move. With the loss `L` of the whole document in nats, `angle_i(n) = n / (lambda_i beta_i)`
//! and factors `f m_i` on cosine and sine, and with `dL/dangle_i(n)` summed over all layers, queries and keys:
//!
//! ```text
//! dL/dln lambda_i = - sum over positions n >= start_tokens of angle_i(n) dL/dangle_i(n)
//! dL/dln m_i      =   sum over rotated queries and keys x' of x'_i · dL/dx'_i      (x'_i: the two numbers of pair i)
//! dL/dln f        =   sum over i of dL/dln m_i
//! ```
//!
//! The forward pass runs as in [`crate::perplexity`], and keeps what goes into each layer. Layers are then run again in
//! reverse order, each in chunks, and what they do to the loss is carried backwards. Of one layer at a time do queries,
//! keys, values and their gradients exist, of one chunk its feed-forward block, of a part of a chunk the logits; no
//! matrix of scores ever does. Arithmetic is f32, long sums are f64, and the result is the same to the last bit whatever
//! the number of threads.
//!
//! The gradients of all weights come out of the same way back, for three products where an evaluation has one; see
//! [`crate::train`].

mod bytes;
mod candidate;
mod forward;
mod head;
mod layer;
mod projected;
mod steps;
mod weights;

pub use bytes::{bytes, max_tokens};
pub(crate) use weights::WeightGradients;

use crate::cancel::CancelFlag;
use crate::device::Dtype;
use crate::model::{Model, Pass};
use crate::ops::Kernels;
use crate::perplexity::{self, EvalError, Loss};
use crate::rope_table::RopeTable;
use bytes::Limits;
use candidate::CandidateGradient;
use head::Targets;
use layer::{LayerBackward, Sinks};
use ropewalk_shared::rope::{AngleRule, Rescale};
use ropewalk_shared::training::Gap;
use steps::{Steps, Stop};

/// The loss of a document and its gradient.
#[derive(Clone, Debug, PartialEq)]
pub struct Gradient {
    /// The loss, as an evaluation gives it.
    pub loss: Loss,
    /// `d nll_sum / d ln lambda_i` for each rotary pair, in nats. Zero for a document of starting tokens only.
    pub log_factors: Vec<f64>,
    /// `d nll_sum / d ln f` with the attention factor `f`, in nats.
    pub log_attention_factor: f64,
    /// `d nll_sum / d ln m_i` with the attention factors `m_i` of the rotary pairs, in nats; their sum is the number above.
    pub log_pair_attention: Vec<f64>,
}

/// Computes loss and gradient of `tokens` from position `counted_from` on under `rescale`, `chunk_tokens` at a time, on
/// the current thread pool. Positions 0 and 1 both mean all tokens that have one before them.
///
/// `progress` is called with the finished fraction, and `cancel` looked at, between chunks. [`bytes`] says what it takes
/// in memory.
///
/// # Errors
/// [`EvalError`], [`EvalError::NoGradient`] for a model that is not on the CPU and [`EvalError::NothingCounted`] among
/// them; a loss or gradient that is not finite is none.
pub fn evaluate(
    model: &Model,
    rescale: &Rescale,
    (tokens, counted_from): (&[u32], usize),
    chunk_tokens: usize,
    cancel: &CancelFlag,
    progress: &mut dyn FnMut(f32),
) -> Result<Gradient, EvalError> {
    check(model, tokens, counted_from)?;
    let rule = AngleRule::new(&model.description().geometry, rescale)?;
    let chunk = chunk_tokens.clamp(1, tokens.len());
    let steps = Steps::new(model.spec().layers(), tokens.len().div_ceil(chunk), cancel, progress);
    let candidate = CandidateGradient::new(rule, rescale.start_tokens);
    let limits = Limits::of(model.spec(), tokens.len());
    let made = differentiate(model, candidate, (tokens, counted_from), chunk, limits, steps);
    made.map_err(|stop| stop.error(tokens.len()))
}

/// Checks that there is a loss, and that this model's has a gradient.
fn check(model: &Model, tokens: &[u32], counted_from: usize) -> Result<(), EvalError> {
    perplexity::check(model, tokens)?;
    if counted_from >= tokens.len() {
        return Err(EvalError::NothingCounted { counted_from, tokens: tokens.len() });
    }
    match model.kernels() {
        Kernels::Cpu if !model.is_whole() => Err(EvalError::NotWhole),
        Kernels::Cpu if model.dtype() == Dtype::F32 => Ok(()),
        _ => Err(EvalError::NoGradient),
    }
}

fn differentiate(
    model: &Model,
    mut candidate: CandidateGradient,
    (tokens, counted_from): (&[u32], usize),
    chunk: usize,
    limits: Limits,
    mut steps: Steps<'_>,
) -> Result<Gradient, Stop> {
    let rule = candidate.rule().clone();
    let sinks = Sinks { candidate: Some(&mut candidate), weights: None };
    let targets = Targets::of(tokens, counted_from, 1.0);
    let table = RopeTable::new(rule, tokens.len(), chunk, model.device());
    let loss = carry(model, table, (tokens, targets), (chunk, limits), sinks, &mut steps)?;
    steps.finish();
    let (log_factors, log_pair_attention) = candidate.finish();
    let log_attention_factor = log_pair_attention.iter().sum();
    Ok(Gradient { loss, log_factors, log_attention_factor, log_pair_attention })
}

/// A document whose loss weights are to be moved by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lesson<'a> {
    pub tokens: &'a [u32],
    /// The loss is that of the tokens from this position on; 0 and 1 both mean all that have one before them.
    pub counted_from: usize,
    /// What its gradient is multiplied by.
    pub scale: f64,
    /// Positions that are skipped.
    pub gaps: &'a [Gap],
}

/// Adds to `weights` the gradient of `scale` times the loss of a document, `chunk_tokens` at a time, on the current thread
/// pool, and returns the loss. The model is on the CPU.
///
/// # Errors
/// As [`evaluate`]; and [`EvalError::NothingCounted`]. What was added until then stays.
pub(crate) fn of_weights(
    model: &Model,
    rule: &AngleRule,
    lesson: Lesson<'_>,
    chunk_tokens: usize,
    weights: &WeightGradients,
    cancel: &CancelFlag,
    progress: &mut dyn FnMut(f32),
) -> Result<Loss, EvalError> {
    let Lesson { tokens, counted_from, scale, gaps } = lesson;
    check(model, tokens, counted_from)?;
    let chunk = chunk_tokens.clamp(1, tokens.len());
    let mut steps = Steps::new(model.spec().layers(), tokens.len().div_ceil(chunk), cancel, progress);
    let limits = Limits::of(model.spec(), tokens.len());
    let targets = Targets::of(tokens, counted_from, scale);
    let sinks = Sinks { candidate: None, weights: Some(weights) };
    let table = RopeTable::new(rule.clone(), tokens.len(), chunk, model.device()).with_gaps(gaps);
    let loss = carry(model, table, (tokens, targets), (chunk, limits), sinks, &mut steps);
    let loss = loss.map_err(|stop| stop.error(tokens.len()))?;
    steps.finish();
    Ok(loss)
}

/// Forwards and backwards.
fn carry(
    model: &Model,
    mut table: RopeTable,
    (tokens, targets): (&[u32], Targets<'_>),
    (chunk, limits): (usize, Limits),
    mut sinks: Sinks<'_>,
    steps: &mut Steps<'_>,
) -> Result<Loss, Stop> {
    let mut pass = Pass::new(model, tokens, chunk)?;
    let mut kept = forward::run(model, &mut pass, &mut table, limits.keep_attended, steps)?;
    let nll_sum = head::run(model, &mut pass.chunks, targets, limits.logit_rows, sinks.weights, steps)?;

    // From here on the pass's chunks are gradients with respect to the hidden states that they were.
    let mut backward = LayerBackward::new(model, chunk, pass)?;
    while let Some(inputs) = kept.pop() {
        backward.run(kept.len(), inputs, &mut table, &mut sinks, steps)?;
    }
    if let Some(weights) = sinks.weights {
        let embedding = model.parameters().embedding.embeddings();
        for (grad, ids) in backward.into_grads().iter().zip(tokens.chunks(chunk)) {
            weights.embedding(embedding, grad, ids)?;
        }
    }
    Ok(Loss { nll_sum, tokens: (targets.tokens.len() - targets.first_row) as u64 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Dtype;
    use std::path::Path;

    #[test]
    fn what_is_held_does_not_change_what_comes_out() {
        for case in ["qwen3", "mistral"] {
            let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/golden").join(case);
            let model = Model::load(&dir, &candle_core::Device::Cpu, Dtype::F32).unwrap();
            let tokens: Vec<u32> = (0..149).map(|i| i * i * 31 % 96).collect();
            let rescale = Rescale::with_factors(vec![2.5; 8]);
            let run = |keep_attended, logit_rows| {
                let rule = AngleRule::new(&model.description().geometry, &rescale).unwrap();
                let (cancel, progress) = (CancelFlag::new(), &mut |_| {});
                let limits = Limits { keep_attended, logit_rows };
                let steps = Steps::new(2, 5, &cancel, progress);
                differentiate(&model, CandidateGradient::new(rule, 3), (&tokens, 0), 32, limits, steps).ok()
            };
            let kept = run(true, 1000).unwrap();
            assert_eq!(run(false, 1000).unwrap(), kept, "{case}");
            let few = run(true, 5).unwrap();
            assert!((few.loss.nll_sum / kept.loss.nll_sum - 1.0).abs() < 1e-6, "{case}");
            let size = kept.log_factors.iter().fold(0.0, |size: f64, by| size.max(by.abs()));
            let near = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-4 * size;
            assert!(few.log_factors.iter().zip(&kept.log_factors).all(near), "{case}: {few:?} for {kept:?}");
            assert!(kept.log_factors.iter().all(|by| by.is_finite() && *by != 0.0), "{case}");
        }
    }
}
