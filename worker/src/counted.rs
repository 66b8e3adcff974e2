//! The loss of a document's last tokens alone, and how many of them the model would have said itself.
//!
//! Greedy decoding from the tokens before gives exactly the counted tokens if and only if each of them is the arg max
//! of its position given all true tokens before it. So one pass tells what decoding would, without a cache over all
//! layers and without a pass per token.

use crate::cancel::CancelFlag;
use crate::first_layer::Share;
use crate::model::Model;
use crate::perplexity::{EvalError, Loss};
use crate::ring::{self, Asked, Route};
use ropewalk_shared::rope::Rescale;

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

/// As [`crate::perplexity::evaluate`], of the tokens from position `counted_from` on; 0 and 1 both mean all that have one
/// before them.
///
/// The last layer's queries, its MLP and the logits are computed for the counted positions alone. The order in which
/// products are summed may differ from a full evaluation's: losses agree to about 1e-6 of the document's.
///
/// # Errors
/// As [`crate::perplexity::evaluate`]; and [`EvalError::NothingCounted`].
pub fn evaluate(
    model: &Model,
    rescale: &Rescale,
    (tokens, counted_from): (&[u32], usize),
    chunk: usize,
    cancel: &CancelFlag,
    progress: &mut dyn FnMut(f32),
) -> Result<Counted, EvalError> {
    let route = Route::new(model, &[Asked { rescale, cancel }], (tokens, counted_from), chunk)?;
    let counted = ring::run(&route, &mut Share::none(), progress)?;
    counted.into_iter().flatten().next().ok_or(EvalError::Cancelled)
}
