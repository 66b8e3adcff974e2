//! Negative log-likelihood of targets under logits that arrive a part of the vocabulary at a time.
//!
//! ```text
//! nll_r = log(sum_v exp(logit_{r,v})) - logit_{r, target_r}
//! ```
//!
//! Maximum and sum run along, so the logits of a whole vocabulary never exist for more than one block.

pub(crate) mod backward;

use super::Kernels;
use super::view::{Rows, rows};
use crate::simd::{self, Arch, exp};
use candle_core::{D, DType, Result, Storage, Tensor, bail};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

/// What is known of each row's likelihood so far.
pub(crate) struct CrossEntropy<'a> {
    targets: &'a [u32],
    rows: Vec<Row>,
}

#[derive(Clone, Copy)]
struct Row {
    max: f32,
    /// Sum of `exp(logit - max)`.
    sum: f64,
    target: f32,
}

impl<'a> CrossEntropy<'a> {
    /// Starts rows with these targets.
    pub fn new(targets: &'a [u32]) -> Self {
        let row = Row { max: f32::NEG_INFINITY, sum: 0.0, target: f32::NAN };
        Self { targets, rows: vec![row; targets.len()] }
    }

    /// Takes in the logits of the vocabulary from `first` on, `(rows, part of the vocabulary)`.
    pub fn add(&mut self, kernels: Kernels, logits: &Tensor, first: usize) -> Result<()> {
        match kernels {
            Kernels::Cpu => {
                let (storage, layout) = logits.storage_and_layout();
                let Storage::Cpu(storage) = &*storage else { bail!("the logits are not on the CPU") };
                let block = rows(storage, layout)?;
                if block.count != self.rows.len() {
                    bail!("{} rows of logits for {} targets", block.count, self.rows.len());
                }
                self.add_rows(simd::best(), block, first);
                Ok(())
            }
            _ => self.add_tensor(logits, first),
        }
    }

    /// Sum over the rows, in nats.
    pub fn finish(self) -> f64 {
        self.rows.iter().map(|row| f64::from(row.max) + row.sum.ln() - f64::from(row.target)).sum()
    }

    /// Number of rows whose target no other token of the vocabulary exceeds; a row with a number that is none counts
    /// as wrong.
    pub fn correct(&self) -> u64 {
        self.rows.iter().filter(|row| row.sum.is_finite() && row.sum > 0.0 && row.target == row.max).count() as u64
    }

    fn add_rows(&mut self, arch: Arch, block: Rows<'_>, first: usize) {
        let logits = block.data.par_chunks(block.stride);
        self.rows.par_iter_mut().zip(self.targets).zip(logits).with_min_len(8).for_each(|((row, target), logits)| {
            let logits = &logits[..block.width];
            let (max, sum) = arch.dispatch(MaxAndSum(logits));
            row.merge(max, sum);
            if let Some(logit) = (*target as usize).checked_sub(first).and_then(|index| logits.get(index)) {
                row.target = *logit;
            }
        });
    }

    fn add_tensor(&mut self, logits: &Tensor, first: usize) -> Result<()> {
        let logits = logits.to_dtype(DType::F32)?.contiguous()?;
        let (count, width) = logits.dims2()?;
        let max = logits.max_keepdim(D::Minus1)?.maximum(f32::MIN)?;
        let sum = logits.broadcast_sub(&max)?.exp()?.sum(D::Minus1)?.to_vec1::<f32>()?;
        let max = max.reshape(count)?.to_vec1::<f32>()?;
        let inside = |target: u32| (target as usize).checked_sub(first).filter(|index| *index < width);
        let index: Vec<u32> = self.targets.iter().map(|target| inside(*target).unwrap_or(0) as u32).collect();
        let index = Tensor::from_vec(index, (count, 1), logits.device())?;
        let picked = logits.gather(&index, 1)?.reshape(count)?.to_vec1::<f32>()?;
        for (i, row) in self.rows.iter_mut().enumerate() {
            row.merge(max[i], f64::from(sum[i]));
            if inside(self.targets[i]).is_some() {
                row.target = picked[i];
            }
        }
        Ok(())
    }
}

impl Row {
    fn merge(&mut self, max: f32, sum: f64) {
        let new = if max > self.max { max } else { self.max };
        let scale = |old: f32| if old == f32::NEG_INFINITY { 0.0 } else { f64::from(old - new).exp() };
        self.sum = self.sum * scale(self.max) + sum * scale(max);
        self.max = new;
    }
}

/// Maximum of a row and the sum of exponentials relative to it.
struct MaxAndSum<'a>(&'a [f32]);

impl WithSimd for MaxAndSum<'_> {
    type Output = (f32, f64);

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> (f32, f64) {
        /// Independent sums hide the latency of additions.
        const N: usize = 4;
        let (vectors, rest) = S::as_simd_f32s(self.0);
        let mut max = [simd.splat_f32s(f32::NEG_INFINITY); N];
        for group in vectors.chunks(N) {
            for (max, x) in max.iter_mut().zip(group) {
                *max = simd.max_f32s(*x, *max);
            }
        }
        let max = max.into_iter().map(|max| simd.reduce_max_f32s(max)).chain(rest.iter().copied());
        let max = max.fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a });
        // Where all is minus infinity the sum is 0, not undefined.
        let base = if max > f32::MIN { max } else { f32::MIN };
        let shift = simd.splat_f32s(base);
        let mut sums = [simd.splat_f32s(0.0); N];
        for group in vectors.chunks(N) {
            for (sum, x) in sums.iter_mut().zip(group) {
                *sum = simd.add_f32s(*sum, exp(simd, simd.sub_f32s(*x, shift)));
            }
        }
        let sum: f64 = sums.into_iter().map(|sum| f64::from(simd.reduce_sum_f32s(sum))).sum();
        (max, sum + rest.iter().map(|x| f64::from(x - base).exp()).sum::<f64>())
    }
}

#[cfg(test)]
mod tests;
