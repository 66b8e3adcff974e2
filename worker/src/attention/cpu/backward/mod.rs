//! The gradient of streaming attention in f32 on the CPU, exact and without a matrix of scores (FlashAttention-2).
//!
//! With the weights `P = softmax(S)`, `S = scale Q K^T`, the result `O = P V` and its gradient `dO`:
//!
//! ```text
//! D_q   = sum_d dO_qd O_qd
//! dV    = P^T dO
//! dS    = P ∘ (dO V^T - D)
//! dQ    = scale dS K
//! dK    = scale dS^T Q
//! ```
//!
//! `P` is recomputed block by block from the logarithms of its sums, which the forward pass leaves behind. As there, a
//! lane is a query; only for `dK` and `dV`, sums over queries, a lane is a dimension of the head.
//!
//! Work is split into units: a key head and a range of queries, always the same ranges whatever the number of threads.
//! A unit sums up the gradients of its keys in order, and units are added in order, so the result is the same to the
//! last bit.

mod block;
mod keys;
mod strip;
mod unit;

pub(crate) use keys::KeyGradients;

use super::super::AttentionShape;
use super::tile::{Head, KEYS};
use crate::cancel::CancelFlag;
use crate::ops::view::{Heads, Rows, cpu_rows, heads, rows_mut};
use crate::simd::{self, Arch};
use candle_core::{CpuStorage, InplaceOp3, Layout, Result, Tensor};
use rayon::prelude::*;
use std::sync::OnceLock;
use unit::{Part, Unit};

/// Units that are made at least where the document is long enough: enough for the threads of a large machine.
const UNITS: usize = 32;
/// Queries of a unit, at least: a unit has gradients of all keys that its queries see, to be added up at the end.
const UNIT_QUERIES: usize = 1024;
/// Rows of queries, of all heads that share keys, that are worked on at a time.
const ROWS: usize = 256;
/// Queries of a tile are a multiple of this, the widest strip of any instruction set.
const QUERIES: usize = 64;

/// What the forward pass leaves behind for every head and query, `(heads, queries)` each.
#[derive(Clone, Copy)]
pub(crate) struct Saved<'a> {
    /// From [`super::attention_with_log_sums`].
    pub log_sums: &'a [f32],
    /// `D`: the products of results and their gradients, from [`dot_heads`].
    pub dots: &'a [f32],
}

/// Which gradients are wanted beside those of the queries and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// No others: what the values depend on is not asked for.
    KeysOnly,
    /// The values' too.
    KeysAndValues,
}

/// Replaces `grad`, the gradient with respect to the attention's result, by that with respect to its queries `q`, and
/// returns the gradients with respect to `k` and `v`, of which part is missing when `cancel` is raised.
///
/// All are laid out as [`AttentionShape`] says; the rows of `grad` and `q` may be part of wider ones.
///
/// # Errors
/// Candle's, when a tensor has another type or layout.
pub(crate) fn attention_backward(
    shape: AttentionShape,
    [q, k, v]: [&Tensor; 3],
    saved: Saved<'_>,
    grad: &Tensor,
    wanted: Wanted,
    cancel: &CancelFlag,
) -> Result<KeyGradients> {
    let (storage, layout) = q.storage_and_layout();
    let op = Backward { shape, q: cpu_rows(&storage, layout)?, saved, wanted, cancel, keys: OnceLock::new() };
    grad.inplace_op3(k, v, &op)?;
    Ok(op.keys.into_inner().unwrap_or_default())
}

/// Bytes that [`KeyGradients`] of so many keys take at most.
pub(crate) fn key_gradient_bytes(shape: &AttentionShape, keys: usize) -> usize {
    splits(shape, keys) * shape.kv_heads * 2 * keys * padded(shape.head_dim) * size_of::<f32>()
}

/// For every head and row the product of a result and its gradient, both `(rows, heads * head_dim)`: written to
/// `dots`, `(heads, queries)`, from query `first` on.
///
/// # Errors
/// Candle's, when a tensor has another type or layout.
pub(crate) fn dot_heads(
    shape: &AttentionShape,
    out: &Tensor,
    grad: &Tensor,
    dots: &mut [f32],
    first: usize,
) -> Result<()> {
    let ((out, out_layout), (grad, grad_layout)) = (out.storage_and_layout(), grad.storage_and_layout());
    let (out, grad) = (cpu_rows(&out, out_layout)?, cpu_rows(&grad, grad_layout)?);
    let queries = dots.len() / shape.heads;
    if out.width != shape.query_width() || grad.width != out.width || first + out.count.max(grad.count) > queries {
        candle_core::bail!("{} rows at {first} do not fit {queries} queries of {shape:?}", out.count);
    }
    for (row, (out, grad)) in out.data.chunks(out.stride).zip(grad.data.chunks(grad.stride)).enumerate() {
        let heads = out.chunks_exact(shape.head_dim).zip(grad.chunks_exact(shape.head_dim)).take(shape.heads);
        for (head, (out, grad)) in heads.enumerate() {
            let dot: f64 = out.iter().zip(grad).map(|(out, grad)| f64::from(*out) * f64::from(*grad)).sum();
            dots[head * queries + first + row] = dot as f32;
        }
    }
    Ok(())
}

