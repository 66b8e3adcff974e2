//! How many documents of which length there were.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Counts of the documents that were looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Tokens that a document needs.
    pub length: usize,
    /// Documents with as many.
    pub long_enough: u64,
    /// Documents with at least half as many.
    pub at_least_half: u64,
    /// Shorter documents that are not empty.
    pub shorter: u64,
    /// Documents without any text.
    pub empty: u64,
    /// Documents whose sample another document had given already.
    pub duplicates: u64,
    /// Documents that the draw passed over, so that their length is not known.
    pub not_examined: u64,
    /// Files in folders that are no text.
    #[serde(default)]
    pub binary: u64,
    /// Tokens of the longest document that is too short.
    pub longest_too_short: usize,
}

// === impl Tally ===

impl Tally {
    pub(super) fn new(length: usize) -> Self {
        Self { length, ..Self::default() }
    }

    /// Counts a document that has `tokens` tokens, or at least `length`.
    pub(super) fn count(&mut self, tokens: usize) {
        if tokens >= self.length {
            self.long_enough += 1;
            return;
        }
        self.longest_too_short = self.longest_too_short.max(tokens);
        if 2 * tokens >= self.length {
            self.at_least_half += 1;
        } else {
            self.shorter += 1;
        }
    }

    /// Documents skipped because they are too short or empty.
    pub fn too_short(&self) -> u64 {
        self.at_least_half + self.shorter + self.empty
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.long_enough + self.too_short() + self.not_examined;
        let half = self.length.div_ceil(2);
        write!(f, "{total} documents: {} of {} tokens or more", self.long_enough, self.length)?;
        let rest = [
            (self.at_least_half, format!("of {half} to {}", self.length.saturating_sub(1))),
            (self.shorter, format!("shorter than {half}")),
            (self.empty, "empty".to_owned()),
            (self.duplicates, "with the same tokens as another".to_owned()),
            (self.not_examined, "not examined".to_owned()),
        ];
        for (count, what) in rest.iter().filter(|(count, _)| *count > 0) {
            write!(f, ", {count} {what}")?;
        }
        if self.longest_too_short > 0 {
            write!(f, "; the longest of the short ones has {}", self.longest_too_short)?;
        }
        f.write_str(&left_out(self.binary))
    }
}

/// Words for so many files that are no text, to go on with after a sentence; nothing for none.
pub fn left_out(binary: u64) -> String {
    match binary {
        0 => String::new(),
        1 => "; 1 file left out that is no text".to_owned(),
        count => format!("; {count} files left out that are no text"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_reads_as_a_sentence() {
        let mut tally = Tally::new(2048);
        for tokens in [2048, 1024, 2047, 1023, 3] {
            tally.count(tokens);
        }
        (tally.empty, tally.binary) = (1, 2);
        assert_eq!(
            tally.to_string(),
            "6 documents: 1 of 2048 tokens or more, 2 of 1024 to 2047, 2 shorter than 1024, 1 empty; \
             the longest of the short ones has 2047; 2 files left out that are no text"
        );
        assert_eq!(tally.too_short(), 5);
    }
}
