//! Fine-tuning under rescaled RoPE, of all weights or of low-rank additions, on the CPU.
//!
//! The gradients come from the way back of [`crate::gradient`], whose operations this crate has anyway, and not from
//! candle's autograd over single operations: that would keep the scores of every head and layer, `n x n` numbers each,
//! and run on kernels several times slower. Weights, gradients and moments are f32; the weights may be rounded to bf16 on
//! their way through the model. Attention is streaming in both
//! directions; of each layer only what goes into it is kept, and the layer is run again on the way back, so that the
//! activations of a single one are alive at a time.
//!
//! Of one specification, model and list of sequences come the same weights to the last bit, on any number of threads and
//! however often the training was killed: sequences are taken in a fixed order, sums are made in a fixed order, and a
//! checkpoint holds everything the next step depends on. (Another instruction set may round otherwise.)
//!
//! ```text
//! g  = gradient of the step's mean loss, shortened to clip_norm
//! m  = beta1 m + (1 - beta1) g          v = beta2 v + (1 - beta2) g^2
//! w  = (1 - rate decay) w - rate (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon)
//! ```

mod checkpoint;
mod error;
mod folder;
mod identity;
mod lock;
mod optimizer;
mod output;
mod places;
mod step;
mod views;

pub use error::TrainError;
pub use ropewalk_shared::training::StepRecord;

use crate::cost;
use crate::device::Dtype;
use crate::gradient;
use crate::memory;
use crate::model::config::DecoderSpec;
use crate::model::{Model, fingerprint_dir};
use candle_core::Device;
use checkpoint::Checkpoints;
use lock::FolderLock;
use optimizer::Optimizer;
use ropewalk_shared::training::{Method, Precision, TrainSequence, TrainSpec};
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;
use std::path::Path;
use step::Trainer;

/// Tokens that go through a layer at a time.
const CHUNK_TOKENS: usize = 512;

/// What happens in a training. Whoever is told may stop it with [`ControlFlow::Break`].
#[derive(Clone, Debug, PartialEq)]
pub enum TrainEvent {
    /// The model is loaded.
    Begun {
        /// Numbers that are trained.
        parameters: u64,
        /// The steps done before, where a checkpoint is gone on from.
        before: Vec<StepRecord>,
    },
    /// A step is under way.
    Progress {
        /// Its number, from 1.
        step: u32,
        /// Share of it that is done.
        share: f32,
    },
    /// A step is done.
    Step(StepRecord),
    /// A checkpoint is on disk.
    Checkpoint {
        /// The step after which it was taken.
        step: u32,
    },
}

/// A training that is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trained {
    /// Digest of specification, model and sequences.
    pub identity: String,
    /// What was asked for.
    pub spec: TrainSpec,
    /// All steps, those before interruptions included.
    pub curve: Vec<StepRecord>,
}

/// Bytes that the training `train` takes on sequences of `tokens` tokens: weights, gradients and two moments in f32, the
/// rounded weights beside those that are moved where all of them are trained in bf16, and what a
/// [gradient](gradient::bytes) takes; checkpoints and the result are written without more. An upper bound where low-rank
/// additions are trained.
pub fn bytes(decoder: &DecoderSpec, train: &TrainSpec, tokens: usize) -> u64 {
    let weights = cost::weights(decoder) * size_of::<f32>() as u64;
    let rounded = matches!((&train.method, train.precision), (Method::Full, Precision::Bf16));
    weights * if rounded { 5 } else { 4 } + gradient::bytes(decoder, CHUNK_TOKENS, tokens)
}

