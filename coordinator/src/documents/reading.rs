//! Documents of any form, as one stream.

use super::error::DocumentsError;
use super::files::{FoundFile, expand};
use super::jsonl::{Field, Lines};
use super::parquet_rows::Rows;
use super::source::{Body, Document};
use super::tokenizer::DocumentTokenizer;
use std::path::PathBuf;

/// Documents to be read, and how they become token ids.
#[derive(Clone, Copy, Debug)]
pub enum Documents<'a> {
    /// Text (`--data`): text files, JSON Lines with `text`, Parquet with a column of text, folders of these.
    Text {
        /// Files and folders.
        paths: &'a [PathBuf],
        /// The model's.
        tokenizer: &'a DocumentTokenizer,
    },
    /// Token ids (`--tokens`): JSON Lines with `input_ids`, used as they are.
    Tokens {
        /// Files and folders.
        paths: &'a [PathBuf],
        /// Number of ids the model knows.
        vocab_size: usize,
    },
}

/// The documents of one file.
type FileDocuments = Box<dyn Iterator<Item = Result<Document, DocumentsError>>>;

// === impl Documents ===

impl Documents<'_> {
    /// All documents, files in the order of the paths, folders in the order of their names. What lies in a folder and is no
    /// text comes as [`Document::is_binary`].
    ///
    /// # Errors
    /// When a path leads nowhere. Files are opened as their turn comes.
    pub fn iter(&self) -> Result<impl Iterator<Item = Result<Document, DocumentsError>>, DocumentsError> {
        let (paths, vocab_size) = match self {
            Self::Text { paths, .. } => (paths, None),
            Self::Tokens { paths, vocab_size } => (paths, Some(*vocab_size)),
        };
        let open = move |file: FoundFile| -> FileDocuments {
            open_file(&file, vocab_size).unwrap_or_else(|error| Box::new(std::iter::once(Err(error))))
        };
        Ok(expand(paths)?.into_iter().flat_map(open))
    }

    /// The first `length` token ids of a document; fewer when it is shorter.
    ///
    /// # Errors
    /// When it cannot be read or tokenised.
    pub fn tokens(&self, document: &Document, length: usize) -> Result<Vec<u32>, DocumentsError> {
        match (self, &document.body) {
            (_, Body::Ids(ids)) => Ok(ids[..ids.len().min(length)].to_vec()),
            (_, Body::Binary) => Ok(Vec::new()),
            // Text is only ever read where there is a tokenizer.
            (Self::Tokens { .. }, _) => Ok(Vec::new()),
            (Self::Text { tokenizer, .. }, _) => tokenizer
                .first(length, |bytes| document.prefix(bytes).map_err(Failure::Documents))
                .map_err(|failure| match failure {
                    Failure::Documents(error) => error,
                    Failure::Tokenizer(source) => DocumentsError::Tokenizer { place: document.place.clone(), source },
                }),
        }
    }
}

fn open_file(file: &FoundFile, vocab_size: Option<usize>) -> Result<FileDocuments, DocumentsError> {
    let path = file.path.as_path();
    let extension = path.extension().map(|extension| extension.to_ascii_lowercase());
    match (vocab_size, extension.as_ref().and_then(|extension| extension.to_str())) {
        (Some(vocab_size), _) => Ok(Box::new(Lines::open(path, Field::InputIds { vocab_size })?)),
        (None, Some("jsonl" | "json" | "ndjson")) => Ok(Box::new(Lines::open(path, Field::Text)?)),
        (None, Some("parquet")) => Ok(Box::new(Rows::open(path)?)),
        // Whoever names a file means it: what is wrong with it is said.
        (None, _) if file.is_named => Ok(Box::new(std::iter::once(Document::of_file(path)))),
        (None, _) => Ok(Box::new(std::iter::once(Document::of_found_file(path)))),
    }
}

/// Reading or tokenising failed.
enum Failure {
    Documents(DocumentsError),
    Tokenizer(super::tokenizer::TokenizerError),
}

impl From<super::tokenizer::TokenizerError> for Failure {
    fn from(error: super::tokenizer::TokenizerError) -> Self {
        Self::Tokenizer(error)
    }
}
