//! Parquet: each row's text column is a document.

use super::error::{DocumentsError, TextProblem};
use super::jsonl::names;
use super::source::{Body, Document, Place};
use parquet::basic::{ConvertedType, LogicalType, Type as Physical};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use parquet::schema::types::{Type, TypePtr};
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows decoded at once: documents are long.
const BATCH_ROWS: usize = 16;

/// The documents of one file, in order.
pub struct Rows {
    path: PathBuf,
    rows: RowIter<'static>,
    row: u64,
    failed: bool,
}

// === impl Rows ===

impl Rows {
    pub fn open(path: &Path) -> Result<Self, DocumentsError> {
        let file = File::open(path).map_err(DocumentsError::io(path))?;
        let open = || {
            let reader = SerializedFileReader::new(file).map_err(unreadable)?;
            let schema = reader.metadata().file_metadata().schema();
            let column = text_column(schema)?;
            let projection = Type::group_type_builder(schema.name()).with_fields(vec![column]).build();
            let projection = projection.map_err(unreadable)?;
            let rows = RowIter::from_file_into(Box::new(reader)).project(Some(projection)).map_err(unreadable)?;
            Ok(rows.with_batch_size(BATCH_ROWS))
        };
        let rows = no_panic(open).map_err(|problem| DocumentsError::document(&Place::file(path), problem))?;
        Ok(Self { path: path.to_owned(), rows, row: 0, failed: false })
    }
}

impl Iterator for Rows {
    type Item = Result<Document, DocumentsError>;
    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let row = no_panic(|| self.rows.next().transpose().map_err(unreadable));
        self.row += 1;
        let place = Place::line(&self.path, self.row);
        match row.and_then(|row| row.map(text_of).transpose()) {
            Ok(text) => text.map(|text| Ok(Document { place, body: Body::Text(text) })),
            Err(problem) => {
                self.failed = true;
                Some(Err(DocumentsError::document(&place, problem)))
            }
        }
    }
}

/// The column named text or content, else the only column of strings.
fn text_column(schema: &Type) -> Result<TypePtr, TextProblem> {
    let columns: Vec<&TypePtr> = schema.get_fields().iter().filter(|column| is_text(column)).collect();
    let named = ["text", "content"].iter().find_map(|name| columns.iter().find(|column| column.name() == *name));
    match (named, columns.as_slice()) {
        (Some(column), _) => Ok(Arc::clone(column)),
        (None, [only]) => Ok(Arc::clone(only)),
        _ => {
            let found: Vec<String> = schema.get_fields().iter().map(|column| column.name().to_owned()).collect();
            Err(TextProblem::NoTextColumn(names(found.iter())))
        }
    }
}

fn is_text(column: &Type) -> bool {
    let info = column.get_basic_info();
    let says_text =
        info.converted_type() == ConvertedType::UTF8 || info.logical_type_ref() == Some(&LogicalType::String);
    column.is_primitive() && column.get_physical_type() == Physical::BYTE_ARRAY && says_text
}

fn text_of(row: Row) -> Result<String, TextProblem> {
    match row.into_columns().pop() {
        Some((_, Field::Str(text))) => Ok(text),
        Some((_, Field::Bytes(bytes))) => String::from_utf8(bytes.data().to_vec()).map_err(|_| TextProblem::NotUtf8),
        // A row without text is an empty document.
        Some((_, Field::Null)) | None => Ok(String::new()),
        Some(_) => Err(TextProblem::WrongType { field: "text", expected: "a string" }),
    }
}

fn unreadable(error: ParquetError) -> TextProblem {
    // Some of its messages quote whole values.
    TextProblem::Parquet(error.to_string().chars().take(200).collect())
}

/// The decoder panics on some damaged files; what a file holds must not end the program.
fn no_panic<T>(decode: impl FnOnce() -> Result<T, TextProblem>) -> Result<T, TextProblem> {
    match catch_unwind(AssertUnwindSafe(decode)) {
        Ok(result) => result,
        Err(_) => Err(TextProblem::Parquet("its content is damaged".to_owned())),
    }
}
