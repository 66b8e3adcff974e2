//! Gradients of weights, summed up wherever a projection or norm is taken backwards.

use crate::ops::embedding::embedding_backward;
use crate::ops::linear::Linear;
use crate::ops::linear::weights::weight_backward;
use crate::ops::rms_norm::weights::rms_norm_weights_backward;
use candle_core::{Result, Tensor, TensorId, bail};
use std::collections::HashMap;

/// A sum for each tensor of a model that is trained, of the same shape, f32 on the CPU.
#[derive(Debug)]
pub(crate) struct WeightGradients {
    by_weight: HashMap<TensorId, Tensor>,
}

// === impl WeightGradients ===

impl WeightGradients {
    /// Sums of nothing, for these weights of a model.
    pub fn zeros<'a>(weights: impl Iterator<Item = &'a Tensor>) -> Result<Self> {
        let by_weight = weights.map(|weight| Ok((weight.id(), weight.zeros_like()?)));
        Ok(Self { by_weight: by_weight.collect::<Result<_>>()? })
    }

    /// Begins anew.
    pub fn clear(&self) -> Result<()> {
        self.by_weight.values().try_for_each(Tensor::zero_set)
    }

    /// The sum for a weight of the model.
    ///
    /// # Errors
    /// When there is none.
    pub fn sum(&self, weight: &Tensor) -> Result<&Tensor> {
        match self.of(weight) {
            Some(sum) => Ok(sum),
            None => bail!("no gradient is kept for a weight of shape {:?}", weight.dims()),
        }
    }

    /// The same; none for a weight that is not trained.
    fn of(&self, weight: &Tensor) -> Option<&Tensor> {
        self.by_weight.get(&weight.id())
    }

    /// A projection, given what went in and the gradient of what came out.
    pub(super) fn linear(&self, linear: &Linear, grad: &Tensor, x: &Tensor) -> Result<()> {
        linear.weights_backward(grad, x, |weight| self.of(weight))
    }

    /// Weights without a bias that are a whole tensor.
    pub(super) fn product(&self, weight: &Tensor, grad: &Tensor, x: &Tensor) -> Result<()> {
        self.of(weight).map_or(Ok(()), |sum| weight_backward(grad, x, sum))
    }

    /// A norm, given what went in and the gradient of what came out.
    pub(super) fn norm(&self, weight: &Tensor, eps: f64, grad: &Tensor, x: &Tensor) -> Result<()> {
        self.of(weight).map_or(Ok(()), |sum| rms_norm_weights_backward(grad, x, sum, eps))
    }

    /// The embedding, given the gradient of what it gave for `ids`.
    pub(super) fn embedding(&self, embedding: &Tensor, grad: &Tensor, ids: &[u32]) -> Result<()> {
        self.of(embedding).map_or(Ok(()), |sum| embedding_backward(grad, ids, sum))
    }
}

#[cfg(test)]
mod tests;
