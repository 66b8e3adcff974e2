//! What a rotation does to a loss: its gradients with respect to the angles of pairs and to the factors on their
//! cosines and sines.
//!
//! Turning a pair by an angle `a` and multiplying it by `f` gives `(x', y')`. Further turning moves the result by
//! `(-y', x')`, and a larger factor by `(x', y') / f`, so with the gradients of the result `(dx', dy')`:
//!
//! ```text
//! d/da    = dy' x' - dx' y'
//! d/dln f = dx' x' + dy' y'
//! ```
//!
//! The gradient of what went in is that of the result turned back (by the same cosines and negated sines): see
//! [`super::rotate`].

use super::super::rows_per_task;
use super::super::view::cpu_rows;
use crate::simd;
use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

/// Gradients by position, summed over heads in double precision.
#[derive(Debug)]
pub(crate) struct Turning {
    pairs: usize,
    /// `d/da`, `(rows, pairs)`, in radians^-1.
    angles: Vec<f64>,
    /// `d/dln f` of the pair's factor `f`, `(rows, pairs)`.
    factors: Vec<f64>,
}

impl Turning {
    /// No heads yet, for so many positions.
    pub fn new(rows: usize, pairs: usize) -> Self {
        Self { pairs, angles: vec![0.0; rows * pairs], factors: vec![0.0; rows * pairs] }
    }

    /// For each position the gradients with respect to the angles of its pairs and to their factors.
    pub fn rows(&self) -> impl Iterator<Item = (&[f64], &[f64])> {
        self.angles.chunks_exact(self.pairs).zip(self.factors.chunks_exact(self.pairs))
    }

    /// Adds heads: what the rotation gave, and its gradient, both `(rows, heads * head_dim)` in f32 on the CPU.
    ///
    /// # Errors
    /// Candle's, when shapes do not fit.
    pub fn add(&mut self, rotated: &Tensor, grad: &Tensor, head_dim: usize) -> Result<()> {
        let ((rotated, layout), (grad, grad_layout)) = (rotated.storage_and_layout(), grad.storage_and_layout());
        let (rotated, grad) = (cpu_rows(&rotated, layout)?, cpu_rows(&grad, grad_layout)?);
        let (pairs, width) = (self.pairs, rotated.width);
        let rows = self.factors.len() / pairs;
        if (rotated.count, grad.count, grad.width) != (rows, rows, width)
            || 2 * pairs > head_dim
            || width % head_dim != 0
        {
            bail!("{rows} rows of {pairs} pairs do not fit {} and {} rows of {width}", rotated.count, grad.count);
        }
        let (arch, task) = (simd::best(), rows_per_task(width));
        let sums = self.angles.par_chunks_mut(pairs * task).zip(self.factors.par_chunks_mut(pairs * task));
        let given = rotated.data.par_chunks(rotated.stride * task).zip(grad.data.par_chunks(grad.stride * task));
        sums.zip(given).for_each(|((angles, factors), (given, grads))| {
            let sums = angles.chunks_exact_mut(pairs).zip(factors.chunks_exact_mut(pairs));
            let rows = given.chunks(rotated.stride).zip(grads.chunks(grad.stride));
            for ((angles, factors), (given, grad)) in sums.zip(rows) {
                let heads = given[..width].chunks_exact(head_dim).zip(grad.chunks_exact(head_dim));
                arch.dispatch(|| heads.for_each(|(given, grad)| add_head(angles, factors, given, grad)));
            }
        });
        Ok(())
    }
}

