//! What makes a training this one and no other.

use ropewalk_shared::fingerprint::Fingerprint;
use ropewalk_shared::training::{TrainSequence, TrainSpec, Window};

/// A digest of all that the trained weights depend on. How often checkpoints are taken is no part of it.
pub(super) fn of(spec: &TrainSpec, model: Fingerprint, sequences: &[TrainSequence]) -> String {
    let mut hash = blake3::Hasher::new_derive_key("ropewalk training v1");
    hash.update(model.as_bytes());
    let spec = TrainSpec { checkpoint_every: 1, ..spec.clone() };
    // Numbers are written so that they read back as they were, and fields in the order of the type.
    hash.update(serde_json::to_string(&spec).unwrap_or_default().as_bytes());
    for sequence in sequences {
        let counts = [sequence.tokens.len() as u64, sequence.documents.len() as u64, sequence.counted_from.into()];
        counts.iter().for_each(|count| {
            hash.update(&count.to_le_bytes());
        });
        hash.update(&[u8::from(sequence.window == Window::Long)]);
        // Left out where there are none, so that trainings begun before there were any keep their identity.
        for gap in &sequence.gaps {
            hash.update(b"gap");
            [gap.before, gap.width].iter().for_each(|number| {
                hash.update(&number.to_le_bytes());
            });
        }
        for number in sequence.tokens.iter().chain(&sequence.documents) {
            hash.update(&number.to_le_bytes());
        }
    }
    hash.finalize().to_hex().to_string()
}
