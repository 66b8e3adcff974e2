//! What can be wrong with documents.

use super::source::Place;
use super::tally::Tally;
use super::tokenizer::TokenizerError;
use std::io;
use std::path::PathBuf;

/// Documents that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentsError {
    /// No path was given.
    #[error("no documents given; name text files, JSON Lines, Parquet files, or folders of these")]
    NoPaths,
    /// A path that does not exist, or cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A folder in which no file was found.
    #[error("{} holds no files (names that begin with a dot do not count)", .0.display())]
    EmptyFolder(PathBuf),
    /// Neither a file nor a folder.
    #[error("{} is a pipe or a device, and documents are read more than once: write it to a file first", .0.display())]
    NotAFile(PathBuf),
    /// More files or folders than anybody means.
    #[error("{} leads to more than {limit} {what}; name the ones that are meant", path.display())]
    TooMany {
        /// Where the search began.
        path: PathBuf,
        /// `files` or `folders inside each other`.
        what: &'static str,
        /// The bound.
        limit: usize,
    },
    /// A document that cannot be read.
    #[error("{place}: {problem}")]
    Document {
        /// File, and line or row.
        place: Place,
        /// What is wrong.
        problem: TextProblem,
    },
    /// The tokenizer failed on a document.
    #[error("{place}: {source}")]
    Tokenizer {
        /// File, and line or row.
        place: Place,
        /// Why.
        source: TokenizerError,
    },
    /// Not enough documents are long enough.
    #[error(
        "{wanted} different documents of at least {length} tokens are needed, {found} found ({tally}); \
         add longer documents, or lower the length or the number of samples"
    )]
    TooFew {
        /// Documents needed.
        wanted: usize,
        /// Documents found.
        found: usize,
        /// Tokens needed of each.
        length: usize,
        /// What there was.
        tally: Tally,
    },
}

/// What is wrong with one document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TextProblem {
    /// Bytes that are no UTF-8.
    #[error("not UTF-8 text; convert it, or leave the file out")]
    NotUtf8,
    /// A line longer than any document.
    #[error("the line is longer than {0} bytes; is this JSON Lines, one object a line?")]
    LineTooLong(usize),
    /// A line that is no JSON object.
    #[error("not a JSON object: {0}; JSON Lines has one object a line")]
    NotJson(String),
    /// The field is not there.
    #[error("no {field:?} in this object, which has {found}")]
    NoField {
        /// The field that is read.
        field: &'static str,
        /// The fields there are.
        found: String,
    },
    /// The field holds something else.
    #[error("{field:?} is not {expected}")]
    WrongType {
        /// The field that is read.
        field: &'static str,
        /// What it should hold.
        expected: &'static str,
    },
    /// A token id that the model does not have.
    #[error(
        "token id {id} is not below the model's vocabulary of {vocab_size}; were these ids made with another tokenizer?"
    )]
    TokenId {
        /// The id.
        id: u64,
        /// Number of ids of the model.
        vocab_size: usize,
    },
    /// A Parquet file without a column of text.
    #[error("no column named text or content, and not exactly one column of strings (found {0})")]
    NoTextColumn(String),
    /// A Parquet file that cannot be decoded.
    #[error("not a readable Parquet file: {0}")]
    Parquet(String),
}

// === impl DocumentsError ===

impl DocumentsError {
    pub(super) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| match source.kind() {
            io::ErrorKind::InvalidData => Self::document(&Place::file(path), TextProblem::NotUtf8),
            _ => Self::Io { path, source },
        }
    }

    pub(super) fn document(place: &Place, problem: TextProblem) -> Self {
        Self::Document { place: place.clone(), problem }
    }
}
