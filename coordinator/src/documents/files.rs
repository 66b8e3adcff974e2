//! From the paths that were given to files: folders are gone through, sorted and recursively.

use super::error::DocumentsError;
use std::fs;
use std::path::{Path, PathBuf};

const MAX_FILES: usize = 1_000_000;
/// Deeper than any corpus; a link that leads back up ends here.
const MAX_DEPTH: usize = 64;

/// A file that a path led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundFile {
    /// Where it is.
    pub path: PathBuf,
    /// It was named itself, and not a folder around it.
    pub is_named: bool,
}

/// All files the paths lead to, each folder's in the order of their names. Hidden names inside folders are left out.
pub fn expand(paths: &[PathBuf]) -> Result<Vec<FoundFile>, DocumentsError> {
    if paths.is_empty() {
        return Err(DocumentsError::NoPaths);
    }
    let mut files = Vec::new();
    for path in paths {
        let before = files.len();
        collect(path, path, 0, &mut files)?;
        if files.len() == before {
            return Err(DocumentsError::EmptyFolder(path.clone()));
        }
    }
    Ok(files)
}

fn collect(root: &Path, path: &Path, depth: usize, files: &mut Vec<FoundFile>) -> Result<(), DocumentsError> {
    let too_many = |what, limit| DocumentsError::TooMany { path: root.to_owned(), what, limit };
    let metadata = fs::metadata(path).map_err(DocumentsError::io(path))?;
    if !metadata.is_dir() {
        if !metadata.is_file() {
            return Err(DocumentsError::NotAFile(path.to_owned()));
        }
        if files.len() == MAX_FILES {
            return Err(too_many("files", MAX_FILES));
        }
        files.push(FoundFile { path: path.to_owned(), is_named: depth == 0 });
        return Ok(());
    }
    if depth == MAX_DEPTH {
        return Err(too_many("folders inside each other", MAX_DEPTH));
    }
    let mut entries = Vec::new();
    for entry in fs::read_dir(path).map_err(DocumentsError::io(path))? {
        let entry = entry.map_err(DocumentsError::io(path))?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            entries.push(entry.path());
        }
    }
    entries.sort();
    entries.iter().try_for_each(|entry| collect(root, entry, depth + 1, files))
}
