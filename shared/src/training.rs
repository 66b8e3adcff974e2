//! Fine-tuning under rescaled RoPE: what is trained, on what, and how.
//!
//! A model is trained on sequences ([`TrainSequence`]) of the window to be reached, with the rescale factors in place
//! (LongRoPE, section 3.3). Short windows may be mixed in (LongRoPE2): documents of the original window, under the
//! original RoPE and without attention to one another, so that the model keeps what it could do there.
//!
//! ```text
//! loss of a step = mean over its sequences of (mean over a sequence's counted tokens of -ln p(token | before))
//! ```
//!
//! Every sequence has the same weight, as every document has in an evaluation; a retrieval prompt of which the answer
//! alone is counted teaches as much as a document.

mod checks;
mod gap;
mod job;
mod method;
mod order;
mod packing;
mod record;
mod schedule;
mod sequence;
mod sequence_file;

pub use checks::InvalidTraining;
pub use gap::{Gap, position};
pub use job::{SequencesId, TrainingJob, TrainingPlace};
pub use method::{LORA_TARGETS, Lora, Method, Precision};
pub use order::sequence_at;
pub use packing::{PackingError, RetrievalTexts, pack};
pub use record::{
    MAX_DECLINED, MAX_STEPS_PER_REPORT, StepRecord, TrainingEnd, TrainingFailure, TrainingFailureKind, TrainingLease,
    TrainingProgress, TrainingReport, TrainingRequest, TrainingUnit,
};
pub use schedule::Schedule;
pub use sequence::{InvalidSequence, TrainSequence, Window};
pub use sequence_file::{InvalidSequences, read_sequences, write_sequences};

use crate::rope::Rescale;
use serde::{Deserialize, Serialize};

/// Everything that determines a training but its model and its sequences. The same of all three give the same weights
/// to the last bit, on any number of threads and however often it was interrupted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainSpec {
    /// Steps of the optimiser.
    pub steps: u32,
    /// Sequences whose gradients are added up before the weights move. They go through the model one after another, so
    /// this takes time and no memory.
    #[serde(default = "defaults::sequences_per_step")]
    pub sequences_per_step: u32,
    /// Tokens of a sequence: the window to be reached.
    pub length: u32,
    /// Factors that are in place from the first step to the last.
    pub rescale: Rescale,
    /// The highest learning rate.
    #[serde(default = "defaults::learning_rate")]
    pub learning_rate: f64,
    /// Steps over which it rises.
    #[serde(default = "defaults::warmup_steps")]
    pub warmup_steps: u32,
    /// What it does afterwards.
    #[serde(default)]
    pub schedule: Schedule,
    /// The optimiser.
    #[serde(default)]
    pub adamw: AdamW,
    /// Gradients of all weights together are shortened to this length; absent for never.
    #[serde(default = "defaults::clip_norm")]
    pub clip_norm: Option<f64>,
    /// What is mixed into the sequences.
    #[serde(default)]
    pub mix: Mix,
    /// Which numbers are trained.
    #[serde(default)]
    pub method: Method,
    /// Number format of the weights that go through the model.
    #[serde(default)]
    pub precision: Precision,
    /// Seed of every random choice: documents, cuts, order, hidden numbers.
    #[serde(default)]
    pub seed: u64,
    /// Steps between checkpoints.
    #[serde(default = "defaults::checkpoint_every")]
    pub checkpoint_every: u32,
}

/// AdamW (Loshchilov and Hutter). Norms and biases do not decay.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdamW {
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of their squares.
    pub beta2: f64,
    /// Added to the root of that.
    pub epsilon: f64,
    /// Share of the weights that is taken off a step, times the learning rate.
    pub weight_decay: f64,
}

/// What sequences are made of, besides documents as long as the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mix {
    /// Share of sequences that are short windows under the original RoPE, 0 to 1.
    pub short_share: f64,
    /// Tokens of a short window; absent for the model's original length.
    pub short_length: Option<u32>,
    /// Share of sequences that are retrieval prompts, 0 to 1.
    pub retrieval_share: f64,
    /// Of a prompt only the answer is counted, not the text around it.
    pub retrieval_answers_only: bool,
    /// Share of the sequences under the rescaled RoPE, prompts too, whose positions skip a part, 0 to 1.
    #[serde(skip_serializing_if = "is_zero")]
    pub skip_share: f64,
    /// Positions over which those are spread: the window that is to be reached without training in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skip_reach: Option<u32>,
    /// Of documents the text at the skipped positions is left out, so that what is read are parts of a window as long as
    /// the reach; else the text goes on and positions alone jump.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub skip_text: bool,
}

/// So that settings without it stay what they were.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(share: &f64) -> bool {
    *share == 0.0
}

/// Where a field's default is no type's.
mod defaults {
    pub(super) fn sequences_per_step() -> u32 {
        8
    }

    pub(super) fn learning_rate() -> f64 {
        2e-5
    }

    pub(super) fn warmup_steps() -> u32 {
        20
    }

    #[allow(clippy::unnecessary_wraps)]
    pub(super) fn clip_norm() -> Option<f64> {
        Some(1.0)
    }

    pub(super) fn checkpoint_every() -> u32 {
        50
    }
}

impl Default for AdamW {
    /// Betas as LLaMA's, and no decay: a short training should not pull the model to zero.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.0 }
    }
}

// === impl Mix ===

impl Mix {
    /// The window that is trained for with sequences of `length` tokens.
    pub fn reach(&self, length: u32) -> u32 {
        self.skip_reach.filter(|_| self.skip_share > 0.0).unwrap_or(length)
    }
}

// === impl TrainSpec ===

impl TrainSpec {
    /// A training of so many steps with the defaults: the paper's learning rate of 2e-5 after a warm-up of 20 steps, eight
    /// sequences a step.
    pub fn new(steps: u32, length: u32, rescale: Rescale) -> Self {
        Self {
            steps,
            sequences_per_step: defaults::sequences_per_step(),
            length,
            rescale,
            learning_rate: defaults::learning_rate(),
            warmup_steps: defaults::warmup_steps(),
            schedule: Schedule::default(),
            adamw: AdamW::default(),
            clip_norm: defaults::clip_norm(),
            mix: Mix::default(),
            method: Method::default(),
            precision: Precision::default(),
            seed: 0,
            checkpoint_every: defaults::checkpoint_every(),
        }
    }

    /// Sequences of the whole training, repetitions included.
    pub fn sequences(&self) -> u64 {
        u64::from(self.steps) * u64::from(self.sequences_per_step)
    }

    /// The window that the model is trained for: the reach of skipping positions, or the length of its sequences.
    pub fn reach(&self) -> u32 {
        self.mix.reach(self.length)
    }

    /// The learning rate of a step, the first being 0.
    pub fn learning_rate_at(&self, step: u32) -> f64 {
        if step < self.warmup_steps {
            return self.learning_rate * f64::from(step + 1) / f64::from(self.warmup_steps);
        }
        let rest = self.steps.saturating_sub(self.warmup_steps).max(1);
        self.learning_rate * self.schedule.share(f64::from(step - self.warmup_steps) / f64::from(rest))
    }
}

#[cfg(test)]
mod tests;
