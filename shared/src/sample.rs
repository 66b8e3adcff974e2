//! Samples: the token ids a candidate is judged on.

use serde::{Deserialize, Serialize};

/// The longest sample accepted anywhere, in tokens (16 times the paper's longest window).
pub const MAX_SAMPLE_TOKENS: usize = 1 << 25;

/// A sequence of token ids, beginning-of-document id included where the model has one, and which of them count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    tokens: Vec<u32>,
    counted_from: u32,
}

/// What a coordinator has to know of a sample's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleShape {
    /// How many there are.
    pub tokens: u32,
    /// Position of the first whose loss counts; at least 1, as nothing predicts the first token of all.
    pub counted_from: u32,
}

/// Content address of a sample: equal exactly when the tokens are, and which of them count.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SampleId([u8; 32]);

/// Token ids that are no sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSample {
    /// Too few or too many.
    #[error("a sample has 2 to {MAX_SAMPLE_TOKENS} tokens, this one has {0}")]
    Length(usize),
    /// No token's loss would count.
    #[error("no token of the sample counts: it has {tokens}, and they count from position {counted_from}")]
    NothingCounted {
        /// Tokens of the sample.
        tokens: usize,
        /// Position of the first that was to count.
        counted_from: u32,
    },
}

/// A text that is no sample id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a sample id: it has 64 hexadecimal digits")]
pub struct InvalidSampleId;

// === impl Sample ===

impl Sample {
    /// A sample of at least two tokens, so that one is predicted.
    ///
    /// # Errors
    /// [`InvalidSample`] when there are fewer, or more than [`MAX_SAMPLE_TOKENS`].
    pub fn new(tokens: Vec<u32>) -> Result<Self, InvalidSample> {
        Self::counted(tokens, 1)
    }

    /// The first `length` tokens, all of which count that have one before them; all tokens where there are fewer.
    ///
    /// # Errors
    /// [`InvalidSample`] when that is less than two.
    pub fn beginning(&self, length: u32) -> Result<Self, InvalidSample> {
        let tokens = self.tokens();
        Self::new(tokens[..tokens.len().min(length as usize)].to_vec())
    }

    /// A sample whose tokens count from a position on; 0 and 1 both mean all that have one before them.
    ///
    /// # Errors
    /// [`InvalidSample`] as for [`Sample::new`], and when no token counts.
    pub fn counted(tokens: Vec<u32>, counted_from: u32) -> Result<Self, InvalidSample> {
        if !(2..=MAX_SAMPLE_TOKENS).contains(&tokens.len()) {
            return Err(InvalidSample::Length(tokens.len()));
        }
        if counted_from as usize >= tokens.len() {
            return Err(InvalidSample::NothingCounted { tokens: tokens.len(), counted_from });
        }
        Ok(Self { tokens, counted_from: counted_from.max(1) })
    }

    /// The token ids.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Position of the first token whose loss counts, at least 1.
    pub fn counted_from(&self) -> u32 {
        self.counted_from
    }

    /// Length and counted part.
    pub fn shape(&self) -> SampleShape {
        // No sample is longer than 32 bits can say.
        SampleShape { tokens: self.tokens.len() as u32, counted_from: self.counted_from }
    }

    /// The content address: BLAKE3 over the ids as little-endian 32-bit numbers; where not all tokens count, under
    /// another key and after the position from which they do.
    pub fn id(&self) -> SampleId {
        let mut hash = if self.counted_from == 1 {
            blake3::Hasher::new_derive_key("ropewalk sample v1")
        } else {
            let mut hash = blake3::Hasher::new_derive_key("ropewalk counted sample v1");
            hash.update(&self.counted_from.to_le_bytes());
            hash
        };
        for token in &self.tokens {
            hash.update(&token.to_le_bytes());
        }
        SampleId(*hash.finalize().as_bytes())
    }
}

// === impl SampleShape ===

impl SampleShape {
    /// Number of tokens whose loss counts.
    pub fn counted(&self) -> u64 {
        u64::from(self.tokens.saturating_sub(self.counted_from))
    }

    /// Whether every token counts that has one before it.
    pub fn is_whole(&self) -> bool {
        self.counted_from == 1
    }
}

// === impl SampleId ===

impl SampleId {
    /// The digest.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for SampleId {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

crate::hex_digest!(SampleId, InvalidSampleId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_the_content() {
        let id = |tokens: &[u32]| Sample::new(tokens.to_vec()).unwrap().id();
        assert_eq!(id(&[1, 2, 3]), id(&[1, 2, 3]));
        assert_ne!(id(&[1, 2, 3]), id(&[1, 2, 4]));
        assert_ne!(id(&[1, 2, 3]), id(&[1, 2, 3, 0]));
        assert_eq!(id(&[1, 2]).to_string().parse(), Ok(id(&[1, 2])));
    }

    #[test]
    fn one_token_predicts_nothing() {
        assert_eq!(Sample::new(vec![7]), Err(InvalidSample::Length(1)));
    }

    #[test]
    fn what_counts_belongs_to_the_identity() {
        let from = |counted_from| Sample::counted(vec![1, 2, 3], counted_from).unwrap();
        assert_eq!(from(0), Sample::new(vec![1, 2, 3]).unwrap());
        assert_ne!(from(1).id(), from(2).id());
        assert_eq!((from(1).shape().counted(), from(2).shape().counted()), (2, 1));
        assert!(from(1).shape().is_whole() && !from(2).shape().is_whole());
        let nothing = InvalidSample::NothingCounted { tokens: 3, counted_from: 3 };
        assert_eq!(Sample::counted(vec![1, 2, 3], 3), Err(nothing));
    }
}
