//! The first layer up to its rotation: the same for every candidate of a sample, so computed once and kept.
//!
//! Nothing before the first rotation depends on the candidate, neither the embeddings nor the queries, keys and values of
//! the first layer. The embeddings are looked up again each time, which costs no more than copying them; the projected
//! rows are kept, for as many of a sample's first chunks as the limit leaves room for. What comes out is the same to the
//! last bit.

use crate::ledger;
use candle_core::{Result, Tensor};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A sample that was not evaluated for so many evaluations is forgotten. Bounds the list, and hands the room of
/// finished jobs to the next.
const FORGET_AFTER: u64 = 256;

/// What is kept of the samples of one model.
#[derive(Debug)]
pub(crate) struct FirstLayers {
    limit: u64,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    /// Number of evaluations so far.
    clock: u64,
    /// Bytes kept or promised.
    bytes: u64,
    samples: HashMap<blake3::Hash, Sample>,
}

#[derive(Debug)]
struct Sample {
    /// When it was last evaluated.
    used: u64,
    /// Rows of its first chunks, `(tokens, query width + 2 key widths)` each; absent after a first evaluation.
    chunks: Option<Arc<[Tensor]>>,
    bytes: u64,
}

/// One sample's part in it, for one evaluation.
pub(crate) struct Share<'c> {
    kept: Arc<[Tensor]>,
    made: Vec<Tensor>,
    made_bytes: u64,
    /// Bytes that may be made, promised by the cache.
    room: u64,
    home: Option<(&'c FirstLayers, blake3::Hash)>,
}

// === impl FirstLayers ===

impl FirstLayers {
    /// Keeps `limit` bytes at most.
    pub fn new(limit: u64) -> Self {
        Self { limit, held: Mutex::default() }
    }

    /// The share of a sample that is about to be evaluated, whose rows take `bytes` in all.
    ///
    /// Rows are kept from the second evaluation on: most commands evaluate a document once, and need not pay for it.
    pub fn share(&self, tokens: &[u32], bytes: u64) -> Share<'_> {
        let mut hasher = blake3::Hasher::new();
        tokens.iter().for_each(|token| _ = hasher.update(&token.to_le_bytes()));
        let name = hasher.finalize();
        let mut held = self.lock();
        held.forget();
        let (now, taken) = (held.clock, held.bytes);
        let Some(sample) = held.samples.get_mut(&name) else {
            held.samples.insert(name, Sample { used: now, chunks: None, bytes: 0 });
            return Share::none();
        };
        sample.used = now;
        match &sample.chunks {
            Some(chunks) => Share::new(chunks.clone(), 0, None),
            None => {
                let room = bytes.min(self.limit.saturating_sub(taken));
                held.bytes += room;
                Share::new(Arc::new([]), room, Some((self, name)))
            }
        }
    }

    /// Most bytes that are kept.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Bytes kept or promised.
    pub fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        // No step between locking and unlocking leaves it half changed.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Held ===

impl Held {
    /// Begins an evaluation, and drops what was not used for long.
    fn forget(&mut self) {
        self.clock += 1;
        let Self { clock, bytes, samples } = self;
        samples.retain(|_, sample| {
            let keep = *clock - sample.used <= FORGET_AFTER;
            *bytes -= if keep { 0 } else { sample.bytes };
            keep
        });
    }
}

// === impl Share ===

impl<'c> Share<'c> {
    /// Nothing kept, and no room.
    pub fn none() -> Self {
        Self::new(Arc::new([]), 0, None)
    }

