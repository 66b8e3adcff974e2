//! Samples on the wire: cut into chunks, put together and checked against their content address.

use super::field::{InvalidField, digest, invalid, value};
use super::{FieldProblem, pb};
use crate::sample::{InvalidSample, MAX_SAMPLE_TOKENS, Sample, SampleId};

/// Largest chunk, in bytes of token ids.
pub const MAX_CHUNK_BYTES: usize = 1 << 20;
/// Chunks that are sent: small enough to share a connection with heartbeats.
const SENT_CHUNK_TOKENS: usize = 1 << 16;

/// A sample that did not arrive as it was announced.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidTransfer {
    /// A chunk by itself is wrong.
    #[error(transparent)]
    Field(#[from] InvalidField),
    /// A chunk of another sample, or with another length, in the middle.
    #[error("a chunk of another sample arrived before this one was complete")]
    Mixed,
    /// More tokens than announced.
    #[error("more tokens arrived than the {announced} announced")]
    TooLong {
        /// Tokens announced.
        announced: usize,
    },
    /// The stream ended early.
    #[error("{got} tokens arrived of the {announced} announced: send the sample again")]
    Incomplete {
        /// Tokens that arrived.
        got: usize,
        /// Tokens announced.
        announced: usize,
    },
    /// The content is not what its address says.
    #[error("the tokens that arrived have the address {got}, not {expected}: send the sample again")]
    Content {
        /// Address announced.
        expected: SampleId,
        /// Address of what arrived.
        got: SampleId,
    },
    /// Too short or too long to be a sample.
    #[error(transparent)]
    Sample(#[from] InvalidSample),
}

/// Puts a sample together. Memory grows with what arrives, never with what is announced.
#[derive(Debug, Default)]
pub struct SampleAssembly {
    announced: Option<(SampleId, usize, u32)>,
    tokens: Vec<u32>,
}

/// The chunks of a sample with this address, in order.
pub fn chunks(id: SampleId, sample: &Sample) -> impl Iterator<Item = pb::SampleChunk> + '_ {
    let total_tokens = sample.tokens().len() as u32;
    sample.tokens().chunks(SENT_CHUNK_TOKENS).map(move |part| pb::SampleChunk {
        sample_id: id.as_bytes().to_vec(),
        total_tokens,
        counted_from: sample.counted_from(),
        token_ids: part.iter().flat_map(|token| token.to_le_bytes()).collect(),
    })
}

// === impl SampleAssembly ===

impl SampleAssembly {
    /// Takes in the next chunk.
    ///
    /// # Errors
    /// [`InvalidTransfer`]; the assembly is then of no further use.
    pub fn push(&mut self, chunk: &pb::SampleChunk) -> Result<(), InvalidTransfer> {
        let id = SampleId::from(digest::<32>("sample_id", &chunk.sample_id)?);
        let total = chunk.total_tokens as usize;
        if !(2..=MAX_SAMPLE_TOKENS).contains(&total) {
            return Err(InvalidSample::Length(total).into());
        }
        let announced = (id, total, chunk.counted_from);
        if *self.announced.get_or_insert(announced) != announced {
            return Err(InvalidTransfer::Mixed);
        }
        let bytes = chunk.token_ids.len();
        // An empty one would keep a transfer alive for ever.
        if !(1..=MAX_CHUNK_BYTES).contains(&bytes) || !bytes.is_multiple_of(4) {
            let expected = format!("has {bytes} bytes, expected a multiple of 4 from 4 to {MAX_CHUNK_BYTES}");
            return Err(invalid("token_ids", FieldProblem::Value(expected)).into());
        }
        if self.tokens.len() + bytes / 4 > total {
            return Err(InvalidTransfer::TooLong { announced: total });
        }
        self.tokens.extend(chunk.token_ids.as_chunks::<4>().0.iter().map(|four| u32::from_le_bytes(*four)));
        Ok(())
    }

    /// Tokens that have arrived.
    pub fn tokens(&self) -> usize {
        self.tokens.len()
    }

