//! The fingerprint of a model: workers prove by it that they loaded what the job was searched for.

use serde::{Deserialize, Serialize};
use std::io::{self, Read};

/// Keys of config.json that change with the tool that saved it and not with the model.
const VOLATILE_KEYS: [&str; 5] = ["transformers_version", "_name_or_path", "torch_dtype", "dtype", "use_cache"];

/// A digest of a model's configuration and weights.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint([u8; 32]);

/// A text that is no fingerprint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a model fingerprint: it has 64 hexadecimal digits")]
pub struct InvalidFingerprint;

/// Collects a model's files into its [`Fingerprint`].
#[derive(Debug)]
pub struct Fingerprinter(blake3::Hasher);

// === impl Fingerprinter ===

impl Fingerprinter {
    /// Begins with the model's config.json; the order of its keys and keys without influence do not count.
    pub fn new(config: &serde_json::Value) -> Self {
        let mut config = config.clone();
        if let Some(object) = config.as_object_mut() {
            object.retain(|key, _| !VOLATILE_KEYS.contains(&key.as_str()));
        }
        let mut hash = blake3::Hasher::new_derive_key("ropewalk model fingerprint v1");
        hash.update(blake3::hash(canonical(&config).as_bytes()).as_bytes());
        Self(hash)
    }

    /// Adds one weight file. Call in the order of the names.
    ///
    /// # Errors
    /// What the reader reports.
    pub fn file(&mut self, name: &str, content: impl Read) -> io::Result<()> {
        let mut hash = blake3::Hasher::new();
        hash.update_reader(content)?;
        self.digest(name, *hash.finalize().as_bytes());
        Ok(())
    }

    /// Adds one weight file by the BLAKE3 digest of its content, for callers that hash in parallel.
    pub fn digest(&mut self, name: &str, content: [u8; 32]) {
        self.0.update(&(name.len() as u64).to_le_bytes());
        self.0.update(name.as_bytes());
        self.0.update(&content);
    }

    /// The fingerprint of everything added.
    pub fn finish(self) -> Fingerprint {
        Fingerprint(*self.0.finalize().as_bytes())
    }
}

/// JSON with every object's keys in order, whatever order the map type keeps.
fn canonical(value: &serde_json::Value) -> String {
    let mut value = value.clone();
    value.sort_all_objects();
    value.to_string()
}

// === impl Fingerprint ===

impl Fingerprint {
    /// The digest.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first 12 digits, for people.
    pub fn short(&self) -> String {
        self.to_string()[..12].to_owned()
    }
}

impl From<[u8; 32]> for Fingerprint {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

crate::hex_digest!(Fingerprint, InvalidFingerprint);

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fingerprint(config: serde_json::Value, files: &[(&str, &[u8])]) -> Fingerprint {
        let mut fingerprinter = Fingerprinter::new(&config);
        for (name, content) in files {
            fingerprinter.file(name, *content).unwrap();
        }
        fingerprinter.finish()
    }

    #[test]
    fn what_changes_the_model_changes_the_fingerprint() {
        let base = fingerprint(json!({"a": 1, "b": {"c": 2, "d": 3}}), &[("w", b"12")]);
        assert_eq!(base, fingerprint(json!({"b": {"d": 3, "c": 2}, "a": 1, "use_cache": true}), &[("w", b"12")]));
        assert_ne!(base, fingerprint(json!({"a": 2, "b": {"c": 2, "d": 3}}), &[("w", b"12")]));
        assert_ne!(base, fingerprint(json!({"a": 1, "b": {"c": 2, "d": 3}}), &[("w", b"13")]));
        assert_ne!(base, fingerprint(json!({"a": 1, "b": {"c": 2, "d": 3}}), &[("v", b"12")]));
        assert_ne!(base, fingerprint(json!({"a": 1, "b": {"c": 2, "d": 3}}), &[("w", b"1"), ("", b"2")]));
    }

    #[test]
    fn a_fingerprint_survives_its_text() {
        let print = fingerprint(json!({}), &[]);
        assert_eq!(print.to_string().parse(), Ok(print));
        assert_eq!("abc".parse::<Fingerprint>(), Err(InvalidFingerprint));
    }
}
