//! That one process at a time trains in a folder.

use super::TrainError;
use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::path::Path;

/// Name of the file that is locked. It stays: a lock whose file is removed can be had twice.
const NAME: &str = "lock";

/// A folder of checkpoints that nobody else trains in until this is dropped, or the process ends in whatever way.
#[derive(Debug)]
pub(super) struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Takes the folder, which is made if it is not there.
    ///
    /// # Errors
    /// [`TrainError::Busy`] when somebody has it.
    pub fn take(dir: &Path) -> Result<Self, TrainError> {
        std::fs::create_dir_all(dir).map_err(TrainError::io("make the folder", dir))?;
        let path = dir.join(NAME);
        let file = File::options().write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(TrainError::io("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(TrainError::Busy { dir: dir.to_owned() }),
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {
                tracing::warn!(folder = %dir.display(), "the file system has no locks: nothing keeps others out");
            }
            Err(TryLockError::Error(error)) => return Err(TrainError::io("lock", &path)(error)),
        }
        Ok(Self { _file: file })
    }
}
