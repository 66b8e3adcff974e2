//! The loss of a document's last tokens alone, and how many of them the model would have said itself.
//!
//! Greedy decoding from the tokens before gives exactly the counted tokens if and only if each of them is the arg max
//! of its position given all true tokens before it. So one pass tells what decoding would, without a cache over all
//! layers and without a pass per token.

use crate::cancel::CancelFlag;
use crate::model::{Model, Pass};
use crate::perplexity::{self, EvalError, Loss};
use crate::rope_table::RopeTable;
use ropewalk_shared::rope::{AngleRule, Rescale};

/// What is known of counted tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Counted {
    /// Their loss.
    pub loss: Loss,
    /// How many of them no other token has a higher likelihood than.
    pub correct: u64,
}

impl Counted {
    /// Whether greedy decoding gives all counted tokens.
    pub fn is_exact(&self) -> bool {
        self.correct == self.loss.tokens
    }
}

/// As [`perplexity::evaluate`], of the tokens from position `counted_from` on; 0 and 1 both mean all that have one
/// before them.
///
/// The last layer's queries, its MLP and the logits are computed for the counted positions alone. The order in which
/// products are summed may differ from a full evaluation's: losses agree to about 1e-6 of the document's.
///
/// # Errors
/// As [`perplexity::evaluate`]; and [`EvalError::NothingCounted`].
pub fn evaluate(
    model: &Model,
    rescale: &Rescale,
    (tokens, counted_from): (&[u32], usize),
    chunk: usize,
    cancel: &CancelFlag,
    progress: &mut dyn FnMut(f32),
) -> Result<Counted, EvalError> {
    perplexity::check(model, tokens)?;
    if counted_from >= tokens.len() {
        return Err(EvalError::NothingCounted { counted_from, tokens: tokens.len() });
    }
    let rule = AngleRule::new(&model.description().geometry, rescale)?;
    let device = |error| EvalError::device(error, tokens.len());
    let chunk = chunk.max(1);
    // The row that predicts the first counted token.
    let first_row = counted_from.max(1) - 1;
    let first_chunk = first_row / chunk;

    let mut table = RopeTable::new(rule, tokens.len(), chunk, model.device());
    let mut pass = Pass::new(model, tokens, chunk).map_err(device)?;
    let (layers, chunks) = (model.spec().layers(), pass.chunks());
    let steps = layers * chunks + (chunks - first_chunk);
    let mut done = 0;
    let mut step = || {
        progress(done as f32 / steps as f32);
        done += 1;
        if cancel.is_cancelled() { Err(EvalError::Cancelled) } else { Ok(()) }
    };
    let skip = |index: usize| first_row.saturating_sub(index * chunk);
    for layer in 0..layers {
        for index in 0..chunks {
            step()?;
            let (cos, sin) = table.rotation(index).map_err(device)?;
            if layer + 1 == layers {
                pass.advance_last(index, skip(index), (&cos, &sin)).map_err(device)?;
            } else {
                pass.advance(layer, index, (&cos, &sin)).map_err(device)?;
            }
        }
    }
    let (mut nll_sum, mut correct) = (0.0, 0);
    for index in first_chunk..chunks {
        step()?;
        let first = index * chunk + skip(index) + 1;
        let targets = &tokens[first.min(tokens.len())..((index + 1) * chunk + 1).min(tokens.len())];
        if !targets.is_empty() {
            let (nll, right) = pass.loss_and_correct(index, targets).map_err(device)?;
            (nll_sum, correct) = (nll_sum + nll, correct + right);
        }
    }
    progress(1.0);
    Ok(Counted { loss: Loss { nll_sum, tokens: (tokens.len() - 1 - first_row) as u64 }, correct })
}
