//! Room on the disk: asked for before sled needs it, since it does not always survive its lack.
//!
//! Once a write of sled's has failed, what it flushed before is still whole; but opening the database on a full disk
//! may damage it for good (seen with 0.34.7 on a full tmpfs). So neither is tried without some space to spare.

use super::StoreError;
use std::path::Path;

/// Free space without which nothing is written: several of sled's segments.
pub(super) const TO_WRITE: u64 = 16 << 20;
/// Free space that uploads leave: what a client sends must not bring the disk to where the engine has to stop.
pub(super) const BESIDE_UPLOADS: u64 = 256 << 20;
/// Free space without which no store is opened: recovery writes too, before it is asked to.
pub(super) const TO_OPEN: u64 = 32 << 20;

/// Free bytes, where the system tells.
pub(super) fn free(path: &Path) -> Option<u64> {
    fs2::available_space(path).ok()
}

/// Whether there is this much room; where the system does not tell, there is.
pub(super) fn require(path: &Path, doing: &'static str, bytes: u64) -> Result<(), StoreError> {
    match fs2::available_space(path) {
        Ok(free) if free < bytes => Err(StoreError::Full { path: path.to_owned(), doing }),
        _ => Ok(()),
    }
}

/// Whether a part of a sample of so many bytes can be stored and leaves enough for everything else.
pub(super) fn require_for_upload(path: &Path, bytes: u64) -> Result<(), StoreError> {
    // sled writes parts more than once before it has found their place.
    let needed = 3 * bytes + BESIDE_UPLOADS;
    match fs2::available_space(path) {
        Ok(free) if free < needed => Err(StoreError::NoRoomForSample { path: path.to_owned(), free, needed }),
        _ => Ok(()),
    }
}
