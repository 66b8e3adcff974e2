//! Sequences as one file, so that a worker trains on exactly what was packed elsewhere.
//!
//! ```text
//! "ropewalk sequences 1\n"                                             then, for each, in little-endian order:
//! window u8   counted_from u32   documents u32   tokens u32   [document starts u32]   [token ids u32]
//!   of window 2 also:   gaps u32   [before u32, width u32]
//! ```

use super::job::SequencesId;
use super::{Gap, TrainSequence, Window};
use crate::sample::MAX_SAMPLE_TOKENS;

const MAGIC: &[u8] = b"ropewalk sequences 1\n";
const LONG: u8 = 0;
const ORIGINAL: u8 = 1;
const LONG_WITH_GAPS: u8 = 2;

/// A file that holds no sequences.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSequences {
    /// It is something else.
    #[error("it does not begin as a file of training sequences does")]
    Magic,
    /// It ends early, or something in it is out of bounds.
    #[error("sequence {0} is cut off or damaged")]
    Damaged(usize),
    /// It is not the file that was meant.
    #[error("it is another file of sequences than the one that the training was launched with")]
    Other,
}

/// The content of a file with these sequences, and its digest.
pub fn write_sequences(sequences: &[TrainSequence]) -> (Vec<u8>, SequencesId) {
    let mut bytes = MAGIC.to_vec();
    for sequence in sequences {
        let window = match sequence.window {
            Window::Long if sequence.gaps.is_empty() => LONG,
            Window::Original => ORIGINAL,
            Window::Long => LONG_WITH_GAPS,
        };
        bytes.push(window);
        let counts = [sequence.counted_from, sequence.documents.len() as u32, sequence.tokens.len() as u32];
        for number in counts.iter().chain(&sequence.documents).chain(&sequence.tokens) {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        if window == LONG_WITH_GAPS {
            let gaps = sequence.gaps.iter().flat_map(|gap| [gap.before, gap.width]);
            for number in [sequence.gaps.len() as u32].into_iter().chain(gaps) {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
        }
    }
    let id = SequencesId(*blake3::hash(&bytes).as_bytes());
    (bytes, id)
}

/// The sequences in a file's content, which must have this digest.
///
/// # Errors
/// [`InvalidSequences`]
pub fn read_sequences(bytes: &[u8], id: SequencesId) -> Result<Vec<TrainSequence>, InvalidSequences> {
    let mut rest = bytes.strip_prefix(MAGIC).ok_or(InvalidSequences::Magic)?;
    if blake3::hash(bytes).as_bytes() != &id.0 {
        return Err(InvalidSequences::Other);
    }
    let mut sequences = Vec::new();
    while !rest.is_empty() {
        sequences.push(one(&mut rest).ok_or(InvalidSequences::Damaged(sequences.len()))?);
    }
    Ok(sequences)
}

fn one(rest: &mut &[u8]) -> Option<TrainSequence> {
    let (window, with_gaps) = match *rest.split_off_first()? {
        LONG => (Window::Long, false),
        ORIGINAL => (Window::Original, false),
        LONG_WITH_GAPS => (Window::Long, true),
        _ => return None,
    };
    let counts = numbers(rest, 3)?;
    let [counted_from, documents, tokens] = counts[..] else { return None };
    // Before anything is allocated.
    if documents.max(tokens) as usize > MAX_SAMPLE_TOKENS {
        return None;
    }
    let documents = numbers(rest, documents as usize)?;
    let tokens = numbers(rest, tokens as usize)?;
    let mut gaps = Vec::new();
    if with_gaps {
        let count = *numbers(rest, 1)?.first()? as usize;
        if count == 0 || count > tokens.len() {
            return None;
        }
        gaps.extend(numbers(rest, 2 * count)?.chunks_exact(2).map(|two| Gap { before: two[0], width: two[1] }));
    }
    Some(TrainSequence { tokens, documents, counted_from, window, gaps })
}

fn numbers(rest: &mut &[u8], count: usize) -> Option<Vec<u32>> {
    let bytes = rest.split_off(..4 * count)?;
    Some(bytes.chunks_exact(4).map(|four| u32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequences() -> Vec<TrainSequence> {
        let short = TrainSequence {
            tokens: vec![7, 8, u32::MAX],
            documents: vec![0, 2],
            counted_from: 1,
            window: Window::Original,
            gaps: Vec::new(),
        };
        let gaps = vec![Gap { before: 1, width: 300 }, Gap { before: 2, width: 70_000 }];
        let skipping = TrainSequence { gaps, ..TrainSequence::long(vec![5, 6, 7]) };
        vec![TrainSequence::long(vec![1, 2, 3, 4]), short, skipping]
    }

    #[test]
    fn a_file_gives_back_what_was_written() {
        let (bytes, id) = write_sequences(&sequences());
        assert_eq!(read_sequences(&bytes, id), Ok(sequences()));
        assert_eq!(read_sequences(&write_sequences(&[]).0, write_sequences(&[]).1), Ok(vec![]));
    }

    #[test]
    fn every_cut_and_every_other_file_is_refused() {
        let (bytes, id) = write_sequences(&sequences());
        for end in 0..bytes.len() {
            assert!(read_sequences(&bytes[..end], id).is_err(), "{end}");
        }
        for end in MAGIC.len() + 1..bytes.len() {
            // With a digest that fits, the form decides; the ends of sequences are ends of files.
            let cut = &bytes[..end];
            let read = read_sequences(cut, SequencesId(*blake3::hash(cut).as_bytes()));
            let whole = [21 + 13 + 20, 21 + 13 + 20 + 13 + 20].contains(&end);
            assert_eq!(read.is_ok(), whole, "{end}: {read:?}");
        }
        let mut huge = MAGIC.to_vec();
        huge.extend_from_slice(&[0, 0, 0, 0, 0, 1, 0, 0, 0, 255, 255, 255, 255]);
        let huge_id = SequencesId(*blake3::hash(&huge).as_bytes());
        assert_eq!(read_sequences(&huge, huge_id), Err(InvalidSequences::Damaged(0)));
        assert_eq!(read_sequences(b"{}", id), Err(InvalidSequences::Magic));
    }
}
