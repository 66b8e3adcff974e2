//! What stands in the way of a checkpoint.

use crate::export::ExportError;
use std::io;
use std::path::PathBuf;

/// A checkpoint that cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The factors do not fit the model, or config.json cannot say them.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// A model without weights.
    #[error("{} has no weights (model.safetensors, or shards with their index): name the folder of a whole model", model.display())]
    NoWeights {
        /// Its folder.
        model: PathBuf,
    },
    /// The same shape, and another configuration or other weights.
    #[error(
        "the factors were searched for model {searched:?} (fingerprint {searched_fingerprint}), and {name:?} has the \
         fingerprint {fingerprint}: another configuration or other weights; name the folder of the model that was \
         searched, or, for a copy of it with other weights, remove \"model\" from the factor file"
    )]
    OtherWeights {
        /// Name of the model that was searched.
        searched: String,
        /// First digits of its fingerprint.
        searched_fingerprint: String,
        /// Name of this model.
        name: String,
        /// First digits of its fingerprint.
        fingerprint: String,
    },
    /// Weights that cannot take in the attention factors of pairs.
    #[error("the attention factors of pairs cannot be folded into the weights: {0}")]
    Fold(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A folder with something in it.
    #[error("{} is not empty: name a new folder, or empty it first", out.display())]
    NotEmpty {
        /// The folder.
        out: PathBuf,
    },
    /// A file where a folder is to be, or no name at all.
    #[error("{} is no place for a folder: name a new one", out.display())]
    NotAFolder {
        /// What was named.
        out: PathBuf,
    },
    /// Something that cannot be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

// === impl CheckpointError ===

impl CheckpointError {
    /// Whether the request was wrong, and not the work.
    pub fn is_input(&self) -> bool {
        !matches!(self, Self::Io { .. } | Self::Fold(_))
    }

    /// Wraps what a file operation reports.
    pub(super) fn io(action: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}
