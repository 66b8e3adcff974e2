//! The loss, and its gradient with respect to the hidden states that go into the final norm.

use super::steps::{Step, Steps, Stop};
use super::weights::WeightGradients;
use crate::cost::VOCABULARY_BLOCK;
use crate::model::Model;
use crate::ops::Kernels;
use crate::ops::cross_entropy::CrossEntropy;
use crate::ops::linear::backward::product_backward;
use crate::ops::rms_norm::backward::rms_norm_backward;
use crate::ops::rms_norm::rms_norm;
use candle_core::{DType, Result, Tensor};

/// What is to be predicted.
#[derive(Clone, Copy)]
pub(super) struct Targets<'a> {
    /// What follows the first tokens.
    pub tokens: &'a [u32],
    /// The first row whose target counts.
    pub first_row: usize,
    /// What gradients are multiplied by.
    pub scale: f64,
}

impl<'a> Targets<'a> {
    /// Of a document whose tokens count from a position on; there is one that does.
    pub fn of(tokens: &'a [u32], counted_from: usize, scale: f64) -> Self {
        Self { tokens: &tokens[1..], first_row: counted_from.max(1) - 1, scale }
    }
}

/// Room for the logits of all of the vocabulary for some of the rows of a chunk.
struct Head<'m> {
    model: &'m Model,
    scale: f64,
    weights: Option<&'m WeightGradients>,
    normed: Tensor,
    logits: Tensor,
}

/// Replaces hidden states, `(tokens, hidden)` in chunks, by their gradients, and returns the sum of the negative
/// log-likelihoods of the targets. Logits of `rows` tokens are held at a time. Gradients of weights are added to `weights`.
pub(super) fn run(
    model: &Model,
    chunks: &mut [Tensor],
    wanted: Targets<'_>,
    rows: usize,
    weights: Option<&WeightGradients>,
    steps: &mut Steps<'_>,
) -> std::result::Result<f64, Stop> {
    let rows = rows.min(chunks.first().map_or(Ok(1), |chunk| chunk.dim(0))?);
    let head = Head::new(model, rows, wanted.scale, weights)?;
    let (mut targets, mut first_row) = (wanted.tokens, wanted.first_row);
    let mut nll_sum = 0.0;
    for chunk in chunks {
        steps.next(Step::Head)?;
        // The last token of all has no target, and no gradient.
        let grad = chunk.zeros_like()?;
        let (here, rest) = targets.split_at(chunk.dim(0)?.min(targets.len()));
        targets = rest;
        // Rows before the first that counts have no loss, and no gradient of their own either.
        let skipped = first_row.min(here.len());
        first_row -= skipped;
        for (index, targets) in here[skipped..].chunks(rows).enumerate() {
            let part = |x: &Tensor| x.narrow(0, skipped + index * rows, targets.len());
            nll_sum += head.differentiate(&part(chunk)?, targets, &part(&grad)?)?;
        }
        *chunk = grad;
    }
    Ok(nll_sum)
}

impl<'m> Head<'m> {
    fn new(model: &'m Model, rows: usize, scale: f64, weights: Option<&'m WeightGradients>) -> Result<Self> {
        let buffer = |width: usize| Tensor::zeros((rows, width), DType::F32, model.device());
        Ok(Self { model, scale, weights, normed: buffer(model.spec().hidden)?, logits: buffer(model.spec().vocab)? })
    }

    /// Writes the gradient with respect to `x`, `(rows, hidden)`, to `grad`, and returns the loss.
    fn differentiate(&self, x: &Tensor, targets: &[u32], grad: &Tensor) -> Result<f64> {
        let (parameters, spec) = (self.model.parameters(), self.model.spec());
        let rows = |buffer: &Tensor| buffer.narrow(0, 0, targets.len());
        let (normed, logits) = (rows(&self.normed)?, rows(&self.logits)?);
        let normed = rms_norm(Kernels::Cpu, x, &parameters.norm, spec.norm_eps, Some(normed))?;
        let mut loss = CrossEntropy::new(targets);
        // In the blocks of an evaluation, so that the loss is the same.
        for first in (0..spec.vocab).step_by(VOCABULARY_BLOCK) {
            let width = VOCABULARY_BLOCK.min(spec.vocab - first);
            let logits = Some(logits.narrow(1, first, width)?);
            loss.add(Kernels::Cpu, &parameters.logits(Kernels::Cpu, &normed, (first, width), logits)?, first)?;
        }
        loss.backward(&logits, 0, self.scale)?;
        product_backward(&logits, parameters.head.weight(), grad)?;
        if let Some(weights) = self.weights {
            weights.product(parameters.head.weight(), &logits, &normed)?;
            weights.norm(&parameters.norm, spec.norm_eps, grad, x)?;
        }
        rms_norm_backward(grad, x, &parameters.norm, spec.norm_eps)?;
        Ok(loss.finish())
    }
}