    /// The sample, once everything has arrived.
    ///
    /// # Errors
    /// [`InvalidTransfer`] when something is missing or the content is not what was announced.
    pub fn finish(self) -> Result<(SampleId, Sample), InvalidTransfer> {
        let (expected, announced, counted_from) = self.announced.ok_or(invalid("sample_id", FieldProblem::Missing))?;
        if self.tokens.len() < announced {
            return Err(InvalidTransfer::Incomplete { got: self.tokens.len(), announced });
        }
        let sample = Sample::counted(self.tokens, counted_from).map_err(value("counted_from"))?;
        match sample.id() {
            id if id == expected => Ok((id, sample)),
            got => Err(InvalidTransfer::Content { expected, got }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(tokens: u32) -> Sample {
        Sample::new((0..tokens).map(|i| i * 7).collect()).unwrap()
    }

    #[test]
    fn a_sample_of_many_chunks_arrives() {
        let sample = sample(200_000);
        let mut assembly = SampleAssembly::default();
        for chunk in chunks(sample.id(), &sample) {
            assembly.push(&chunk).unwrap();
        }
        assert_eq!(assembly.finish(), Ok((sample.id(), sample)));
    }

    #[test]
    fn what_counts_arrives_with_the_tokens() {
        let sample = Sample::counted(vec![5, 6, 7], 2).unwrap();
        let arrived = |change: fn(&mut pb::SampleChunk)| {
            let mut chunk = chunks(sample.id(), &sample).next().unwrap();
            change(&mut chunk);
            let mut assembly = SampleAssembly::default();
            assembly.push(&chunk)?;
            assembly.finish()
        };
        assert_eq!(arrived(|_| {}), Ok((sample.id(), sample.clone())));
        assert!(matches!(arrived(|chunk| chunk.counted_from = 1), Err(InvalidTransfer::Content { .. })));
        let nothing = arrived(|chunk| chunk.counted_from = 3).unwrap_err().to_string();
        assert!(nothing.contains("no token of the sample counts"), "{nothing}");
    }

    #[test]
    fn what_is_not_the_announced_sample_is_refused() {
        let (first, second) = (sample(70_000), sample(70_001));
        let chunk = |sample: &Sample, index| chunks(sample.id(), sample).nth(index).unwrap();
        let mut assembly = SampleAssembly::default();
        assembly.push(&chunk(&first, 0)).unwrap();
        assert_eq!(assembly.push(&chunk(&second, 1)), Err(InvalidTransfer::Mixed));

        let mut assembly = SampleAssembly::default();
        assembly.push(&chunk(&first, 0)).unwrap();
        assert!(matches!(assembly.finish(), Err(InvalidTransfer::Incomplete { got: 65_536, announced: 70_000 })));

        let mut assembly = SampleAssembly::default();
        assembly.push(&chunk(&first, 0)).unwrap();
        assert!(matches!(assembly.push(&chunk(&first, 0)), Err(InvalidTransfer::TooLong { .. })));

        let mut altered = chunk(&sample(10), 0);
        altered.token_ids[3] ^= 1;
        let mut assembly = SampleAssembly::default();
        assembly.push(&altered).unwrap();
        assert!(matches!(assembly.finish(), Err(InvalidTransfer::Content { .. })));
        assert!(SampleAssembly::default().finish().is_err());
    }

    #[test]
    fn hostile_chunks_are_refused() {
        let good = chunks(sample(10).id(), &sample(10)).next().unwrap();
        let refused = |change: fn(&mut pb::SampleChunk)| {
            let mut chunk = good.clone();
            change(&mut chunk);
            SampleAssembly::default().push(&chunk).is_err()
        };
        assert!(refused(|chunk| chunk.sample_id.truncate(31)));
        assert!(refused(|chunk| chunk.total_tokens = u32::MAX));
        assert!(refused(|chunk| chunk.total_tokens = 1));
        assert!(refused(|chunk| chunk.token_ids.truncate(3)));
        assert!(refused(|chunk| chunk.token_ids.clear()));
        assert!(refused(|chunk| chunk.token_ids = vec![0; MAX_CHUNK_BYTES + 4]));
    }
}
