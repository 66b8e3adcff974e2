//! Job ids: a name for people and a digest of the specification.

use super::JobSpec;
use crate::plain_name;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

const DIGEST_DIGITS: usize = 10;
/// Longest job id accepted from outside.
const MAX_LENGTH: usize = 80;

/// `<name>-<digest>`: launching the same specification twice names the same job.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JobId(String);

/// A text that cannot be a job id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no job id; `ropewalk jobs` lists them")]
pub struct InvalidJobId(String);

impl JobId {
    pub(super) fn of(spec: &JobSpec) -> Self {
        Self::derived("ropewalk job v1", &spec.name, spec)
    }

    /// The id of a specification of the kind that `context` names.
    pub(crate) fn derived(context: &str, name: &str, spec: &impl Serialize) -> Self {
        // Field order is that of the struct, and floats are written shortest-exact: equal specifications, equal text.
        let text = serde_json::to_vec(spec).unwrap_or_default();
        let mut hash = blake3::Hasher::new_derive_key(context);
        hash.update(&text);
        let digest = hash.finalize().to_hex();
        Self(format!("{name}-{}", &digest[..DIGEST_DIGITS]))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JobId({})", self.0)
    }
}

impl FromStr for JobId {
    type Err = InvalidJobId;
    fn from_str(text: &str) -> Result<Self, InvalidJobId> {
        if plain_name::check(text, MAX_LENGTH).is_ok() {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidJobId(text.chars().take(MAX_LENGTH).collect()))
        }
    }
}

impl TryFrom<String> for JobId {
    type Error = InvalidJobId;
    fn try_from(text: String) -> Result<Self, InvalidJobId> {
        text.parse()
    }
}

impl From<JobId> for String {
    fn from(id: JobId) -> String {
        id.0
    }
}
