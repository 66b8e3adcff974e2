//! Which sequences skip positions, and where.

use crate::training::{Gap, TrainSequence, TrainSpec, Window};
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

/// Puts gaps into the due share of the sequences under the rescaled RoPE.
pub(super) struct Skips {
    share: f64,
    reach: u32,
    /// Sequences that could have had gaps.
    seen: u64,
}

// === impl Skips ===

impl Skips {
    pub fn new(spec: &TrainSpec) -> Self {
        Self { share: spec.mix.skip_share, reach: spec.mix.skip_reach.unwrap_or(0), seen: 0 }
    }

    /// One gap anywhere in the sequence, of any width that keeps it within the reach: so every distance there is met, and
    /// tokens that follow each other stay together, but for one place.
    pub fn put(&mut self, sequence: &mut TrainSequence, rng: &mut ChaCha8Rng) {
        let length = sequence.tokens.len() as u32;
        if sequence.window == Window::Original || self.share == 0.0 || length < 2 {
            return;
        }
        let due = super::due(self.share, self.seen);
        self.seen += 1;
        if due && self.reach > length {
            let before = rng.random_range(1..length);
            let width = rng.random_range(1..=self.reach - length);
            sequence.gaps = vec![Gap { before, width }];
        }
    }
}
