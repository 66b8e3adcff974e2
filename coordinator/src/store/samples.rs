//! Samples: token ids under their content address, cut into parts, checked whenever they are read.

use super::{Store, StoreError, keys, space, value};
use ropewalk_shared::sample::{Sample, SampleId, SampleShape};
use std::path::Path;
use std::sync::PoisonError;
use value::{Head, PART_BYTES};

/// Parts written in one go.
const PARTS_PER_BATCH: usize = 64;

impl Store {
    /// Stores a sample durably; storing it again changes nothing. One at a time: each sees the space that those before
    /// it took.
    ///
    /// # Errors
    /// [`StoreError::NoRoomForSample`], after which the store is as good as ever, and others of [`StoreError`].
    pub fn put_sample(&self, id: SampleId, sample: &Sample) -> Result<(), StoreError> {
        self.put_sample_where(id, sample, space::require_for_upload)
    }

    pub(super) fn put_sample_where(
        &self,
        id: SampleId,
        sample: &Sample,
        room: impl Fn(&Path, u64) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        // It guards no data: after a panic the next upload looks for itself.
        let _alone = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        if self.sample_shape(id)?.is_some() {
            return Ok(());
        }
        let mut left = 4 * sample.tokens().len() as u64;
        let key = id.as_bytes();
        for (batch_index, tokens) in sample.tokens().chunks(PARTS_PER_BATCH * PART_BYTES / 4).enumerate() {
            // The engine writes meanwhile, and so may others on this disk.
            room(self.path(), left)?;
            left -= 4 * tokens.len() as u64;
            let mut batch = sled::Batch::default();
            for (index, part) in tokens.chunks(PART_BYTES / 4).enumerate() {
                let index = (batch_index * PARTS_PER_BATCH + index) as u32;
                let bytes: Vec<u8> = part.iter().flat_map(|token| token.to_le_bytes()).collect();
                batch.insert(keys::part(key, index), bytes);
            }
            self.write("writing", || self.samples.apply_batch(batch))?;
        }
        // The head comes last: a sample without it was never completed, and its parts are written again.
        let head = Head::Cut { length: sample.tokens().len() * 4, counted_from: sample.counted_from() };
        self.write("writing", || self.samples.insert(key, head.to_bytes()))?;
        self.flush()
    }

    /// The length of a sample and which part of it counts, if it is stored.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn sample_shape(&self, id: SampleId) -> Result<Option<SampleShape>, StoreError> {
        match self.read(|| self.samples.get(id.as_bytes()))?.as_deref().map(Head::parse) {
            None => Ok(None),
            Some(Some(Head::Cut { length, counted_from })) => {
                Ok(Some(SampleShape { tokens: (length / 4) as u32, counted_from }))
            }
            Some(Some(Head::Whole(_)) | None) => Err(self.corrupt("a sample", "its form")),
        }
    }

    /// A sample, if it is stored.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when the tokens are not those that the address names.
    pub fn sample(&self, id: SampleId) -> Result<Option<Sample>, StoreError> {
        let Some(SampleShape { counted_from, .. }) = self.sample_shape(id)? else { return Ok(None) };
        let Some(bytes) = self.value(&self.samples, "a sample", id.as_bytes())? else { return Ok(None) };
        let tokens = bytes.as_chunks::<4>().0.iter().map(|four| u32::from_le_bytes(*four)).collect();
        let sample = Sample::counted(tokens, counted_from).map_err(|error| self.corrupt("a sample", error))?;
        if sample.id() == id {
            Ok(Some(sample))
        } else {
            Err(self.corrupt(
                "a sample",
                format!("the tokens stored for {id} have another address; upload it again to a new store"),
            ))
        }
    }
}
