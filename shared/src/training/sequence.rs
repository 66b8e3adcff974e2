//! What goes through the model at once.

use super::Gap;
use crate::sample::MAX_SAMPLE_TOKENS;
use serde::{Deserialize, Serialize};

/// Token ids to train on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainSequence {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// Where documents begin: ascending, the first at 0.
    pub documents: Vec<u32>,
    /// First position whose token is counted; 0 and 1 both mean all.
    pub counted_from: u32,
    /// Under which RoPE, and what sees what.
    pub window: Window,
    /// Positions that are skipped, in ascending order; none under the original RoPE.
    pub gaps: Vec<Gap>,
}

/// The two windows of mixed training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Window {
    /// The rescaled RoPE over the whole sequence. Documents packed into it see those before them.
    Long,
    /// The original RoPE, from position 0 in every document, which sees no other.
    Original,
}

/// A sequence that cannot be trained on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("training sequence {index} {reason}")]
pub struct InvalidSequence {
    /// Which of them, from 0.
    pub index: usize,
    /// What is wrong with it.
    pub reason: String,
}

// === impl TrainSequence ===

impl TrainSequence {
    /// One document, all of it counted.
    pub fn long(tokens: Vec<u32>) -> Self {
        Self { tokens, documents: vec![0], counted_from: 0, window: Window::Long, gaps: Vec::new() }
    }

    /// What goes through the model by itself: token ids, and the first counted position among them. Parts of which
    /// nothing is counted are left out.
    pub fn passes(&self) -> impl Iterator<Item = (&[u32], usize)> {
        let counted_from = self.counted_from as usize;
        let starts: &[u32] = match self.window {
            Window::Long => &[0],
            Window::Original => &self.documents,
        };
        let ends = starts.iter().skip(1).map(|&start| start as usize).chain([self.tokens.len()]);
        let parts = starts.iter().map(|&start| start as usize).zip(ends);
        let parts = parts.map(move |(start, end)| (&self.tokens[start..end], counted_from.saturating_sub(start)));
        parts.filter(|(tokens, counted_from)| tokens.len() >= 2 && *counted_from < tokens.len())
    }

    /// Number of counted tokens.
    pub fn counted(&self) -> u64 {
        self.passes().map(|(tokens, counted_from)| (tokens.len() - counted_from.max(1)) as u64).sum()
    }

    fn has_gaps_in_order(&self) -> bool {
        let width: u64 = self.gaps.iter().map(|gap| u64::from(gap.width)).sum();
        self.window == Window::Long
            && self.gaps.is_sorted_by(|a, b| a.before < b.before)
            && self.gaps.last().is_none_or(|last| (last.before as usize) < self.tokens.len())
            && self.tokens.len() as u64 + width <= MAX_SAMPLE_TOKENS as u64
    }

    /// Checks that a model with so many token ids can be trained on it, `index` being its number.
    ///
    /// # Errors
    /// [`InvalidSequence`] says what is wrong.
    pub fn check(&self, index: usize, vocab: usize) -> Result<(), InvalidSequence> {
        let length = self.tokens.len();
        let reason = if let Some(at) = self.tokens.iter().position(|&token| token as usize >= vocab) {
            format!("has token {} at {at}, the model's vocabulary has {vocab} ids", self.tokens[at])
        } else if self.documents.first() != Some(&0) || !self.documents.is_sorted_by(|a, b| a < b) {
            "must list where its documents begin, ascending, the first at 0".to_owned()
        } else if self.documents.last().is_some_and(|&last| last as usize >= length) {
            format!("has a document that begins behind its end at {length}")
        } else if !self.gaps.is_empty() && !self.has_gaps_in_order() {
            format!(
                "must list its gaps in ascending order, within its {length} tokens, with {MAX_SAMPLE_TOKENS} positions at \
                 most in all and only under the rescaled RoPE"
            )
        } else if self.counted() == 0 {
            format!("has {length} tokens of which none is counted")
        } else {
            return Ok(());
        };
        Err(InvalidSequence { index, reason })
    }
}
