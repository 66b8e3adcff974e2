//! Folders that appear under their names whole or not at all, also when the power fails.

use super::TrainError;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// A folder that is being filled beside its place. Dropped unfinished, it is removed.
#[derive(Debug)]
pub(super) struct Part {
    path: PathBuf,
    place: PathBuf,
    finished: bool,
}

// === impl Part ===

impl Part {
    /// Begins to fill the folder `place`. What a killed process left of an earlier attempt is removed.
    pub fn of(place: &Path) -> Result<Self, TrainError> {
        let mut name = place.file_name().unwrap_or_default().to_owned();
        name.push(".part");
        let path = place.with_file_name(name);
        if path.exists() {
            fs::remove_dir_all(&path).map_err(TrainError::io("remove", &path))?;
        }
        fs::create_dir_all(&path).map_err(TrainError::io("make the folder", &path))?;
        Ok(Self { path, place: place.to_owned(), finished: false })
    }

    /// Where a file of it is to be written.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a text.
    pub fn write(&self, name: &str, content: &str) -> Result<(), TrainError> {
        let path = self.file(name);
        let write = || File::create_new(&path)?.write_all(content.as_bytes());
        write().map_err(TrainError::io("write", &path))
    }

    /// Copies a file.
    pub fn copy(&self, from: &Path) -> Result<(), TrainError> {
        let to = self.path.join(from.file_name().unwrap_or_default());
        fs::copy(from, &to).map(drop).map_err(TrainError::io("copy", from))
    }

    /// Brings everything to disk and gives the folder its name.
    pub fn finish(mut self) -> Result<(), TrainError> {
        let entries = fs::read_dir(&self.path).map_err(TrainError::io("look into", &self.path))?;
        for entry in entries {
            let path = entry.map_err(TrainError::io("look into", &self.path))?.path();
            // Some file systems notice only now that they are full.
            File::open(&path).and_then(|file| file.sync_all()).map_err(TrainError::io("write", &path))?;
        }
        sync(&self.path)?;
        fs::rename(&self.path, &self.place).map_err(TrainError::io("put in place", &self.place))?;
        self.finished = true;
        sync(self.place.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.finished {
            // The error that led here is the one to report.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Brings the names in a folder to disk.
fn sync(dir: &Path) -> Result<(), TrainError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(TrainError::io("write", dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_finished_leaves_nothing_behind() {
        let room = tempfile::tempdir().unwrap();
        let place = room.path().join("checkpoint");
        let part = Part::of(&place).unwrap();
        part.write("a", "1").unwrap();
        drop(part);
        assert_eq!(fs::read_dir(room.path()).unwrap().count(), 0);

        fs::create_dir(room.path().join("checkpoint.part")).unwrap();
        fs::write(room.path().join("checkpoint.part/old"), "0").unwrap();
        let part = Part::of(&place).unwrap();
        part.write("a", "2").unwrap();
        part.finish().unwrap();
        let names: Vec<_> = fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["a"]);
        assert_eq!(fs::read_dir(room.path()).unwrap().count(), 1);
    }
}
