//! Sliding-window perplexity, as the LongRoPE authors' evaluation script defines it.
//!
//! With windows of `length` tokens and a stride `S`, window `k` holds the token that begins a sequence and the document's
//! `length - 1` tokens from position `k S` on; windows that would reach past the document's end are left out. The first
//! window counts all its tokens, each later one those that no window before it has seen, its last `S`. The perplexity is
//! `exp` of the mean over all windows of their mean losses, so the first window weighs as much as any other.

use ropewalk_shared::sample::{InvalidSample, Sample};

/// Windows over one document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sliding {
    /// Tokens of a window, the one that begins it included.
    pub length: usize,
    /// Tokens from the start of a window to that of the next.
    pub stride: usize,
    /// The token that begins every window, where the model has one.
    pub begin: Option<u32>,
}

// === impl Sliding ===

impl Sliding {
    /// The windows of a document in order, each counting what belongs to it. `tokens` are the document's; where they begin
    /// as every window does, that token is not part of the text.
    pub fn windows(self, tokens: &[u32]) -> impl Iterator<Item = Result<Sample, InvalidSample>> + '_ {
        let begin = self.begin.filter(|begin| tokens.first() == Some(begin));
        let text = &tokens[usize::from(begin.is_some())..];
        let room = self.length - usize::from(begin.is_some());
        let starts = (0..text.len().saturating_sub(room - 1)).step_by(self.stride);
        starts.map(move |start| {
            let mut window: Vec<u32> = begin.into_iter().collect();
            window.extend_from_slice(&text[start..start + room]);
            let counted_from = if start == 0 { 1 } else { window.len() - self.stride };
            Sample::counted(window, counted_from as u32)
        })
    }

    /// How many windows a document of so many tokens has.
    pub fn count(self, tokens: usize) -> usize {
        // With or without a beginning, text and window shrink alike.
        (tokens + 1).saturating_sub(self.length).div_ceil(self.stride)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows(sliding: Sliding, tokens: &[u32]) -> Vec<(Vec<u32>, u32)> {
        let of = |sample: Sample| (sample.tokens().to_vec(), sample.counted_from());
        let windows: Vec<_> = sliding.windows(tokens).map(|sample| of(sample.unwrap())).collect();
        assert_eq!(windows.len(), sliding.count(tokens.len()), "{sliding:?}");
        windows
    }

    #[test]
    fn every_token_counts_once_and_what_is_left_over_not_at_all() {
        let sliding = Sliding { length: 5, stride: 2, begin: Some(9) };
        // Text 0 to 8 behind the beginning: windows of 4 from 0, 2 and 4; one from 6 would need a tenth.
        let tokens = [9, 0, 1, 2, 3, 4, 5, 6, 7, 8];
        let expected = [(vec![9, 0, 1, 2, 3], 1), (vec![9, 2, 3, 4, 5], 3), (vec![9, 4, 5, 6, 7], 3)];
        assert_eq!(windows(sliding, &tokens), expected);
    }

    #[test]
    fn models_without_a_beginning_lose_the_first_token_alone() {
        let sliding = Sliding { length: 4, stride: 3, begin: None };
        let expected = [(vec![0, 1, 2, 3], 1), (vec![3, 4, 5, 6], 1)];
        assert_eq!(windows(sliding, &[0, 1, 2, 3, 4, 5, 6, 7]), expected);
        assert!(windows(sliding, &[0, 1, 2]).is_empty());
    }

    #[test]
    fn a_document_as_long_as_a_window_has_one() {
        let sliding = Sliding { length: 4, stride: 1, begin: Some(9) };
        assert_eq!(windows(sliding, &[9, 1, 2, 3]), [(vec![9, 1, 2, 3], 1)]);
        assert!(windows(sliding, &[9, 1, 2]).is_empty());
    }
}
