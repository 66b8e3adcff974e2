//! What can go wrong with the store, and what to do then.

use std::io;
use std::path::{Path, PathBuf};

/// A store that cannot be opened, read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process has it open.
    #[error(
        "the store {} is in use by another process: stop that coordinator or search, or give another folder (--store, or --out of a search)", .path.display()
    )]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// Written by another version.
    #[error(
        "the store {} has version {found}, this program reads version {supported}: use the program that wrote it, or give another folder with --store", .path.display()
    )]
    Version {
        /// The folder.
        path: PathBuf,
        /// What is written there.
        found: String,
        /// What can be read.
        supported: u32,
    },
    /// Something else's folder.
    #[error("{} holds files but no store: give an empty or new folder with --store", .path.display())]
    NotAStore {
        /// The folder.
        path: PathBuf,
    },
    /// No space left.
    #[error(
        "{doing} the store {} failed, the disk is full: free 32 MiB or more and start the coordinator again; everything acknowledged is kept", .path.display()
    )]
    Full {
        /// The folder.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
    },
    /// Too little space left for a sample; what the engine writes still fits.
    #[error(
        "a sample was not stored: the disk of the store {} has {} MiB left and {} would be needed, most of them kept for searches under way; free some, then launch again", .path.display(), .free >> 20, .needed.div_ceil(1 << 20)
    )]
    NoRoomForSample {
        /// The folder.
        path: PathBuf,
        /// Bytes left.
        free: u64,
        /// Bytes that should be left.
        needed: u64,
    },
    /// Any other answer of the system.
    #[error(
        "{doing} the store {} failed: {reason}; check the disk and the folder's permissions, then start the coordinator again; everything acknowledged is kept", .path.display()
    )]
    Io {
        /// The folder.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What the system says.
        reason: String,
    },
    /// What is stored makes no sense.
    #[error(
        "the store {} is damaged: {what} cannot be read: {reason}; keep the folder, restore it from a copy, or give another one with --store", .path.display()
    )]
    Corrupt {
        /// The folder.
        path: PathBuf,
        /// What is damaged.
        what: &'static str,
        /// In which way.
        reason: String,
    },
}

// === impl StoreError ===

impl StoreError {
    pub(super) fn of_sled(path: &Path, doing: &'static str, error: sled::Error) -> Self {
        let path = path.to_owned();
        match error {
            sled::Error::Io(error) => Self::of_io(path, doing, &error),
            sled::Error::Corruption { at, .. } => {
                let reason =
                    at.map_or_else(|| "sled found corruption".into(), |at| format!("sled found corruption at {at}"));
                Self::Corrupt { path, what: "the database", reason }
            }
            sled::Error::CollectionNotFound(_) => {
                Self::Corrupt { path, what: "the database", reason: "a tree is missing".into() }
            }
            sled::Error::Unsupported(reason) | sled::Error::ReportableBug(reason) => {
                Self::Corrupt { path, what: "the database", reason }
            }
        }
    }

    pub(super) fn of_io(path: PathBuf, doing: &'static str, error: &io::Error) -> Self {
        // sled 0.34 hands errors on as text once it has failed, and reports a held lock as text always.
        let reason = error.to_string();
        if reason.contains("could not acquire lock") {
            Self::Locked { path }
        } else if error.kind() == io::ErrorKind::StorageFull || reason.contains("StorageFull") {
            Self::Full { path, doing }
        } else {
            Self::Io { path, doing, reason }
        }
    }
}
