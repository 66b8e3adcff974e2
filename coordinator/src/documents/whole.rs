//! Documents to train on: not only their beginnings.

use super::error::DocumentsError;
use super::reading::Documents;

/// Token ids of documents, in the order of reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    /// Their ids; none is empty.
    pub documents: Vec<Vec<u32>>,
    /// There are no others.
    pub complete: bool,
    /// How many of them may go on beyond what was read.
    pub cut: usize,
}

impl Documents<'_> {
    /// At most `length` token ids of each document, until there are `budget` in all.
    ///
    /// # Errors
    /// Whatever reading them brings up.
    pub fn whole(&self, length: usize, budget: u64) -> Result<Whole, DocumentsError> {
        let (mut documents, mut total, mut cut) = (Vec::new(), 0, 0);
        for document in self.iter()? {
            if total >= budget {
                return Ok(Whole { documents, complete: false, cut });
            }
            let tokens = self.tokens(&document?, length)?;
            total += tokens.len() as u64;
            cut += usize::from(tokens.len() == length);
            if !tokens.is_empty() {
                documents.push(tokens);
            }
        }
        Ok(Whole { documents, complete: true, cut })
    }
}
