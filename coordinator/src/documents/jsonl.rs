//! JSON Lines: one object a line, with `text` or with `input_ids`.

use super::error::{DocumentsError, TextProblem};
use super::source::{Body, Document, Place};
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// The longest line read.
const MAX_LINE_BYTES: usize = 256 << 20;

/// What is read from each object.
#[derive(Clone, Copy, Debug)]
pub enum Field {
    /// `text`, a string.
    Text,
    /// `input_ids`, token ids of a model with this vocabulary.
    InputIds {
        /// Number of ids.
        vocab_size: usize,
    },
}

/// The documents of one file, in order; empty lines are passed over.
pub struct Lines {
    path: PathBuf,
    reader: BufReader<File>,
    field: Field,
    line: u64,
}

// === impl Lines ===

impl Lines {
    pub fn open(path: &Path, field: Field) -> Result<Self, DocumentsError> {
        let file = File::open(path).map_err(DocumentsError::io(path))?;
        Ok(Self { path: path.to_owned(), reader: BufReader::with_capacity(1 << 20, file), field, line: 0 })
    }

    /// The next line that is not blank, without its end; `None` at the end of the file.
    fn next_line(&mut self) -> Result<Option<Vec<u8>>, DocumentsError> {
        loop {
            let mut line = Vec::new();
            let limit = MAX_LINE_BYTES as u64 + 1;
            let read = self.reader.by_ref().take(limit).read_until(b'\n', &mut line);
            self.line += 1;
            match read.map_err(DocumentsError::io(&self.path))? {
                0 => return Ok(None),
                _ if line.len() > MAX_LINE_BYTES => return Err(self.error(TextProblem::LineTooLong(MAX_LINE_BYTES))),
                _ if line.trim_ascii().is_empty() => {}
                _ => return Ok(Some(line)),
            }
        }
    }

    fn error(&self, problem: TextProblem) -> DocumentsError {
        DocumentsError::document(&Place::line(&self.path, self.line), problem)
    }

    fn parse(&self, line: &[u8]) -> Result<Body, TextProblem> {
        let text = std::str::from_utf8(line).map_err(|_| TextProblem::NotUtf8)?;
        // A byte order mark is what some editors put first.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let value: Value = serde_json::from_str(text).map_err(|error| TextProblem::NotJson(error.to_string()))?;
        let Value::Object(mut object) = value else {
            return Err(TextProblem::NotJson("another JSON value".to_owned()));
        };
        let name = match self.field {
            Field::Text => "text",
            Field::InputIds { .. } => "input_ids",
        };
        let Some(value) = object.remove(name) else {
            return Err(TextProblem::NoField { field: name, found: names(object.keys()) });
        };
        match (self.field, value) {
            (Field::Text, Value::String(text)) => Ok(Body::Text(text)),
            (Field::Text, _) => Err(TextProblem::WrongType { field: name, expected: "a string" }),
            (Field::InputIds { vocab_size }, Value::Array(ids)) => {
                ids.iter().map(|id| token_id(id, vocab_size)).collect::<Result<_, _>>().map(Body::Ids)
            }
            (Field::InputIds { .. }, _) => Err(TextProblem::WrongType { field: name, expected: "a list of token ids" }),
        }
    }
}

impl Iterator for Lines {
    type Item = Result<Document, DocumentsError>;
    fn next(&mut self) -> Option<Self::Item> {
        let line = match self.next_line() {
            Ok(line) => line?,
            Err(error) => return Some(Err(error)),
        };
        let place = Place::line(&self.path, self.line);
        Some(match self.parse(&line) {
            Ok(body) => Ok(Document { place, body }),
            Err(problem) => Err(DocumentsError::document(&place, problem)),
        })
    }
}

fn token_id(id: &Value, vocab_size: usize) -> Result<u32, TextProblem> {
    let wrong_type = TextProblem::WrongType { field: "input_ids", expected: "a list of token ids" };
    let id = id.as_u64().ok_or(wrong_type)?;
    match u32::try_from(id) {
        Ok(small) if id < vocab_size as u64 => Ok(small),
        _ => Err(TextProblem::TokenId { id, vocab_size }),
    }
}

/// The first few names, for a message.
pub fn names<'a>(names: impl Iterator<Item = &'a String>) -> String {
    let mut shown: Vec<String> =
        names.take(9).map(|name| format!("{:?}", name.chars().take(40).collect::<String>())).collect();
    if shown.len() == 9 {
        shown[8] = "…".to_owned();
    }
    if shown.is_empty() { "none".to_owned() } else { shown.join(", ") }
}
