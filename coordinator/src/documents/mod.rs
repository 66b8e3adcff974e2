//! From documents to samples: read, tokenise, keep what is long enough, draw by seed.
//!
//! ```text
//! paths -> files -> documents (text, JSON Lines, Parquet, or token ids) -> first `length` tokens -> samples
//! ```
//!
//! Everything streams: one document is in memory at a time, and of a long one no more is read and tokenised than the
//! sample needs.

mod error;
mod files;
mod jsonl;
mod needles;
mod parquet_rows;
mod reading;
mod sampling;
mod source;
mod tally;
mod tokenizer;
mod whole;

pub use error::{DocumentsError, TextProblem};
pub use needles::{NeedleError, NeedlePlan, PER_DOCUMENT};
pub use reading::Documents;
pub use sampling::{NamedSample, SamplePlan, SampleSets};
pub use source::{Document, Place};
pub use tally::{Tally, left_out};
pub use tokenizer::{DocumentTokenizer, TokenizerError};
pub use whole::Whole;