    fn new(kept: Arc<[Tensor]>, room: u64, home: Option<(&'c FirstLayers, blake3::Hash)>) -> Self {
        Self { kept, made: Vec::new(), made_bytes: 0, room, home }
    }

    /// The rows of a chunk, if they are kept, or were made for a candidate that goes together with this one.
    pub fn rows(&self, chunk: usize) -> Option<&Tensor> {
        self.kept.get(chunk).or_else(|| self.made.get(chunk))
    }

    /// Keeps a copy of a chunk's rows, if there is room. Chunks are offered in order.
    ///
    /// # Errors
    /// Candle's, when the device is out of memory.
    pub fn offer(&mut self, chunk: usize, rows: &Tensor) -> Result<()> {
        let bytes = ledger::bytes(rows);
        if chunk == self.made.len() && self.made_bytes + bytes <= self.room {
            self.made.push(rows.force_contiguous()?);
            self.made_bytes += bytes;
        }
        Ok(())
    }
}

impl Drop for Share<'_> {
    /// Hands in what was made. Also of an evaluation that was cancelled: whole chunks are good for the next.
    fn drop(&mut self) {
        let Some((home, name)) = self.home else { return };
        let mut held = home.lock();
        let sample = held.samples.get_mut(&name).filter(|sample| sample.chunks.is_none() && !self.made.is_empty());
        let kept = if let Some(sample) = sample {
            sample.chunks = Some(std::mem::take(&mut self.made).into());
            sample.bytes = self.made_bytes;
            self.made_bytes
        } else {
            0
        };
        held.bytes -= self.room - kept;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn rows(value: f32) -> Tensor {
        Tensor::full(value, (4, 8), &Device::Cpu).unwrap()
    }

    /// Bytes of [`rows`].
    const CHUNK: u64 = 4 * 8 * 4;

    fn evaluate(cache: &FirstLayers, tokens: &[u32], chunks: usize) -> usize {
        let mut share = cache.share(tokens, CHUNK * chunks as u64);
        let kept = (0..chunks).filter(|chunk| share.rows(*chunk).is_some()).count();
        (kept..chunks).for_each(|chunk| share.offer(chunk, &rows(chunk as f32)).unwrap());
        kept
    }

    #[test]
    fn rows_are_kept_from_the_second_evaluation_on() {
        let cache = FirstLayers::new(100 * CHUNK);
        assert_eq!([0; 4].map(|_| evaluate(&cache, &[1, 2], 3)), [0, 0, 3, 3]);
        assert_eq!(cache.bytes(), 3 * CHUNK);
        let share = cache.share(&[1, 2], 3 * CHUNK);
        assert_eq!(share.rows(2).unwrap().to_vec2::<f32>().unwrap(), vec![vec![2.0; 8]; 4]);
        assert_eq!(evaluate(&cache, &[2, 1], 3), 0, "another sample");
    }

    #[test]
    fn the_limit_holds_for_all_samples_together() {
        let cache = FirstLayers::new(5 * CHUNK + 1);
        for _ in 0..3 {
            (0..4).for_each(|sample| _ = evaluate(&cache, &[sample], 3));
            assert!(cache.bytes() <= 5 * CHUNK + 1, "{}", cache.bytes());
        }
        assert_eq!([0, 1, 2].map(|sample| evaluate(&cache, &[sample], 3)), [3, 2, 0]);
        // A promise counts as long as it stands.
        let (cache, room) = (FirstLayers::new(4 * CHUNK), 3 * CHUNK);
        (0..2).for_each(|sample| _ = cache.share(&[sample], room));
        let shares = [0, 1].map(|sample| cache.share(&[sample], room));
        assert_eq!(shares.each_ref().map(|share| share.room), [3 * CHUNK, CHUNK]);
        drop(shares);
        assert_eq!(cache.bytes(), 0, "what was not made is given back");
    }

    #[test]
    fn samples_of_the_past_make_room() {
        let cache = FirstLayers::new(3 * CHUNK);
        (0..2).for_each(|_| _ = evaluate(&cache, &[1], 3));
        assert_eq!(cache.bytes(), 3 * CHUNK);
        assert!((0..FORGET_AFTER).all(|_| evaluate(&cache, &[2], 3) == 0), "no room while the first is there");
        assert_eq!([0; 2].map(|_| evaluate(&cache, &[2], 3)), [0, 3]);
        assert_eq!(cache.bytes(), 3 * CHUNK);
    }
}
