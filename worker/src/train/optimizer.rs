//! AdamW over the numbers that are trained.

use super::places::Places;
use crate::gradient::WeightGradients;
use crate::model::Model;
use crate::ops::view::{contiguous, contiguous_mut, cpu_contiguous};
use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor, bail};
use rayon::prelude::*;
use ropewalk_shared::training::{AdamW, TrainSpec};
use std::sync::{Mutex, PoisonError};

/// Numbers that a task takes: always the same, so that sums do not depend on threads.
const BLOCK: usize = 1 << 15;

/// What is trained, and how it gets into the model.
pub(super) struct Optimizer {
    pub trained: Vec<Trained>,
    pub places: Places,
    adamw: AdamW,
}

/// A tensor that is trained.
#[derive(Debug)]
pub(super) struct Trained {
    /// Its name in checkpoints.
    pub name: String,
    /// f32 on the CPU.
    pub value: Tensor,
    pub moments: Moments,
}

/// Means of gradients and of their squares, in the order of the tensor's numbers.
#[derive(Debug)]
pub(super) struct Moments {
    pub mean: Vec<f32>,
    pub square: Vec<f32>,
}

// === impl Trained ===

impl Trained {
    /// Nothing is known of its gradients yet.
    pub fn new(name: String, value: Tensor) -> Self {
        let zeros = || vec![0.0; value.elem_count()];
        Self { name, moments: Moments { mean: zeros(), square: zeros() }, value }
    }
}

// === impl Optimizer ===

impl Optimizer {
    /// Makes ready what the specification wants trained.
    pub fn new(model: &Model, spec: &TrainSpec) -> Result<Self> {
        let (places, trained) = Places::new(model, spec)?;
        places.fill(&trained)?;
        Ok(Self { trained, places, adamw: spec.adamw })
    }

    /// Numbers that are trained.
    pub fn parameters(&self) -> u64 {
        self.trained.iter().map(|trained| trained.value.elem_count() as u64).sum()
    }

    /// Gradients of what is trained, in its order, from those of the model's weights.
    pub fn gradients(&self, of_weights: &WeightGradients) -> Result<Vec<Tensor>> {
        self.places.gradients(&self.trained, of_weights)
    }

    /// Moves what is trained against `scale` times its gradients, and brings it into the model; `step` counts from 1.
    pub fn step(&mut self, step: u32, rate: f64, scale: f64, gradients: &[Tensor]) -> Result<()> {
        let adamw = self.adamw;
        for (trained, gradient) in self.trained.iter_mut().zip(gradients) {
            // Norms and biases are the tensors of one dimension.
            let decay = if trained.value.rank() > 1 { 1.0 - rate * adamw.weight_decay } else { 1.0 };
            let numbers = Numbers {
                scale: scale as f32,
                beta1: adamw.beta1 as f32,
                beta2: adamw.beta2 as f32,
                decay: decay as f32,
                rate: (rate / (1.0 - adamw.beta1.powf(step.into()))) as f32,
                square: (1.0 / (1.0 - adamw.beta2.powf(step.into())).sqrt()) as f32,
                epsilon: adamw.epsilon as f32,
            };
            let update = Update { moments: Mutex::new(&mut trained.moments), numbers };
            trained.value.inplace_op2(gradient, &update)?;
        }
        self.places.fill(&self.trained)
    }
}

/// Length of all gradients together.
pub(super) fn norm(gradients: &[Tensor]) -> Result<f64> {
    let mut sum = 0.0;
    for gradient in gradients {
        let (storage, layout) = gradient.storage_and_layout();
        let blocks = cpu_contiguous(&storage, layout)?.par_chunks(BLOCK);
        let squares = |block: &[f32]| block.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>();
        sum += blocks.map(squares).collect::<Vec<f64>>().iter().sum::<f64>();
    }
    Ok(sum.sqrt())
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

/// Overwrites a tensor.
pub(super) fn set(tensor: &Tensor, numbers: Vec<f32>) -> Result<()> {
    tensor.slice_set(&Tensor::from_vec(numbers, tensor.shape(), tensor.device())?, 0, 0)
}
