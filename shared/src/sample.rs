//! Samples: the token ids a candidate is judged on.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The longest sample accepted anywhere, in tokens (16 times the paper's longest window).
pub const MAX_SAMPLE_TOKENS: usize = 1 << 25;

/// A sequence of token ids, beginning-of-document id included where the model has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    tokens: Vec<u32>,
}

/// Content address of a sample: equal exactly when the tokens are.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SampleId([u8; 32]);

/// Token ids that are no sample.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a sample has 2 to {MAX_SAMPLE_TOKENS} tokens, this one has {0}")]
pub struct InvalidSample(pub usize);

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
        if (2..=MAX_SAMPLE_TOKENS).contains(&tokens.len()) {
            Ok(Self { tokens })
        } else {
            Err(InvalidSample(tokens.len()))
        }
    }

    /// The token ids.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The content address: BLAKE3 over the ids as little-endian 32-bit numbers.
    pub fn id(&self) -> SampleId {
        let mut hash = blake3::Hasher::new_derive_key("ropewalk sample v1");
        for token in &self.tokens {
            hash.update(&token.to_le_bytes());
        }
        SampleId(*hash.finalize().as_bytes())
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

impl fmt::Display for SampleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SampleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SampleId({self})")
    }
}

impl FromStr for SampleId {
    type Err = InvalidSampleId;
    fn from_str(text: &str) -> Result<Self, InvalidSampleId> {
        blake3::Hash::from_hex(text).map(|hash| Self(*hash.as_bytes())).map_err(|_| InvalidSampleId)
    }
}

impl TryFrom<String> for SampleId {
    type Error = InvalidSampleId;
    fn try_from(text: String) -> Result<Self, InvalidSampleId> {
        text.parse()
    }
}

impl From<SampleId> for String {
    fn from(id: SampleId) -> String {
        id.to_string()
    }
}

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
        assert_eq!(Sample::new(vec![7]), Err(InvalidSample(1)));
    }
}
