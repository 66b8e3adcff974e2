//! Cosines and sines of a candidate for the positions of a chunk.

use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;
use ropewalk_shared::rope::AngleRule;
use ropewalk_shared::training::{Gap, position};

/// Tables that are kept for all layers take at most this much; those of longer sequences are made anew for each layer.
const KEPT_BYTES: usize = 256 << 20;

/// Cosines and sines, each `(tokens of the chunk, pairs)` in f32.
pub type Rotation = (Tensor, Tensor);

/// Makes the tables of a sequence chunk by chunk.
///
/// Angles are computed in f64 and rounded once, as cosines and sines: in single precision they would be off by up to
/// 4e-3 at 128k positions.
#[derive(Debug)]
pub struct RopeTable {
    rule: AngleRule,
    chunk: usize,
    tokens: usize,
    device: Device,
    gaps: Vec<Gap>,
    kept: Vec<Option<Rotation>>,
}

impl RopeTable {
    /// The table of positions `0..tokens` in chunks of `chunk` under a rule.
    pub fn new(rule: AngleRule, tokens: usize, chunk: usize, device: &Device) -> Self {
        let kept = if is_kept(rule.pairs(), tokens) { tokens.div_ceil(chunk) } else { 0 };
        Self { rule, chunk, tokens, device: device.clone(), gaps: Vec::new(), kept: vec![None; kept] }
    }

    /// The same with positions skipped.
    pub(crate) fn with_gaps(self, gaps: &[Gap]) -> Self {
        Self { gaps: gaps.to_vec(), ..self }
    }

    /// Bytes that it takes at most.
    pub(crate) fn bytes(&self) -> u64 {
        bytes(self.rule.pairs(), self.tokens, self.chunk.min(self.tokens)) as u64
    }

    /// The rotation of chunk `index`.
    ///
    /// # Errors
    /// Candle's, when the device is out of memory.
    pub fn rotation(&mut self, index: usize) -> Result<Rotation> {
        if let Some(Some(kept)) = self.kept.get(index) {
            return Ok(kept.clone());
        }
        let made = self.make(index)?;
        if let Some(slot) = self.kept.get_mut(index) {
            *slot = Some(made.clone());
        }
        Ok(made)
    }

    fn make(&self, index: usize) -> Result<Rotation> {
        let (first, pairs) = (index * self.chunk, self.rule.pairs());
        let rows = self.chunk.min(self.tokens - first);
        let (mut cos, mut sin) = (vec![0.0; rows * pairs], vec![0.0; rows * pairs]);
        let numbers = cos.par_chunks_mut(pairs).zip(sin.par_chunks_mut(pairs)).enumerate().with_min_len(16);
        numbers.for_each(|(row, (cos, sin))| {
            let position = position(&self.gaps, first + row);
            for (pair, (cos, sin)) in cos.iter_mut().zip(sin).enumerate() {
                let (c, s) = self.rule.cos_sin(pair, position);
                (*cos, *sin) = (c as f32, s as f32);
            }
        });
        let tensor = |numbers| Tensor::from_vec(numbers, (rows, pairs), &self.device);
        Ok((tensor(cos)?, tensor(sin)?))
    }
}

/// Bytes that the table of one position takes.
pub(crate) fn bytes_per_token(pairs: usize) -> usize {
    2 * pairs * size_of::<f32>()
}

/// Bytes that the tables of a sequence take at most at a time, of which `chunk` tokens are made at once.
pub(crate) fn bytes(pairs: usize, tokens: usize, chunk: usize) -> usize {
    let held = if is_kept(pairs, tokens) { tokens } else { chunk };
    held * bytes_per_token(pairs)
}

/// Whether the tables of a sequence are kept for all layers.
pub(crate) fn is_kept(pairs: usize, tokens: usize) -> bool {
    tokens * bytes_per_token(pairs) <= KEPT_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use ropewalk_shared::rope::{Rescale, RopeGeometry};

    #[test]
    fn chunks_are_the_rule_at_their_positions() {
        let geometry = RopeGeometry { head_dim: 8, rotary_dim: 6, theta: 10_000.0 };
        let rescale = Rescale {
            factors: vec![1.0, 2.0, 3.5],
            start_tokens: 9,
            attention_factor: 1.25,
            pair_attention: vec![1.0, 0.5, 1.5],
        };
        let rule = AngleRule::new(&geometry, &rescale).unwrap();
        let mut table = RopeTable::new(rule.clone(), 23, 7, &Device::Cpu);
        for chunk in [0, 1, 3, 0] {
            let (cos, sin) = table.rotation(chunk).unwrap();
            let (cos, sin) = (cos.to_vec2::<f32>().unwrap(), sin.to_vec2::<f32>().unwrap());
            assert_eq!(cos.len(), if chunk == 3 { 2 } else { 7 });
            for (row, (cos, sin)) in cos.iter().zip(&sin).enumerate() {
                for pair in 0..3 {
                    let (c, s) = rule.cos_sin(pair, (chunk * 7 + row) as u64);
                    assert_eq!((cos[pair], sin[pair]), (c as f32, s as f32));
                }
            }
        }
    }
}
