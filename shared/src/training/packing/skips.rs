//! Which sequences skip positions, and where.

use super::reader::Reader;
use crate::training::{Gap, TrainSequence, TrainSpec, Window};
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

/// Most gaps where text is skipped.
const MOST_GAPS: usize = 3;

/// Puts gaps into the due share of the sequences under the rescaled RoPE.
pub(super) struct Skips {
    share: f64,
    reach: u32,
    /// Whether text is skipped along with the positions.
    text: bool,
    /// Sequences that could have had gaps.
    seen: u64,
}

// === impl Skips ===

impl Skips {
    pub fn new(spec: &TrainSpec) -> Self {
        Self { share: spec.mix.skip_share, reach: spec.mix.skip_reach.unwrap_or(0), text: spec.mix.skip_text, seen: 0 }
    }

    /// One gap anywhere in the sequence, of any width that keeps it within the reach: so every distance there is met, and
    /// tokens that follow each other stay together, but for one place. Where text is skipped too, up to three.
    pub fn put(&mut self, sequence: &mut TrainSequence, reader: &Reader<'_>, rng: &mut ChaCha8Rng, slot: u64) {
        let length = sequence.tokens.len() as u32;
        if sequence.window == Window::Original || self.share == 0.0 || length < 2 {
            return;
        }
        let due = super::due(self.share, self.seen);
        self.seen += 1;
        if !due {
            return;
        }
        let one_document = sequence.counted_from == 0 && sequence.documents.len() == 1;
        if self.text && one_document && self.skip_text(sequence, reader, rng, slot) {
            return;
        }
        if self.reach > length {
            let before = rng.random_range(1..length);
            let width = rng.random_range(1..=self.reach - length);
            sequence.gaps = vec![Gap { before, width }];
        }
    }

    /// Puts parts of a window as long as the reach, or as the document, in the place of the sequence; false when the
    /// document has no more than the sequence.
    fn skip_text(&self, sequence: &mut TrainSequence, reader: &Reader<'_>, rng: &mut ChaCha8Rng, slot: u64) -> bool {
        let length = sequence.tokens.len();
        let window = reader.cut(slot, rng, self.reach as usize);
        let Some(left_out) = window.len().checked_sub(length).filter(|&left_out| left_out > 0) else { return false };
        let most = MOST_GAPS.min(length - 1).min(left_out);
        let count = rng.random_range(1..=most);
        // `count` places in the sequence and as many shares of what is left out, all different from 0.
        let places = distinct(rng, count, length - 1);
        let mut ends = distinct(rng, count - 1, left_out - 1);
        ends.push(left_out);
        let (mut tokens, mut gaps, mut skipped) = (Vec::with_capacity(length), Vec::new(), 0);
        for (&before, &end) in places.iter().zip(&ends) {
            tokens.extend_from_slice(&window[tokens.len() + skipped..before + skipped]);
            gaps.push(Gap { before: before as u32, width: (end - skipped) as u32 });
            skipped = end;
        }
        tokens.extend_from_slice(&window[tokens.len() + skipped..]);
        // Of a document that is shorter than the reach, positions are spread farther than its text.
        let short_of = self.reach - window.len() as u32;
        let widened = rng.random_range(0..count);
        gaps[widened].width += rng.random_range(0..=short_of);
        (sequence.tokens, sequence.gaps) = (tokens, gaps);
        true
    }
}

/// `count` different numbers from 1 to `most`, ascending.
fn distinct(rng: &mut ChaCha8Rng, count: usize, most: usize) -> Vec<usize> {
    let mut numbers = std::collections::BTreeSet::new();
    while numbers.len() < count {
        numbers.insert(rng.random_range(1..=most as u64) as usize);
    }
    numbers.into_iter().collect()
}