/// Adds a head.
#[inline(always)]
fn add_head(angles: &mut [f64], factors: &mut [f64], given: &[f32], grad: &[f32]) {
    let pairs = angles.len();
    let ((x, y), (dx, dy)) = (given[..2 * pairs].split_at(pairs), grad[..2 * pairs].split_at(pairs));
    for (i, (angle, factor)) in angles.iter_mut().zip(factors).enumerate() {
        let [x, y, dx, dy] = [x[i], y[i], dx[i], dy[i]].map(f64::from);
        *angle += dy * x - dx * y;
        *factor += dx * x + dy * y;
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::Kernels;
    use super::super::rotate;
    use super::*;
    use candle_core::Device;

    const ROWS: usize = 70;

    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| (((i + seed) * 7919 % 1013) as f32 - 506.0) / 300.0).collect()
    }

    fn tensor(data: Vec<f32>, width: usize) -> Tensor {
        Tensor::from_vec(data.clone(), (data.len() / width, width), &Device::Cpu).unwrap()
    }

    /// `sum(rotated * grad)`, in f64, by row.
    fn losses(x: &[f32], grad: &[f32], dim: usize, angles: &[f64], factors: &[f64]) -> Vec<f64> {
        let pairs = angles.len() / ROWS;
        let rows = x.chunks(x.len() / ROWS).zip(grad.chunks(x.len() / ROWS)).zip(angles.chunks(pairs));
        rows.map(|((x, grad), angles)| {
            let heads = x.chunks(dim).zip(grad.chunks(dim));
            let pair = |x: &[f32], grad: &[f32], i: usize| {
                let (a, b) = (f64::from(x[i]), f64::from(x[i + pairs]));
                let (sin, cos) = angles[i].sin_cos();
                let turned = (a * cos - b * sin, b * cos + a * sin);
                factors[i] * (turned.0 * f64::from(grad[i]) + turned.1 * f64::from(grad[i + pairs]))
            };
            heads.map(|(x, grad)| (0..pairs).map(|i| pair(x, grad, i)).sum::<f64>()).sum()
        })
        .collect()
    }

    #[test]
    fn gradients_are_differences_of_the_definition() {
        for (heads, dim, pairs) in [(1, 2, 1), (3, 12, 6), (2, 96, 24), (4, 16, 7)] {
            let (x, grad) = (numbers(ROWS * heads * dim, 1), numbers(ROWS * heads * dim, 2));
            let angles: Vec<f64> = (0..ROWS * pairs).map(|i| i as f64 * 0.37).collect();
            let factors: Vec<f64> = (0..pairs).map(|pair| 1.3 + 0.1 * pair as f64).collect();
            let part = |f: fn(f64) -> f64| {
                let scaled = angles.iter().enumerate().map(|(i, a)| (f(*a) * factors[i % pairs]) as f32);
                tensor(scaled.collect(), pairs)
            };
            let rotated = tensor(x.clone(), heads * dim);
            let rotated = rotate(Kernels::Cpu, rotated, dim, (&part(f64::cos), &part(f64::sin)), None).unwrap();
            let mut turning = Turning::new(ROWS, pairs);
            turning.add(&rotated, &tensor(grad.clone(), heads * dim), dim).unwrap();

            let step = 1e-4;
            let slope = |up: Vec<f64>, down: Vec<f64>| -> Vec<f64> {
                up.iter().zip(&down).map(|(up, down)| (up - down) / (2.0 * step)).collect()
            };
            let at = |angles: &[f64], factors: &[f64]| losses(&x, &grad, dim, angles, factors);
            for pair in 0..pairs {
                let scaled = |by: f64| {
                    let mut scaled = factors.clone();
                    scaled[pair] *= by.exp();
                    at(&angles, &scaled)
                };
                for ((_, got), want) in turning.rows().zip(slope(scaled(step), scaled(-step))) {
                    assert!((got[pair] - want).abs() < 1e-4, "{heads}x{dim}: {} for {want}", got[pair]);
                }
                let moved = |by: f64| -> Vec<f64> {
                    let turn = |(i, angle): (usize, &f64)| angle + if i % pairs == pair { by } else { 0.0 };
                    at(&angles.iter().enumerate().map(turn).collect::<Vec<_>>(), &factors)
                };
                for ((got, _), want) in turning.rows().zip(slope(moved(step), moved(-step))) {
                    assert!((got[pair] - want).abs() < 1e-4, "{heads}x{dim}: {} for {want}", got[pair]);
                }
            }
            assert!(turning.add(&rotated.narrow(0, 0, 9).unwrap(), &rotated, dim).is_err());
        }
    }
}
