//! The identity of a stage's result: everything that determines it.

use super::stage::Stage;
use serde::{Deserialize, Serialize};

/// A digest of a stage's settings, of the inputs it reads, and of the identities of the stages it needs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StageId([u8; 32]);

/// A text that is no identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the identity of a stage: it has 64 hexadecimal digits")]
pub struct InvalidStageId;

// === impl StageId ===

impl StageId {
    /// Of a stage that needs results with these identities, in the order of [`Stage::needs`], and reads these `inputs`: digests
    /// of models, documents and files under names that tell them apart.
    ///
    /// # Errors
    /// Never for stages that were read from a plan: JSON can write them.
    pub fn of(stage: &Stage, needs: &[Self], inputs: &[(&str, [u8; 32])]) -> Result<Self, serde_json::Error> {
        let mut hash = blake3::Hasher::new_derive_key("ropewalk plan stage v1");
        let mut part = |bytes: &[u8]| {
            hash.update(&(bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        part(&serde_json::to_vec(stage)?);
        for need in needs {
            part(&need.0);
        }
        for (name, digest) in inputs {
            part(name.as_bytes());
            part(digest);
        }
        Ok(Self(*hash.finalize().as_bytes()))
    }
}

ropewalk_shared::hex_digest!(StageId, InvalidStageId);
