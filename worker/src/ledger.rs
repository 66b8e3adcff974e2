//! Bytes that are alive in one memory, counted where tensors are placed and where they go.

use candle_core::Tensor;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The count of one memory. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Ledger(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    live: AtomicU64,
    peak: AtomicU64,
}

/// Bytes that count as alive as long as this value is.
#[derive(Debug)]
pub(crate) struct Held {
    ledger: Ledger,
    bytes: u64,
}

// === impl Ledger ===

impl Ledger {
    /// The most bytes that were alive at a time.
    pub fn peak(&self) -> u64 {
        self.0.peak.load(Ordering::Relaxed)
    }

    /// Starts a new peak.
    pub fn reset_peak(&self) {
        self.0.peak.store(self.live(), Ordering::Relaxed);
    }

    /// Bytes that are alive now.
    pub fn live(&self) -> u64 {
        self.0.live.load(Ordering::Relaxed)
    }

    /// Counts bytes that are about to be allocated.
    pub(crate) fn hold(&self, bytes: u64) -> Held {
        let live = self.0.live.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.0.peak.fetch_max(live, Ordering::Relaxed);
        Held { ledger: self.clone(), bytes }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.ledger.0.live.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Bytes of a tensor's numbers.
pub(crate) fn bytes(tensor: &Tensor) -> u64 {
    (tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_of_what_is_alive_together() {
        let ledger = Ledger::default();
        let first = ledger.hold(10);
        drop(ledger.hold(5));
        let third = ledger.clone().hold(3);
        assert_eq!((ledger.live(), ledger.peak()), (13, 15));
        drop((first, third));
        assert_eq!((ledger.live(), ledger.peak()), (0, 15));
    }
}
