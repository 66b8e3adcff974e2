//! The folder under another name until it is whole.

use super::CheckpointError;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Leftovers of killed processes that are passed over before giving up.
const MAX_LEFTOVERS: usize = 100;

/// A folder that is being filled. Dropped unfinished, it is removed.
#[derive(Debug)]
pub(super) struct Part {
    path: PathBuf,
    out: PathBuf,
    finished: bool,
}

/// The place `out` names, through symbolic links, if a folder can be put there.
pub(super) fn resolve(out: &Path) -> Result<PathBuf, CheckpointError> {
    let out = match out.canonicalize() {
        Ok(out) => out,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return match out.file_name() {
                // A link that leads nowhere is something too.
                Some(_) if out.symlink_metadata().is_err() => Ok(out.to_owned()),
                _ => Err(CheckpointError::NotAFolder { out: out.to_owned() }),
            };
        }
        Err(error) => return Err(CheckpointError::io("look at", out)(error)),
    };
    if !out.is_dir() || out.file_name().is_none() {
        return Err(CheckpointError::NotAFolder { out });
    }
    match fs::read_dir(&out).map_err(CheckpointError::io("look into", &out))?.next() {
        None => Ok(out),
        Some(_) => Err(CheckpointError::NotEmpty { out }),
    }
}

/// Removes what killed processes left beside `out`: whoever calls this knows that nobody is writing there.
///
/// # Errors
/// [`CheckpointError::Io`] when something cannot be removed.
pub fn remove_leftovers(out: &Path) -> Result<(), CheckpointError> {
    let (Some(parent), Some(name)) = (out.parent(), out.file_name()) else { return Ok(()) };
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_leftover = |other: &str| {
        let middle = other.strip_prefix(&*name.to_string_lossy()).and_then(|rest| rest.strip_prefix('.'));
        let numbers = middle.and_then(|rest| rest.strip_suffix(".part")?.split_once('-'));
        numbers.is_some_and(|(process, attempt)| is_number(process) && is_number(attempt))
    };
    let entries = match fs::read_dir(parent) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(CheckpointError::io("look into", parent)(error)),
    };
    for entry in entries {
        let entry = entry.map_err(CheckpointError::io("look into", parent))?;
        if is_leftover(&entry.file_name().to_string_lossy()) {
            fs::remove_dir_all(entry.path()).map_err(CheckpointError::io("remove", &entry.path()))?;
        }
    }
    Ok(())
}

// === impl Part ===

impl Part {
    /// An empty folder beside `out`, on the same file system.
    pub(super) fn beside(out: &Path) -> Result<Self, CheckpointError> {
        let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(CheckpointError::io("make the folder", parent))?;
        let mut attempt = 0;
        loop {
            let mut name = out.file_name().unwrap_or_default().to_owned();
            name.push(format!(".{}-{attempt}.part", std::process::id()));
            let path = parent.join(name);
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Self { path, out: out.to_owned(), finished: false }),
                // Process ids come again, above all in containers.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempt < MAX_LEFTOVERS => attempt += 1,
                Err(error) => return Err(CheckpointError::io("make the folder", &path)(error)),
            }
        }
    }

    /// Where it is being filled.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Puts a file there: as a hard link, made by `link`, else as a copy. True when linked.
    pub(super) fn link_or_copy(
        &self,
        from: &Path,
        link: impl FnOnce(&Path, &Path) -> io::Result<()>,
    ) -> Result<bool, CheckpointError> {
        // The file itself: a hard link to a symbolic one, as download caches have them, would lead nowhere.
        let file = from.canonicalize().map_err(CheckpointError::io("read", from))?;
        let to = self.path.join(from.file_name().unwrap_or_default());
        // Other file systems, file systems without links, files of others: whatever the reason, copying may still work.
        match link(&file, &to) {
            Ok(()) => Ok(true),
            Err(_) => self.copy(from).map(|()| false),
        }
    }

    /// Copies a file there.
    pub(super) fn copy(&self, from: &Path) -> Result<(), CheckpointError> {
        let to = self.path.join(from.file_name().unwrap_or_default());
        let mut source = File::open(from).map_err(CheckpointError::io("read", from))?;
        let copied = File::create_new(&to).and_then(|mut file| {
            io::copy(&mut source, &mut file)?;
            // Some file systems notice only now that they are full.
            file.sync_all()
        });
        copied.map_err(CheckpointError::io("write", &to))
    }

    /// Writes a text there.
    pub(super) fn write(&self, name: &str, content: &str) -> Result<(), CheckpointError> {
        let to = self.path.join(name);
        let written = File::create_new(&to).and_then(|mut file| {
            file.write_all(content.as_bytes())?;
            file.sync_all()
        });
        written.map_err(CheckpointError::io("write", &to))
    }

    /// Gives the folder its name.
    pub(super) fn finish(mut self) -> Result<(), CheckpointError> {
        fs::rename(&self.path, &self.out).map_err(CheckpointError::io("put in place", &self.out))?;
        self.finished = true;
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_linked_is_copied() {
        let room = tempfile::tempdir().unwrap();
        let from = room.path().join("model.safetensors");
        fs::write(&from, b"weights").unwrap();
        let out = room.path().join("out");
        let part = Part::beside(&out).unwrap();
        let refused = |_: &Path, _: &Path| Err(io::ErrorKind::CrossesDevices.into());
        assert!(!part.link_or_copy(&from, refused).unwrap());
        part.finish().unwrap();
        assert_eq!(fs::read(out.join("model.safetensors")).unwrap(), b"weights");
        fs::write(out.join("model.safetensors"), b"changed").unwrap();
        assert_eq!(fs::read(&from).unwrap(), b"weights");
    }

    #[test]
    fn leftovers_are_passed_over_and_unfinished_folders_removed() {
        let room = tempfile::tempdir().unwrap();
        let out = room.path().join("out");
        let first = Part::beside(&out).unwrap();
        first.write("config.json", "{}").unwrap();
        let second = Part::beside(&out).unwrap();
        assert_ne!(first.path, second.path);
        drop((first, second));
        assert_eq!(fs::read_dir(room.path()).unwrap().count(), 0);
    }

    #[test]
    fn leftovers_are_removed_and_nothing_else() {
        let room = tempfile::tempdir().unwrap();
        let others =
            ["out", "out.part", "out.1-.part", "out.x-0.part", "out2.1-0.part", "out.1-0.parts", "out.f.1-0.part"];
        for name in others.iter().chain(&["out.1-0.part", "out.4711-13.part"]) {
            fs::create_dir(room.path().join(name)).unwrap();
            fs::write(room.path().join(name).join("model.safetensors"), b"half").unwrap();
        }
        remove_leftovers(&room.path().join("out")).unwrap();
        let left = fs::read_dir(room.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut left: Vec<String> = left.map(|name| name.into_string().unwrap()).collect();
        left.sort();
        let mut expected = others.map(str::to_owned);
        expected.sort();
        assert_eq!(left, expected);
        remove_leftovers(&room.path().join("no/such/out")).unwrap();
    }

    #[test]
    fn a_folder_that_was_filled_meanwhile_is_left_alone() {
        let room = tempfile::tempdir().unwrap();
        let out = room.path().join("out");
        fs::create_dir(&out).unwrap();
        let part = Part::beside(&resolve(&out).unwrap()).unwrap();
        fs::write(out.join("mine"), b"mine").unwrap();
        assert!(matches!(part.finish(), Err(CheckpointError::Io { .. })));
        assert_eq!(fs::read_dir(room.path()).unwrap().count(), 1);
        assert_eq!(fs::read(out.join("mine")).unwrap(), b"mine");
    }
}