/// Trains the model in the folder `model_dir` and writes the result to `out_dir`, on the current thread pool.
///
/// `sequences` are used in their order, and again in other orders when they are used up. Checkpoints go to `work_dir`,
/// which is made, and from which the same training goes on after whatever happened; they are removed when the result stands.
/// One process at a time trains there.
/// `out_dir` becomes a Hugging Face folder: the model's config.json and tokenizer, the weights in the format and the
/// files they came in, and `training.json` ([`Trained`]). Where it stands already, nothing is done.
///
/// # Errors
/// [`TrainError`]. After [`TrainError::Interrupted`], [`TrainError::Diverged`] and failed writes the last checkpoint is
/// whole.
pub fn run(
    model_dir: &Path,
    spec: &TrainSpec,
    sequences: &[TrainSequence],
    work_dir: &Path,
    out_dir: &Path,
    on_event: &mut dyn FnMut(TrainEvent) -> ControlFlow<()>,
) -> Result<Trained, TrainError> {
    let identity = identity::of(spec, fingerprint_dir(model_dir)?, sequences);
    if let Some(trained) = output::finished(out_dir, &identity)? {
        return Ok(trained);
    }
    check_memory(model_dir, spec, sequences)?;
    let _lock = FolderLock::take(work_dir)?;
    // Whoever had the folder until now may have been training the same.
    if let Some(trained) = output::finished(out_dir, &identity)? {
        return Ok(trained);
    }
    let model = Model::load(model_dir, &Device::Cpu, Dtype::F32)?;
    spec.check(model.description())?;
    check_sequences(&model, sequences)?;

    let mut optimizer = Optimizer::new(&model, spec)?;
    if optimizer.trained.is_empty() {
        return Err(TrainError::NothingTrained);
    }
    let checkpoints = Checkpoints::of(work_dir, &identity);
    let mut curve = checkpoints.resume(&mut optimizer)?;
    let mut saved = curve.len();
    let begun = TrainEvent::Begun { parameters: optimizer.parameters(), before: curve.clone() };
    let mut stop = on_event(begun).is_break();
    let mut trainer = Trainer::new(&model, spec, sequences, &optimizer)?;
    while !stop && curve.len() < spec.steps as usize {
        let step = curve.len() as u32;
        let record = match trainer.step(step, &mut optimizer, on_event) {
            Ok(record) => record,
            // Weights and moments are those before the step.
            Err(TrainError::Interrupted { .. }) => break,
            Err(TrainError::Diverged { step, what, .. }) => {
                let checkpoint = checkpoints.last_good(step)?;
                return Err(TrainError::Diverged { step, what, checkpoint });
            }
            Err(error) => return Err(error),
        };
        curve.push(record);
        stop = on_event(TrainEvent::Step(record)).is_break();
        let done = curve.len() == spec.steps as usize;
        if done || curve.len().is_multiple_of(spec.checkpoint_every as usize) {
            saved = checkpoints.write(&optimizer, &curve)?;
            stop |= on_event(TrainEvent::Checkpoint { step: saved as u32 }).is_break();
        }
    }
    if curve.len() < spec.steps as usize {
        if curve.len() > saved {
            checkpoints.write(&optimizer, &curve)?;
        }
        return Err(TrainError::Interrupted { step: curve.len() as u32, steps: spec.steps });
    }
    let trained = Trained { identity, spec: spec.clone(), curve };
    // Its gradients make room for the copies that writing in another format takes.
    drop(trainer);
    output::write(model_dir, &optimizer, &trained, out_dir)?;
    checkpoints.clear();
    Ok(trained)
}

/// Refuses before anything is allocated what cannot fit.
fn check_memory(model_dir: &Path, spec: &TrainSpec, sequences: &[TrainSequence]) -> Result<(), TrainError> {
    let decoder = Model::read_spec(model_dir)?;
    let tokens = sequences.iter().map(|sequence| sequence.tokens.len()).max().unwrap_or(0).max(spec.length as usize);
    let needed = bytes(&decoder, spec, tokens);
    match memory::available_bytes() {
        Some(available) if needed > available => Err(TrainError::TooLarge { tokens, needed, available }),
        _ => Ok(()),
    }
}

fn check_sequences(model: &Model, sequences: &[TrainSequence]) -> Result<(), TrainError> {
    if sequences.is_empty() {
        return Err(TrainError::NoSequences);
    }
    let vocab = model.spec().vocab;
    let mut all = sequences.iter().enumerate();
    all.try_for_each(|(index, sequence)| sequence.check(index, vocab))?;
    Ok(())
}
