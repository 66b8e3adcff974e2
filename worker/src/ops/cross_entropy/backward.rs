//! The gradient of the loss with respect to the logits: `softmax(logits) - [v = target]`, times a factor.

use super::super::view::rows_mut;
use super::CrossEntropy;
use crate::simd::{self, exp};
use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Tensor, bail};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

impl CrossEntropy<'_> {
    /// Replaces the logits of the vocabulary from `first` on, `(rows, part of the vocabulary)` on the CPU, by the gradients
    /// of `scale` times the loss. All of the vocabulary must have been added before.
    pub fn backward(&self, logits: &Tensor, first: usize, scale: f64) -> Result<()> {
        logits.inplace_op1(&Backward { loss: self, first, scale })
    }
}

struct Backward<'a> {
    loss: &'a CrossEntropy<'a>,
    first: usize,
    scale: f64,
}

impl InplaceOp1 for Backward<'_> {
    fn name(&self) -> &'static str {
        "cross-entropy-backward"
    }

    fn cpu_fwd(&self, logits: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (block, loss, arch) = (rows_mut(logits, layout)?, self.loss, simd::best());
        if block.count != loss.rows.len() {
            bail!("{} rows of logits for {} targets", block.count, loss.rows.len());
        }
        let logits = block.data.par_chunks_mut(block.stride);
        logits.zip(&loss.rows).zip(loss.targets).with_min_len(8).for_each(|((logits, row), target)| {
            let logits = &mut logits[..block.width];
            arch.dispatch(Softmax { logits, max: row.max, inverse: (self.scale / row.sum) as f32 });
            let index = (*target as usize).checked_sub(self.first);
            if let Some(grad) = index.and_then(|index| logits.get_mut(index)) {
                *grad -= self.scale as f32;
            }
        });
        Ok(())
    }
}

/// `exp(logit - max) * inverse`.
struct Softmax<'a> {
    logits: &'a mut [f32],
    max: f32,
    inverse: f32,
}

impl WithSimd for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (max, inverse) = (simd.splat_f32s(self.max), simd.splat_f32s(self.inverse));
        let (logits, rest) = S::as_mut_simd_f32s(self.logits);
        for logit in logits {
            *logit = weight(simd, *logit, max, inverse);
        }
        let weights = weight(simd, simd.partial_load_f32s(rest), max, inverse);
        simd.partial_store_f32s(rest, weights);
    }
}

#[inline(always)]
fn weight<S: Simd>(simd: S, logit: S::f32s, max: S::f32s, inverse: S::f32s) -> S::f32s {
    simd.mul_f32s(exp(simd, simd.sub_f32s(logit, max)), inverse)
}

#[cfg(test)]
mod tests {
    use super::super::super::Kernels;
    use super::*;
    use candle_core::Device;

    fn gradient(logits: &[f32], vocab: usize, targets: &[u32], block: usize, scale: f64) -> Vec<f32> {
        let all = Tensor::from_slice(logits, (targets.len(), vocab), &Device::Cpu).unwrap();
        let parts =
            || (0..vocab).step_by(block).map(|first| (first, all.narrow(1, first, block.min(vocab - first)).unwrap()));
        let mut loss = CrossEntropy::new(targets);
        parts().for_each(|(first, part)| loss.add(Kernels::Cpu, &part, first).unwrap());
        parts().for_each(|(first, part)| loss.backward(&part, first, scale).unwrap());
        all.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn gradients_are_softmax_less_the_target() {
        for (rows, vocab) in [(1, 1), (3, 17), (20, 97), (9, 1000)] {
            let logits: Vec<f32> = (0..rows * vocab).map(|i| ((i * 7919 % 1013) as f32 - 506.0) * 0.02).collect();
            let targets: Vec<u32> = (0..rows).map(|row| (row * 31 % vocab) as u32).collect();
            for (block, scale) in [(1, 1.0), (16, 0.25), (4096, 1.0)] {
                let got = gradient(&logits, vocab, &targets, block, scale);
                for ((got, logits), target) in got.chunks(vocab).zip(logits.chunks(vocab)).zip(&targets) {
                    let sum: f64 = logits.iter().map(|x| f64::from(*x).exp()).sum();
                    for (v, (got, logit)) in got.iter().zip(logits).enumerate() {
                        let want = scale * (f64::from(*logit).exp() / sum - f64::from(u8::from(v == *target as usize)));
                        assert!((f64::from(*got) - want).abs() < 1e-6, "{rows}x{vocab} by {block}: {got} for {want}");
                    }
                }
            }
        }
    }

    #[test]
    fn broken_logits_give_broken_gradients() {
        let mut logits = vec![0.5; 40];
        logits[33] = f32::NAN;
        let got = gradient(&logits, 40, &[3], 16, 1.0);
        assert!(got.iter().any(|x| x.is_nan()));
    }
}
