//! How to train, as typed.

use crate::cli::failure::{Failure, Outcome};
use crate::cli::options::tokens;
use clap::{Args, ValueEnum};
use ropewalk_shared::rope::Rescale;
use ropewalk_shared::training::{AdamW, Lora, Method, Mix, Precision, Schedule, TrainSpec};

/// Steps of the warm-up, or a tenth of all where that is less.
pub const WARM_UP: u32 = 20;
/// Share of the learning rate at which a cosine ends.
pub const FINAL_SHARE: f64 = 0.1;

/// How to train; the defaults are those of the paper's fine-tuning where it states any.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Training options")]
pub struct TrainingArgs {
    /// Tokens of a training sequence, for example 32768 or 128k
    #[arg(long, value_name = "N", value_parser = tokens)]
    pub length: u32,

    /// Steps of the optimiser
    #[arg(long, value_name = "N")]
    steps: u32,

    /// Sequences whose gradients are added up for a step, one after another
    #[arg(long, value_name = "N", default_value_t = 8)]
    batch: u32,

    /// Highest learning rate; small models take more
    #[arg(long, value_name = "RATE", default_value_t = 2e-5)]
    learning_rate: f64,

    /// Steps over which it rises [default: 20, or a tenth of the steps where that is less]
    #[arg(long, value_name = "N")]
    warm_up: Option<u32>,

    /// What it does afterwards
    #[arg(long, value_enum, default_value = "constant")]
    schedule: ScheduleArg,

    /// Share of the learning rate at which the cosine ends [default: 0.1]
    #[arg(long, value_name = "SHARE", requires = "schedule")]
    final_share: Option<f64>,

    /// Share of weights (not of norms and biases) taken off a step, times the learning rate
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    weight_decay: f64,

    /// Length to which gradients are clipped; 0 for never
    #[arg(long, value_name = "NORM", default_value_t = 1.0)]
    clip: f64,

    /// Share of sequences that are short documents under the original RoPE, so that the original window is kept
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    short_share: f64,

    /// Tokens of those [default: the model's original length]
    #[arg(long, value_name = "N", value_parser = tokens, requires = "short_share")]
    short_length: Option<u32>,

    /// Share of sequences that are retrieval prompts: a number hidden anywhere, in a text of any length
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    retrieval_share: f64,

    /// Of retrieval prompts, train on the answer alone
    #[arg(long, requires = "retrieval_share")]
    answers_only: bool,

    /// Share of the other sequences whose positions skip a part, so that they show the model distances of a longer window
    /// (PoSE) at the cost of this one
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, requires = "skip_reach")]
    skip_share: f64,

    /// Positions over which those are spread: the longer window
    #[arg(long, value_name = "N", value_parser = tokens, requires = "skip_share")]
    skip_reach: Option<u32>,

    /// Leave out the text at the skipped positions, too: read parts of a window as long as the reach
    #[arg(long, requires = "skip_reach")]
    skip_text: bool,

    /// Train low-rank additions of this rank (LoRA) in the place of all weights; they are merged into the result
    #[arg(long, value_name = "RANK")]
    lora_rank: Option<u32>,

    /// Over the rank, the factor on low-rank additions [default: twice the rank]
    #[arg(long, value_name = "ALPHA", requires = "lora_rank")]
    lora_alpha: Option<f64>,

    /// Projections that low-rank additions are made to
    #[arg(long, value_name = "NAMES", value_delimiter = ',', requires = "lora_rank")]
    #[arg(default_value = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj,qkv_proj,gate_up_proj")]
    lora_targets: Vec<String>,

    /// Number format of the weights that go through the model; what is moved and all arithmetic are f32
    #[arg(long, value_enum, default_value = "f32")]
    dtype: PrecisionArg,

    /// Seed of every random choice
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// Steps between checkpoints
    #[arg(long, value_name = "N", default_value_t = 50)]
    checkpoint_every: u32,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ScheduleArg {
    Constant,
    Cosine,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PrecisionArg {
    F32,
    Bf16,
}

impl TrainingArgs {
    /// Refuses what would have no effect.
    pub fn check(&self) -> Outcome {
        match (self.schedule, self.final_share) {
            (ScheduleArg::Constant, Some(_)) => Err(Failure::input_message(
                "--final-share is where the cosine ends, and a constant learning rate does not end: add --schedule cosine, or \
                 leave it out",
            )),
            _ => Ok(()),
        }?;
        let given = [
            ("--short-length", self.short_length.is_some(), "--short-share", self.short_share),
            ("--answers-only", self.answers_only, "--retrieval-share", self.retrieval_share),
            ("--skip-reach", self.skip_reach.is_some(), "--skip-share", self.skip_share),
        ];
        match given.iter().find(|(_, is_given, _, share)| *is_given && *share == 0.0) {
            Some((option, _, share, _)) => Err(Failure::input_message(format!(
                "{option} says something about sequences of which {share} leaves none"
            ))),
            None => Ok(()),
        }
    }

    /// The window that is trained for.
    pub fn reach(&self) -> u32 {
        self.mix().reach(self.length)
    }

    fn mix(&self) -> Mix {
        Mix {
            short_share: self.short_share,
            short_length: self.short_length,
            retrieval_share: self.retrieval_share,
            retrieval_answers_only: self.answers_only,
            skip_share: self.skip_share,
            skip_reach: self.skip_reach,
            skip_text: self.skip_text,
        }
    }

    /// The training that was typed.
    pub fn spec(&self, rescale: Rescale) -> TrainSpec {
        TrainSpec {
            steps: self.steps,
            sequences_per_step: self.batch,
            length: self.length,
            rescale,
            learning_rate: self.learning_rate,
            warmup_steps: self.warm_up.unwrap_or_else(|| (self.steps / 10).min(WARM_UP)),
            schedule: match self.schedule {
                ScheduleArg::Constant => Schedule::Constant,
                ScheduleArg::Cosine => Schedule::Cosine { final_share: self.final_share.unwrap_or(FINAL_SHARE) },
            },
            adamw: AdamW { weight_decay: self.weight_decay, ..AdamW::default() },
            clip_norm: (self.clip != 0.0).then_some(self.clip),
            mix: self.mix(),
            method: self.lora_rank.map_or(Method::Full, |rank| {
                let alpha = self.lora_alpha.unwrap_or(2.0 * f64::from(rank));
                Method::Lora(Lora { rank, alpha, targets: self.lora_targets.clone() })
            }),
            precision: match self.dtype {
                PrecisionArg::F32 => Precision::F32,
                PrecisionArg::Bf16 => Precision::Bf16,
            },
            seed: self.seed,
            checkpoint_every: self.checkpoint_every,
        }
    }
}
