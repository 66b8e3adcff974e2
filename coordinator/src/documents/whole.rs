//! Documents to train on: not only their beginnings.

use super::error::DocumentsError;
use super::reading::Documents;

/// Token ids of documents, in the order of reading.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Whole {
    /// Their ids; none is empty.
    pub documents: Vec<Vec<u32>>,
    /// There are no others.
    pub complete: bool,
    /// How many of them may go on beyond what was read.
    pub cut: usize,
    /// Files in folders that are no text.
    pub binary: u64,
}

impl Documents<'_> {
    /// At most `length` token ids of each document, until there are `budget` in all.
    ///
    /// # Errors
    /// Whatever reading them brings up.
    pub fn whole(&self, length: usize, budget: u64) -> Result<Whole, DocumentsError> {
        let mut whole = Whole::default();
        let mut total = 0;
        for document in self.iter()? {
            if total >= budget {
                return Ok(whole);
            }
            let document = document?;
            let tokens = self.tokens(&document, length)?;
            total += tokens.len() as u64;
            whole.cut += usize::from(tokens.len() == length);
            whole.binary += u64::from(document.is_binary());
            if !tokens.is_empty() {
                whole.documents.push(tokens);
            }
        }
        Ok(Whole { complete: true, ..whole })
    }
}
