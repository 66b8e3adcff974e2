//! From documents to training sequences.
//!
//! What a sequence holds depends on the seed and its number alone, so a longer training begins like a shorter one.
//! Shares are kept exactly and evenly: of any run of sequences as many are short windows or prompts as their share says,
//! to within one.

mod prompts;
mod reader;
mod skips;

pub use prompts::RetrievalTexts;

use super::{Mix, TrainSequence, TrainSpec, Window};
use crate::retrieval::PromptError;
use prompts::Prompts;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use reader::Reader;
use skips::Skips;

/// Documents from which no sequences can be made.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PackingError {
    /// Nothing to train on.
    #[error("no document has 2 tokens or more: there is nothing to train on")]
    NoDocuments,
    /// A prompt cannot be built.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// Prompts are asked for and there are no texts for them.
    #[error("a share of retrieval prompts needs the model's tokenizer; leave it out, or train on text")]
    NoTexts,
}

/// What a sequence is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Long,
    Short,
    Retrieval,
}

/// Makes the first `count` sequences of a training on `documents`, each its token ids with the beginning that the model
/// expects. `original_length` is the model's window; `texts` is needed for retrieval prompts.
///
/// A long sequence is a cut of a document that is long enough, or several documents one after another; a short one holds
/// as many cuts as short windows fit into the length.
///
/// # Errors
/// [`PackingError`] when there is nothing to train on, or no prompt can be built.
pub fn pack(
    documents: &[Vec<u32>],
    spec: &TrainSpec,
    original_length: u32,
    texts: Option<RetrievalTexts<'_>>,
    count: u64,
) -> Result<Vec<TrainSequence>, PackingError> {
    let reader = Reader::new(documents, spec.seed).ok_or(PackingError::NoDocuments)?;
    let prompts = match texts {
        Some(texts) => Some(Prompts::new(texts, spec, original_length)?),
        None if spec.mix.retrieval_share > 0.0 => return Err(PackingError::NoTexts),
        None => None,
    };
    let length = spec.length as usize;
    let short = spec.mix.short_length.unwrap_or(original_length).clamp(2, spec.length.max(2)) as usize;
    let mut skips = Skips::new(spec);
    (0..count)
        .map(|slot| {
            let mut rng = ChaCha8Rng::seed_from_u64(spec.seed);
            // Stream 0 is the order of the documents.
            rng.set_stream(slot + 1);
            let mut sequence = match (kind(&spec.mix, slot), &prompts) {
                (Kind::Short, _) => short_windows(&reader, &mut rng, slot, (length, short)),
                (Kind::Retrieval, Some(prompts)) => prompts.build(&reader, &mut rng, slot)?,
                _ => long_window(&reader, &mut rng, slot, length),
            };
            skips.put(&mut sequence, &reader, &mut rng, slot);
            Ok(sequence)
        })
        .collect()
}

/// Spreads a share evenly: it is due when the share of all up to here is a whole number more.
fn due(share: f64, slot: u64) -> bool {
    ((slot + 1) as f64 * share + 1e-9).floor() > (slot as f64 * share + 1e-9).floor()
}

fn kind(mix: &Mix, slot: u64) -> Kind {
    if due(mix.short_share, slot) {
        return Kind::Short;
    }
    // Among the slots that are left, the share of prompts is larger.
    let shorts = (slot as f64 * mix.short_share + 1e-9).floor() as u64;
    let rest = 1.0 - mix.short_share;
    if rest > 0.0 && due((mix.retrieval_share / rest).min(1.0), slot - shorts) { Kind::Retrieval } else { Kind::Long }
}

fn long_window(reader: &Reader<'_>, rng: &mut ChaCha8Rng, slot: u64, length: usize) -> TrainSequence {
    let (mut tokens, mut documents) = (Vec::with_capacity(length), Vec::new());
    let mut turn = slot;
    while tokens.len() < length {
        documents.push(tokens.len() as u32);
        tokens.extend(reader.cut(turn, rng, length - tokens.len()));
        // What follows a document that was too short is any other.
        turn = rng.random();
    }
    TrainSequence { tokens, documents, counted_from: 0, window: Window::Long, gaps: Vec::new() }
}

fn short_windows(
    reader: &Reader<'_>,
    rng: &mut ChaCha8Rng,
    slot: u64,
    (length, short): (usize, usize),
) -> TrainSequence {
    let (mut tokens, mut documents) = (Vec::with_capacity(length), Vec::new());
    let mut turn = slot;
    for _ in 0..length / short {
        documents.push(tokens.len() as u32);
        tokens.extend(reader.cut(turn, rng, short));
        turn = rng.random();
    }
    TrainSequence { tokens, documents, counted_from: 0, window: Window::Original, gaps: Vec::new() }
}

#[cfg(test)]
mod tests;
