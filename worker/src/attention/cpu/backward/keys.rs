//! The gradients of keys and values, still apart by unit.

use super::super::super::AttentionShape;
use super::padded;
use super::unit::UnitGradients;
use crate::ops::rows_per_task;
use crate::ops::view::rows_mut;
use crate::simd;
use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Tensor, bail};
use rayon::prelude::*;

/// The gradients of an attention's keys and values.
#[derive(Debug, Default)]
pub(crate) struct KeyGradients {
    /// In order of the queries, and for each range of them one for each key head.
    units: Vec<UnitGradients>,
    kv_heads: usize,
    head_dim: usize,
    scale: f32,
}

impl KeyGradients {
    pub(super) fn new(units: Vec<UnitGradients>, shape: &AttentionShape) -> Self {
        Self { units, kv_heads: shape.kv_heads, head_dim: shape.head_dim, scale: shape.scale() as f32 }
    }

    /// Writes the gradient of the keys to `out`, a view of `(keys, kv_heads * head_dim)`.
    ///
    /// # Errors
    /// Candle's, when `out` has another type or layout.
    pub fn write_keys(&self, out: &Tensor) -> Result<()> {
        out.inplace_op1(&Sum { of: self, numbers: |unit| &unit.keys, scale: self.scale })
    }

    /// Writes the gradient of the values to `out`, a view of `(keys, kv_heads * head_dim)`.
    ///
    /// # Errors
    /// Candle's, when `out` has another type or layout; or when they were not wanted.
    pub fn write_values(&self, out: &Tensor) -> Result<()> {
        out.inplace_op1(&Sum { of: self, numbers: |unit| &unit.values, scale: 1.0 })
    }
}

struct Sum<'a> {
    of: &'a KeyGradients,
    numbers: fn(&UnitGradients) -> &[f32],
    scale: f32,
}

impl InplaceOp1 for Sum<'_> {
    fn name(&self) -> &'static str {
        "sum-of-key-gradients"
    }

    fn cpu_fwd(&self, out: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (out, of) = (rows_mut(out, layout)?, self.of);
        let (heads, dim, stride) = (of.kv_heads, of.head_dim, padded(of.head_dim));
        let complete = |unit: &UnitGradients| (self.numbers)(unit).len() == unit.key_range.len() * stride;
        let keys = of.units.last().map_or(0, |unit| unit.key_range.end);
        if out.width != heads * dim || out.count != keys || !of.units.iter().all(complete) {
            bail!("gradients of {keys} keys of {heads} heads of {dim} for {} rows of {}", out.count, out.width);
        }
        let (arch, task, to) = (simd::best(), rows_per_task(out.width), out.stride);
        out.data.par_chunks_mut(to * task).enumerate().for_each(|(index, rows)| {
            for (key, row) in (index * task..).zip(rows.chunks_mut(to)) {
                arch.dispatch(|| {
                    for (head, out) in row[..heads * dim].chunks_exact_mut(dim).enumerate() {
                        self.sum(head, key, stride, out);
                    }
                });
            }
        });
        Ok(())
    }
}

impl Sum<'_> {
    #[inline(always)]
    fn sum(&self, head: usize, key: usize, stride: usize, out: &mut [f32]) {
        out.fill(0.0);
        let units = self.of.units[head..].iter().step_by(self.of.kv_heads);
        for unit in units.filter(|unit| unit.key_range.contains(&key)) {
            let numbers = &(self.numbers)(unit)[(key - unit.key_range.start) * stride..];
            out.iter_mut().zip(numbers).for_each(|(out, number)| *out += number);
        }
        out.iter_mut().for_each(|out| *out *= self.scale);
    }
}
