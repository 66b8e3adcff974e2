//! Gradients of weights, summed up wherever a projection or norm is taken backwards.

use crate::model::Model;
use crate::ops::embedding::embedding_backward;
use crate::ops::linear::Linear;
use crate::ops::linear::weights::weight_backward;
use crate::ops::rms_norm::weights::rms_norm_weights_backward;
use candle_core::{Result, Tensor, TensorId, bail};
use std::collections::HashMap;

/// A sum for each tensor of a model, of the same shape, f32 on the CPU.
#[derive(Debug)]
pub(crate) struct WeightGradients {
    by_weight: HashMap<TensorId, Tensor>,
}

// === impl WeightGradients ===

impl WeightGradients {
    /// Sums of nothing, for all weights of `model`.
    pub fn zeros(model: &Model) -> Result<Self> {
        let placed = model.parameters().placed().iter();
        let by_weight = placed.map(|placed| Ok((placed.tensor.id(), placed.tensor.zeros_like()?)));
        Ok(Self { by_weight: by_weight.collect::<Result<_>>()? })
    }

    /// Begins anew.
    pub fn clear(&self) -> Result<()> {
        self.by_weight.values().try_for_each(Tensor::zero_set)
    }

    /// The sum for a weight of the model.
    ///
    /// # Errors
    /// When the tensor is another model's, or a part of one.
    pub fn of(&self, weight: &Tensor) -> Result<&Tensor> {
        match self.by_weight.get(&weight.id()) {
            Some(sum) => Ok(sum),
            None => bail!("no gradient is kept for a weight of shape {:?}", weight.dims()),
        }
    }

    /// A projection, given what went in and the gradient of what came out.
    pub(super) fn linear(&self, linear: &Linear, grad: &Tensor, x: &Tensor) -> Result<()> {
        linear.weights_backward(grad, x, |weight| self.of(weight))
    }

    /// Weights without a bias that are a whole tensor.
    pub(super) fn product(&self, weight: &Tensor, grad: &Tensor, x: &Tensor) -> Result<()> {
        weight_backward(grad, x, self.of(weight)?)
    }

    /// A norm, given what went in and the gradient of what came out.
    pub(super) fn norm(&self, weight: &Tensor, eps: f64, grad: &Tensor, x: &Tensor) -> Result<()> {
        rms_norm_weights_backward(grad, x, self.of(weight)?, eps)
    }

    /// The embedding, given the gradient of what it gave for `ids`.
    pub(super) fn embedding(&self, embedding: &Tensor, grad: &Tensor, ids: &[u32]) -> Result<()> {
        embedding_backward(grad, ids, self.of(embedding)?)
    }
}

#[cfg(test)]
mod tests;
