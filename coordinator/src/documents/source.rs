//! One document: where it stands, and what is in it.

use super::error::{DocumentsError, TextProblem};
use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Bytes that stand for a whole document where documents are told apart before they are tokenised.
const KEY_BYTES: usize = 64 << 10;

/// As far as a file is looked at to tell whether it is text.
const LOOK_BYTES: usize = 8000;

/// What some programs write before a text.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// Where a document stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub path: PathBuf,
    /// Line or row in it, from 1; absent when the file is the document.
    pub line: Option<u64>,
}

/// One document.
#[derive(Clone, Debug)]
pub struct Document {
    /// Where it stands.
    pub place: Place,
    pub(super) body: Body,
}

/// What is in a document.
#[derive(Clone, Debug)]
pub(super) enum Body {
    /// A text file of this many bytes, read as far as it is needed.
    File(u64),
    /// Text that had to be read to be found.
    Text(String),
    /// Token ids, used as they are.
    Ids(Vec<u32>),
    /// A file that is no text.
    Binary,
}

// === impl Place ===

impl Place {
    pub(super) fn file(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), line: None }
    }

    pub(super) fn line(path: &Path, line: u64) -> Self {
        Self { path: path.to_owned(), line: Some(line) }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        self.line.map_or(Ok(()), |line| write!(f, ":{line}"))
    }
}

// === impl Document ===

impl Document {
    /// A whole file as one document.
    pub(super) fn of_file(path: &Path) -> Result<Self, DocumentsError> {
        let size = std::fs::metadata(path).map_err(DocumentsError::io(path))?.len();
        Ok(Self { place: Place::file(path), body: Body::File(size) })
    }

    /// A file that lies in a folder with others: one with a zero byte near its beginning, such as an image, is no document.
    pub(super) fn of_found_file(path: &Path) -> Result<Self, DocumentsError> {
        let document = Self::of_file(path)?;
        let is_binary = document.read(LOOK_BYTES)?.contains(&0);
        Ok(if is_binary { Self { body: Body::Binary, ..document } } else { document })
    }

    /// Whether it is no text at all.
    pub fn is_binary(&self) -> bool {
        matches!(self.body, Body::Binary)
    }

    /// Size in bytes, before tokenising.
    fn size(&self) -> usize {
        match &self.body {
            Body::File(size) => usize::try_from(*size).unwrap_or(usize::MAX),
            Body::Text(text) => text.len(),
            Body::Ids(ids) => 4 * ids.len(),
            Body::Binary => 0,
        }
    }

    /// Feeds what tells this document from others into a hash: its size and its first 64 KiB.
    pub(super) fn hash_into(&self, hash: &mut blake3::Hasher) -> Result<(), DocumentsError> {
        hash.update(&(self.size() as u64).to_le_bytes());
        match &self.body {
            Body::Ids(ids) => ids.iter().take(KEY_BYTES / 4).for_each(|id| {
                hash.update(&id.to_le_bytes());
            }),
            Body::Text(text) => {
                hash.update(&text.as_bytes()[..text.len().min(KEY_BYTES)]);
            }
            Body::File(_) => {
                hash.update(&self.read(KEY_BYTES)?);
            }
            Body::Binary => {}
        }
        Ok(())
    }

    /// The text up to about `bytes`, whole characters only, and whether that is all of it.
    ///
    /// # Errors
    /// When the file cannot be read, or is no UTF-8 text.
    pub(super) fn prefix(&self, bytes: usize) -> Result<(Cow<'_, str>, bool), DocumentsError> {
        let Body::File(_) = &self.body else {
            let Body::Text(text) = &self.body else { return Ok((Cow::Borrowed(""), true)) };
            let end = text.floor_char_boundary(bytes);
            return Ok((Cow::Borrowed(&text[..end]), end == text.len()));
        };
        let mut content = self.read(bytes)?;
        // A size that lies (a file being written) does not matter: the end is where reading ends.
        let complete = content.len() < bytes;
        if let Err(error) = std::str::from_utf8(&content) {
            // The cut may have split the last character.
            if error.error_len().is_some() || complete {
                return Err(DocumentsError::document(&self.place, TextProblem::NotUtf8));
            }
            content.truncate(error.valid_up_to());
        }
        let mut text =
            String::from_utf8(content).map_err(|_| DocumentsError::document(&self.place, TextProblem::NotUtf8))?;
        // A byte order mark is no text.
        if text.starts_with(BYTE_ORDER_MARK) {
            text.drain(..BYTE_ORDER_MARK.len_utf8());
        }
        Ok((Cow::Owned(text), complete))
    }

    fn read(&self, bytes: usize) -> Result<Vec<u8>, DocumentsError> {
        let path = &self.place.path;
        let file = File::open(path).map_err(DocumentsError::io(path))?;
        let mut content = Vec::new();
        file.take(bytes as u64).read_to_end(&mut content).map_err(DocumentsError::io(path))?;
        Ok(content)
    }
}
