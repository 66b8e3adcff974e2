//! Drawing samples: which documents the search sees, and which are held out.
//!
//! Every document has a key that depends on its content and the seed; the documents with the smallest keys are the
//! draw. So it depends neither on the order of files nor on how documents are spread over them, and a document whose
//! key is too large need not be tokenised.

use super::error::DocumentsError;
use super::reading::Documents;
use super::source::Place;
use super::tally::Tally;
use ropewalk_shared::sample::{Sample, SampleId};
use std::collections::{BTreeMap, HashMap};

/// How many samples of which length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SamplePlan {
    /// Tokens of each sample, the beginning-of-document id included.
    pub length: usize,
    /// Samples for the search.
    pub search: usize,
    /// Samples the search never sees.
    pub held_out: usize,
    /// Seed of the draw.
    pub seed: u64,
}

/// A sample and the document it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedSample {
    /// The token ids.
    pub sample: Sample,
    /// Where the document stands.
    pub place: Place,
}

/// Samples by use, disjoint by content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SampleSets {
    /// What candidates are judged on.
    pub search: Vec<NamedSample>,
    /// What the search never sees.
    pub held_out: Vec<NamedSample>,
    /// What there was.
    pub tally: Tally,
}

/// A document's place in the draw. Documents that cannot be told apart by their keys follow the order of reading.
type Key = ([u8; 32], u64);

impl Documents<'_> {
    /// Draws the samples of a plan: the search's first, then those held out.
    ///
    /// # Errors
    /// [`DocumentsError::TooFew`] when not enough documents are long enough, and whatever reading them brings up.
    pub fn draw(&self, plan: &SamplePlan) -> Result<SampleSets, DocumentsError> {
        let wanted = plan.search.saturating_add(plan.held_out);
        let mut draw = Draw { wanted, drawn: BTreeMap::new(), keys: HashMap::new() };
        let mut tally = Tally::new(plan.length);
        for (number, document) in self.iter()?.enumerate() {
            let document = document?;
            if document.is_binary() {
                tally.binary += 1;
                continue;
            }
            let mut hash = blake3::Hasher::new_derive_key("ropewalk document draw v1");
            hash.update(&plan.seed.to_le_bytes());
            document.hash_into(&mut hash)?;
            let key = (*hash.finalize().as_bytes(), number as u64);
            if !draw.has_room(key) {
                tally.not_examined += 1;
                continue;
            }
            let tokens = self.tokens(&document, plan.length)?;
            if tokens.is_empty() {
                tally.empty += 1;
                continue;
            }
            tally.count(tokens.len());
            if tokens.len() < plan.length {
                continue;
            }
            // Plans ask for 2 tokens or more, so what is long enough is a sample.
            let Ok(sample) = Sample::new(tokens) else { continue };
            let new = draw.insert(key, NamedSample { sample, place: document.place });
            tally.duplicates += u64::from(!new);
        }
        let mut search: Vec<NamedSample> = draw.drawn.into_values().collect();
        if search.len() < wanted {
            return Err(DocumentsError::TooFew { wanted, found: search.len(), length: plan.length, tally });
        }
        let held_out = search.split_off(plan.search);
        Ok(SampleSets { search, held_out, tally })
    }

    /// Every document that is long enough, in order, at most `limit` of them: for evaluating what was named.
    ///
    /// # Errors
    /// [`DocumentsError::TooFew`] when there is none, and whatever reading them brings up.
    pub fn in_order(&self, length: usize, limit: usize) -> Result<(Vec<NamedSample>, Tally), DocumentsError> {
        let mut tally = Tally::new(length);
        let mut samples = Vec::new();
        for document in self.iter()? {
            if samples.len() == limit {
                break;
            }
            let document = document?;
            if document.is_binary() {
                tally.binary += 1;
                continue;
            }
            let tokens = self.tokens(&document, length)?;
            if tokens.is_empty() {
                tally.empty += 1;
                continue;
            }
            tally.count(tokens.len());
            match Sample::new(tokens) {
                Ok(sample) if sample.tokens().len() >= length => {
                    samples.push(NamedSample { sample, place: document.place });
                }
                _ => {}
            }
        }
        if samples.is_empty() {
            return Err(DocumentsError::TooFew { wanted: 1, found: 0, length, tally });
        }
        Ok((samples, tally))
    }
}

/// The `wanted` different samples with the smallest keys so far.
struct Draw {
    wanted: usize,
    drawn: BTreeMap<Key, NamedSample>,
    keys: HashMap<SampleId, Key>,
}

// === impl Draw ===

impl Draw {
    fn has_room(&self, key: Key) -> bool {
        self.drawn.len() < self.wanted || self.drawn.last_key_value().is_some_and(|(last, _)| key < *last)
    }

    /// False if the same sample had been drawn; the smaller of both keys then stands.
    fn insert(&mut self, key: Key, named: NamedSample) -> bool {
        let id = named.sample.id();
        let known = self.keys.get(&id).copied();
        if known.is_none_or(|known| key < known) {
            if let Some(known) = known {
                self.drawn.remove(&known);
            }
            self.keys.insert(id, key);
            self.drawn.insert(key, named);
        }
        if self.drawn.len() > self.wanted
            && let Some((_, dropped)) = self.drawn.pop_last()
        {
            self.keys.remove(&dropped.sample.id());
        }
        known.is_none()
    }
}