struct Backward<'a> {
    shape: AttentionShape,
    q: Rows<'a>,
    saved: Saved<'a>,
    wanted: Wanted,
    cancel: &'a CancelFlag,
    keys: OnceLock<KeyGradients>,
}

impl InplaceOp3 for Backward<'_> {
    fn name(&self) -> &'static str {
        "streaming-attention-backward"
    }

    fn cpu_fwd(
        &self,
        grad: &mut CpuStorage,
        grad_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<()> {
        let (grad, k, v, q) = (rows_mut(grad, grad_layout)?, heads(k, k_layout)?, heads(v, v_layout)?, self.q);
        let (shape, of) = (&self.shape, |x: &Heads<'_>| (x.heads, x.count, x.dim));
        if q.width != shape.query_width() || of(&k) != (shape.kv_heads, k.count, shape.head_dim) || of(&v) != of(&k) {
            candle_core::bail!("{} columns of queries, keys {:?}, values {:?} for {shape:?}", q.width, of(&k), of(&v));
        }
        let saved = [self.saved.log_sums.len(), self.saved.dots.len()];
        if q.count > k.count || (grad.count, grad.width) != (q.count, q.width) || saved != [q.count * shape.heads; 2] {
            let rows = (q.count, grad.count, k.count);
            candle_core::bail!("queries, gradients and keys {rows:?} with {saved:?} sums do not fit for {shape:?}");
        }
        let rows = grad.data.chunks_mut(grad.stride).map(|row| &mut row[..q.width]);
        let input = Input { shape, q, k, v, saved: self.saved, wanted: self.wanted, cancel: self.cancel };
        let _ = self.keys.set(run(simd::best(), &input, rows));
        Ok(())
    }
}

/// All that units read.
struct Input<'a> {
    shape: &'a AttentionShape,
    q: Rows<'a>,
    k: Heads<'a>,
    v: Heads<'a>,
    saved: Saved<'a>,
    wanted: Wanted,
    cancel: &'a CancelFlag,
}

/// Runs on these instructions; `grads` yields the rows of the gradient.
fn run<'g>(arch: Arch, input: &Input<'_>, grads: impl Iterator<Item = &'g mut [f32]>) -> KeyGradients {
    let (shape, count) = (input.shape, input.q.count);
    let (group, first) = (shape.group(), input.k.count - count);
    let per_tile = (ROWS / group).max(QUERIES) / QUERIES * QUERIES;
    let per_unit = count.div_ceil(splits(shape, count)).next_multiple_of(per_tile);

    let mut units: Vec<Unit<'_>> = Vec::new();
    for (row, grad) in grads.enumerate() {
        if row % per_unit == 0 {
            let unit = |head| Unit {
                input,
                keys: Head::new(input.k, head),
                values: Head::new(input.v, head),
                // From the beginning of a block, as strips have them.
                key_range: shape.first_key(first + row) / KEYS * KEYS..first + count.min(row + per_unit),
                tiles: Vec::new(),
            };
            units.extend((0..shape.kv_heads).map(unit));
        }
        let begin = units.len() - shape.kv_heads;
        let mut heads = grad.chunks_exact_mut(shape.head_dim).enumerate();
        for unit in &mut units[begin..] {
            if row % per_tile == 0 {
                unit.tiles.push((0..group).map(|_| Part::with_capacity(per_tile)).collect());
            }
            let parts = unit.tiles.last_mut().into_iter().flatten();
            for (part, (head, grad)) in parts.zip(&mut heads) {
                part.push(row, head, grad);
            }
        }
    }
    let units = units.into_par_iter().with_max_len(1).map(|unit| arch.dispatch(unit)).collect();
    KeyGradients::new(units, shape)
}

/// Into how many ranges the queries are split: a number that must not depend on the machine.
fn splits(shape: &AttentionShape, queries: usize) -> usize {
    (UNITS / shape.kv_heads).clamp(1, queries.div_ceil(UNIT_QUERIES).max(1))
}

/// Width of a row of key gradients: whole vectors of any instruction set.
fn padded(head_dim: usize) -> usize {
    head_dim.next_multiple_of(16)
}

#[cfg(test)]
mod tests;
