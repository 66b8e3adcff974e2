//! Samples in memory, the least recently used given up first.

use ropewalk_shared::sample::{Sample, SampleId};
use std::collections::HashMap;
use std::sync::Arc;

/// Samples by content address, bounded in bytes.
#[derive(Debug)]
pub(super) struct SampleCache {
    entries: HashMap<SampleId, Entry>,
    bytes: usize,
    most_bytes: usize,
    /// Counts uses; the entry with the smallest number was used the longest ago.
    clock: u64,
}

#[derive(Debug)]
struct Entry {
    sample: Arc<Sample>,
    used: u64,
}

// === impl SampleCache ===

impl SampleCache {
    /// An empty cache that keeps at most so many bytes, except for a sample that is larger on its own.
    pub(super) fn new(most_bytes: usize) -> Self {
        Self { entries: HashMap::new(), bytes: 0, most_bytes, clock: 0 }
    }

    /// The sample, if it is here.
    pub(super) fn get(&mut self, id: &SampleId) -> Option<Arc<Sample>> {
        self.clock += 1;
        let entry = self.entries.get_mut(id)?;
        entry.used = self.clock;
        Some(entry.sample.clone())
    }

    /// Keeps a sample under its address.
    pub(super) fn insert(&mut self, id: SampleId, sample: Arc<Sample>) {
        self.clock += 1;
        self.bytes += bytes(&sample);
        if let Some(former) = self.entries.insert(id, Entry { sample, used: self.clock }) {
            self.bytes -= bytes(&former.sample);
        }
        while self.bytes > self.most_bytes && self.entries.len() > 1 {
            // A handful of samples: looking at all of them costs nothing beside evaluating one.
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used).map(|(id, _)| *id);
            let Some(entry) = oldest.and_then(|id| self.entries.remove(&id)) else { break };
            self.bytes -= bytes(&entry.sample);
        }
    }
}

fn bytes(sample: &Sample) -> usize {
    size_of_val(sample.tokens())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(seed: u32, tokens: usize) -> (SampleId, Arc<Sample>) {
        let sample = Sample::new(vec![seed; tokens]).unwrap();
        (sample.id(), Arc::new(sample))
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut cache = SampleCache::new(3 * 40);
        let samples: Vec<_> = (0..4).map(|seed| sample(seed, 10)).collect();
        for (id, sample) in &samples[..3] {
            cache.insert(*id, sample.clone());
        }
        assert!(cache.get(&samples[0].0).is_some());
        cache.insert(samples[3].0, samples[3].1.clone());
        let here: Vec<bool> = samples.iter().map(|(id, _)| cache.get(id).is_some()).collect();
        assert_eq!(here, [true, false, true, true]);
        assert_eq!(cache.bytes, 120);
    }

    #[test]
    fn a_sample_larger_than_the_cache_is_kept_alone() {
        let mut cache = SampleCache::new(100);
        let (small, large) = (sample(1, 10), sample(2, 1000));
        cache.insert(small.0, small.1);
        cache.insert(large.0, large.1.clone());
        assert!(cache.get(&small.0).is_none());
        assert_eq!(cache.get(&large.0), Some(large.1));
    }

    #[test]
    fn the_same_sample_twice_counts_once() {
        let mut cache = SampleCache::new(100);
        let (id, sample) = sample(1, 10);
        cache.insert(id, sample.clone());
        cache.insert(id, sample);
        assert_eq!(cache.bytes, 40);
    }
}
