//! Checks of a training: every problem at once, each with its field and reason.

use super::{LORA_TARGETS, Method, Schedule, TrainSpec};
use crate::job::Problem;
use crate::model_description::ModelDescription;
use crate::sample::MAX_SAMPLE_TOKENS;
use std::fmt;

const MAX_STEPS: u32 = 10_000_000;
const MAX_SEQUENCES_PER_STEP: u32 = 65_536;
const MAX_RANK: u32 = 4096;

/// A training that cannot be run, with all its problems.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct InvalidTraining {
    /// At least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for InvalidTraining {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the training cannot be run:")?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

/// Collects problems.
struct Checks(Vec<Problem>);

impl Checks {
    fn require(&mut self, holds: bool, field: &'static str, reason: impl FnOnce() -> String) {
        if !holds {
            self.0.push(Problem { field, reason: reason() });
        }
    }
}

impl TrainSpec {
    /// Checks the whole specification against the model that is to be trained.
    ///
    /// # Errors
    /// [`InvalidTraining`] with every problem found.
    pub fn check(&self, model: &ModelDescription) -> Result<(), InvalidTraining> {
        let mut checks = Checks(Vec::new());
        let counts = [
            ("steps", self.steps, 1, MAX_STEPS),
            ("sequences_per_step", self.sequences_per_step, 1, MAX_SEQUENCES_PER_STEP),
            ("length", self.length, 2, MAX_SAMPLE_TOKENS as u32),
            ("warmup_steps", self.warmup_steps, 0, self.steps),
            ("checkpoint_every", self.checkpoint_every, 1, u32::MAX),
        ];
        for (field, value, least, most) in counts {
            checks
                .require((least..=most).contains(&value), field, || format!("{value} must be from {least} to {most}"));
        }
        self.check_optimiser(&mut checks);
        self.check_mix(model, &mut checks);
        self.check_method(&mut checks);
        if let Err(error) = self.rescale.check(model.geometry.pairs()) {
            checks.0.push(Problem { field: "factors", reason: error.to_string() });
        }
        if checks.0.is_empty() { Ok(()) } else { Err(InvalidTraining { problems: checks.0 }) }
    }

    fn check_optimiser(&self, checks: &mut Checks) {
        let adamw = self.adamw;
        let rate = self.learning_rate;
        checks.require(rate > 0.0 && rate <= 1.0, "learning_rate", || format!("{rate} must be above 0 and at most 1"));
        for (field, value) in [("beta1", adamw.beta1), ("beta2", adamw.beta2)] {
            checks.require((0.0..1.0).contains(&value), field, || format!("{value} must be from 0 to below 1"));
        }
        let epsilon = adamw.epsilon;
        checks.require(epsilon > 0.0 && epsilon <= 1.0, "epsilon", || format!("{epsilon} must be above 0, at most 1"));
        let decay = adamw.weight_decay;
        checks.require((0.0..=1.0).contains(&decay), "weight_decay", || format!("{decay} must be from 0 to 1"));
        if let Some(clip) = self.clip_norm {
            checks.require(clip > 0.0 && clip.is_finite(), "clip_norm", || format!("{clip} must be finite, above 0"));
        }
        if let Schedule::Cosine { final_share } = self.schedule {
            checks.require((0.0..=1.0).contains(&final_share), "final_share", || {
                format!("{final_share} must be from 0 to 1")
            });
        }
    }

    fn check_method(&self, checks: &mut Checks) {
        let Method::Lora(lora) = &self.method else { return };
        checks.require((1..=MAX_RANK).contains(&lora.rank), "lora_rank", || {
            format!("{} must be from 1 to {MAX_RANK}", lora.rank)
        });
        let alpha = lora.alpha;
        checks.require(alpha > 0.0 && alpha.is_finite(), "lora_alpha", || format!("{alpha} must be finite, above 0"));
        let unknown: Vec<&str> =
            lora.targets.iter().map(String::as_str).filter(|target| !LORA_TARGETS.contains(target)).collect();
        checks.require(unknown.is_empty() && !lora.targets.is_empty(), "lora_targets", || {
            format!("{unknown:?} must be some of {}", LORA_TARGETS.join(", "))
        });
    }

    fn check_mix(&self, model: &ModelDescription, checks: &mut Checks) {
        let mix = self.mix;
        for (field, share) in
            [("short_share", mix.short_share), ("retrieval_share", mix.retrieval_share), ("skip_share", mix.skip_share)]
        {
            checks.require((0.0..=1.0).contains(&share), field, || format!("{share} must be from 0 to 1"));
        }
        let shares = mix.short_share + mix.retrieval_share;
        checks.require(shares <= 1.0 || shares.is_nan(), "retrieval_share", || {
            format!("together with short_share it is {shares}, more than all")
        });
        if mix.skip_share > 0.0 {
            let reach = mix.skip_reach.unwrap_or(0);
            checks.require(reach > self.length && reach as usize <= MAX_SAMPLE_TOKENS, "skip_reach", || {
                format!("{reach} must be above the length, {}, and at most {MAX_SAMPLE_TOKENS}", self.length)
            });
        }
        checks.require(!mix.skip_text || mix.skip_share > 0.0, "skip_text", || {
            "says what is skipped, and skip_share is 0".to_owned()
        });
        let short = mix.short_length.unwrap_or(model.original_length);
        if mix.short_share > 0.0 {
            checks.require(short >= 2 && short <= self.length, "short_length", || {
                format!("{short} must be from 2 to the length, {}", self.length)
            });
            checks.require(short <= model.original_length, "short_length", || {
                format!("{short} is beyond the model's original length of {} tokens", model.original_length)
            });
        }
    }
}
