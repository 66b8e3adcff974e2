//! AdamW over the weights of a model, where they lie.

use crate::gradient::WeightGradients;
use crate::model::{Model, Placed};
use crate::ops::view::{contiguous, contiguous_mut, cpu_contiguous};
use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor, bail};
use rayon::prelude::*;
use ropewalk_shared::training::{AdamW, TrainSpec};
use std::sync::{Mutex, PoisonError};

/// Numbers that a task takes: always the same, so that sums do not depend on threads.
const BLOCK: usize = 1 << 15;

/// The moments of all weights.
pub(super) struct Optimizer {
    pub weights: Vec<Weight>,
    adamw: AdamW,
}

/// A tensor that is trained.
pub(super) struct Weight {
    pub placed: Placed,
    pub moments: Moments,
}

/// Means of gradients and of their squares, in the order of the tensor's numbers.
pub(super) struct Moments {
    pub mean: Vec<f32>,
    pub square: Vec<f32>,
}

// === impl Optimizer ===

impl Optimizer {
    /// Nothing is known of gradients yet.
    pub fn new(model: &Model, spec: &TrainSpec) -> Result<Self> {
        let weight = |placed: &Placed| {
            let zeros = || vec![0.0; placed.tensor.elem_count()];
            Weight { placed: placed.clone(), moments: Moments { mean: zeros(), square: zeros() } }
        };
        Ok(Self { weights: model.parameters().placed().iter().map(weight).collect(), adamw: spec.adamw })
    }

    /// Length of the gradient of all weights together.
    pub fn norm(&self, gradients: &WeightGradients) -> Result<f64> {
        let mut sum = 0.0;
        for weight in &self.weights {
            let gradient = gradients.of(&weight.placed.tensor)?;
            let (storage, layout) = gradient.storage_and_layout();
            let blocks = cpu_contiguous(&storage, layout)?.par_chunks(BLOCK);
            let squares = |block: &[f32]| block.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>();
            sum += blocks.map(squares).collect::<Vec<f64>>().iter().sum::<f64>();
        }
        Ok(sum.sqrt())
    }

    /// Moves all weights against `scale` times their gradients; `step` counts from 1.
    pub fn step(&mut self, step: u32, rate: f64, scale: f64, gradients: &WeightGradients) -> Result<()> {
        let adamw = self.adamw;
        for weight in &mut self.weights {
            let tensor = &weight.placed.tensor;
            // Norms and biases are the tensors of one dimension.
            let decay = if tensor.rank() > 1 { 1.0 - rate * adamw.weight_decay } else { 1.0 };
            let numbers = Numbers {
                scale: scale as f32,
                beta1: adamw.beta1 as f32,
                beta2: adamw.beta2 as f32,
                decay: decay as f32,
                rate: (rate / (1.0 - adamw.beta1.powf(step.into()))) as f32,
                square: (1.0 / (1.0 - adamw.beta2.powf(step.into())).sqrt()) as f32,
                epsilon: adamw.epsilon as f32,
            };
            let update = Update { moments: Mutex::new(&mut weight.moments), numbers };
            tensor.inplace_op2(gradients.of(tensor)?, &update)?;
        }
        Ok(())
    }
}

/// What is the same for all numbers of a tensor.
#[derive(Clone, Copy)]
struct Numbers {
    scale: f32,
    beta1: f32,
    beta2: f32,
    /// What weights are multiplied by.
    decay: f32,
    /// Learning rate over the correction of the mean.
    rate: f32,
    /// Inverse root of the correction of the squares.
    square: f32,
    epsilon: f32,
}

struct Update<'a> {
    /// Candle hands out operations by reference; there is no one to share this with.
    moments: Mutex<&'a mut Moments>,
    numbers: Numbers,
}

impl InplaceOp2 for Update<'_> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(
        &self,
        weights: &mut CpuStorage,
        layout: &Layout,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
    ) -> Result<()> {
        let (weights, gradient) = (contiguous_mut(weights, layout)?, contiguous(gradient, gradient_layout)?);
        let mut moments = self.moments.lock().unwrap_or_else(PoisonError::into_inner);
        let count = weights.len();
        if [gradient.len(), moments.mean.len(), moments.square.len()] != [count; 3] {
            bail!("{} gradients and {} moments for {count} weights", gradient.len(), moments.mean.len());
        }
        let Moments { mean, square } = &mut **moments;
        let moments = mean.par_chunks_mut(BLOCK).zip(square.par_chunks_mut(BLOCK));
        let blocks = weights.par_chunks_mut(BLOCK).zip(gradient.par_chunks(BLOCK)).zip(moments);
        blocks.for_each(|((weights, gradient), (mean, square))| {
            update(self.numbers, weights, gradient, mean, square);
        });
        Ok(())
    }
}

fn update(by: Numbers, weights: &mut [f32], gradient: &[f32], mean: &mut [f32], square: &mut [f32]) {
    let moments = mean.iter_mut().zip(square);
    for ((weight, gradient), (mean, square)) in weights.iter_mut().zip(gradient).zip(moments) {
        let gradient = gradient * by.scale;
        *mean = by.beta1 * *mean + (1.0 - by.beta1) * gradient;
        *square = by.beta2 * *square + (1.0 - by.beta2) * gradient * gradient;
        *weight = by.decay * *weight - by.rate * *mean / (square.sqrt() * by.square + by.epsilon);
    }
}

/// Overwrites a weight.
pub(super) fn set(tensor: &Tensor, numbers: Vec<f32>) -> Result<()> {
    tensor.slice_set(&Tensor::from_vec(numbers, tensor.shape(), tensor.device())?, 0, 0)
}
