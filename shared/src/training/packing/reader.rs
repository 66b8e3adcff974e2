//! Cuts of documents, drawn by seed.

use crate::training::order::permutation;
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

/// Documents in the order of a seed.
pub(super) struct Reader<'a> {
    documents: &'a [Vec<u32>],
    order: Vec<usize>,
    /// The id that documents begin with, if they all do.
    begin: Option<u32>,
}

// === impl Reader ===

impl<'a> Reader<'a> {
    /// None when no document has anything to predict.
    pub fn new(documents: &'a [Vec<u32>], seed: u64) -> Option<Self> {
        let mut order = permutation(documents.len(), seed, 0);
        order.retain(|&index| documents[index].len() >= 2);
        let first = documents.get(*order.first()?)?.first().copied();
        let same = order.iter().all(|&index| documents[index].first().copied() == first);
        // A single document does not tell: what it begins with is taken for its beginning.
        Some(Self { documents, order, begin: first.filter(|_| same) })
    }

    /// At most `length` tokens of the document whose turn it is: half of the time from its start on, as models are mostly
    /// given documents, else from a random place on, with the beginning in front. Of a document that is not longer, all.
    pub fn cut(&self, turn: u64, rng: &mut ChaCha8Rng, length: usize) -> Vec<u32> {
        let document = &self.documents[self.order[(turn % self.order.len() as u64) as usize]];
        if document.len() <= length {
            return document.clone();
        }
        let anywhere = rng.random_range(0..=(document.len() - length) as u64) as usize;
        let first = if rng.random_bool(0.5) { 0 } else { anywhere };
        let mut cut = document[first..first + length].to_vec();
        if let Some(begin) = self.begin {
            cut[0] = begin;
        }
        cut
    }
}
