//! One step: the gradient of its sequences, one after another, and the move against it.

use super::optimizer::{Optimizer, norm};
use super::{CHUNK_TOKENS, StepRecord, TrainError, TrainEvent};
use crate::cancel::CancelFlag;
use crate::gradient::{Lesson, WeightGradients, of_weights};
use crate::model::Model;
use crate::perplexity::EvalError;
use ropewalk_shared::rope::AngleRule;
use ropewalk_shared::training::{TrainSequence, TrainSpec, Window, sequence_at};
use std::ops::ControlFlow;

/// What steps share.
pub(super) struct Trainer<'a> {
    model: &'a Model,
    spec: &'a TrainSpec,
    sequences: &'a [TrainSequence],
    gradients: WeightGradients,
    long: AngleRule,
    original: AngleRule,
}

/// Mean losses of sequences.
#[derive(Clone, Copy, Default)]
struct Mean {
    sum: f64,
    count: u32,
}

// === impl Trainer ===

impl<'a> Trainer<'a> {
    pub fn new(
        model: &'a Model,
        spec: &'a TrainSpec,
        sequences: &'a [TrainSequence],
        optimizer: &Optimizer,
    ) -> Result<Self, TrainError> {
        let description = model.description();
        let original = description.shipped_rescale(description.original_length as usize);
        Ok(Self {
            model,
            spec,
            sequences,
            gradients: WeightGradients::zeros(optimizer.places.tensors())?,
            long: AngleRule::new(&description.geometry, &spec.rescale)?,
            original: AngleRule::new(&description.geometry, &original)?,
        })
    }

    /// Does the step after `step` others. Interrupted or diverged, weights and moments are those before it.
    pub fn step(
        &mut self,
        step: u32,
        optimizer: &mut Optimizer,
        on_event: &mut dyn FnMut(TrainEvent) -> ControlFlow<()>,
    ) -> Result<StepRecord, TrainError> {
        let (number, count) = (step + 1, self.spec.sequences_per_step);
        self.gradients.clear()?;
        let (mut long, mut short, mut tokens) = (Mean::default(), Mean::default(), 0);
        for index in 0..count {
            let slot = u64::from(step) * u64::from(count) + u64::from(index);
            let sequence = &self.sequences[sequence_at(slot, self.sequences.len(), self.spec.seed)];
            let mut progress = |share: f32| {
                on_event(TrainEvent::Progress { step: number, share: (index as f32 + share) / count as f32 })
            };
            let loss = self.learn(sequence, &mut progress)?;
            let mean = if sequence.window == Window::Long { &mut long } else { &mut short };
            (mean.sum, mean.count) = (mean.sum + loss, mean.count + 1);
            tokens += sequence.counted();
        }
        let diverged = |what| TrainError::Diverged { step: number, what, checkpoint: None };
        let loss = (long.sum + short.sum) / f64::from(count);
        if !loss.is_finite() {
            return Err(diverged("the loss"));
        }
        let gradients = optimizer.gradients(&self.gradients)?;
        let gradient_norm = norm(&gradients)?;
        if !gradient_norm.is_finite() {
            return Err(diverged("the gradient"));
        }
        let scale = self.spec.clip_norm.map_or(1.0, |clip| (clip / (gradient_norm + 1e-6)).min(1.0));
        let learning_rate = self.spec.learning_rate_at(step);
        optimizer.step(number, learning_rate, scale, &gradients)?;
        Ok(StepRecord {
            step: number,
            loss,
            long: long.value(),
            short: short.value(),
            gradient_norm,
            learning_rate,
            tokens,
        })
    }

    /// Adds the gradient of a sequence's share in the loss, and returns its mean loss.
    fn learn(
        &self,
        sequence: &TrainSequence,
        progress: &mut dyn FnMut(f32) -> ControlFlow<()>,
    ) -> Result<f64, TrainError> {
        let rule = if sequence.window == Window::Long { &self.long } else { &self.original };
        let counted = sequence.counted() as f64;
        let scale = 1.0 / (counted * f64::from(self.spec.sequences_per_step));
        let (cancel, total) = (CancelFlag::new(), sequence.tokens.len() as f32);
        let (mut nll_sum, mut done) = (0.0, 0);
        for (tokens, counted_from) in sequence.passes() {
            let share = |part: f32| (done as f32 + part * tokens.len() as f32) / total;
            let mut progress = |part: f32| {
                if progress(share(part)).is_break() {
                    cancel.cancel();
                }
            };
            let lesson = Lesson { tokens, counted_from, scale, gaps: &sequence.gaps };
            let loss = of_weights(self.model, rule, lesson, CHUNK_TOKENS, &self.gradients, &cancel, &mut progress);
            nll_sum += match loss {
                Ok(loss) => loss.nll_sum,
                Err(EvalError::Cancelled) => return Err(TrainError::Interrupted { step: 0, steps: self.spec.steps }),
                Err(error) => return Err(error.into()),
            };
            done += tokens.len();
        }
        Ok(nll_sum / counted)
    }
}

impl Mean {
    fn value(self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / f64::from(self.count))
    }
}
