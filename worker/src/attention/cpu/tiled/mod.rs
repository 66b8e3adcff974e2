//! Streaming attention on a matrix unit: scores and weighted sums are products of blocks, 32 queries by 32 keys.
//!
//! Keys and values are laid out for the unit once, when they are appended, and read by all later queries. The softmax
//! between the two products is in f32. What is computed for a query depends on its place in its strip of 32 alone, and
//! blocks of keys begin at multiples of their size, so the result does not depend on the number of threads.

mod softmax;
mod strip;

use super::{AttentionShape, parts_of};
use crate::ops::view::{Rows, rows, rows_mut};
use crate::simd;
use crate::tiles::Unit;
use crate::tiles::packed::Packed;
use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Storage, Tensor, bail};
use rayon::prelude::*;
use strip::Tile;

/// Keys and values of one layer, laid out for a matrix unit.
#[derive(Debug)]
pub(crate) struct TiledKeyValues {
    unit: Unit,
    heads: Vec<Head>,
    dim: usize,
    capacity: usize,
}

/// Those of one head.
#[derive(Debug)]
struct Head {
    /// A column per key.
    keys: Packed,
    /// A column per dimension.
    values: Packed,
}

impl TiledKeyValues {
    /// Room for `capacity` tokens, in numbers split into so many parts.
    pub fn new(unit: Unit, heads: usize, dim: usize, capacity: usize, parts: usize) -> Self {
        let head = |_| Head { keys: Packed::zeros(capacity, dim, parts), values: Packed::zeros(dim, capacity, parts) };
        Self { unit, heads: (0..heads).map(head).collect(), dim, capacity }
    }

    /// What it takes.
    pub fn bytes(&self) -> u64 {
        self.heads.iter().map(|head| head.keys.bytes() + head.values.bytes()).sum::<usize>() as u64
    }

    /// Lays out the rows `k` and `v`, `(tokens, heads * dim)` in f32, as those of the tokens from `position` on.
    pub fn append(&mut self, k: &Tensor, v: &Tensor, position: usize) -> Result<()> {
        let ((k, k_layout), (v, v_layout)) = (k.storage_and_layout(), v.storage_and_layout());
        let (Storage::Cpu(k), Storage::Cpu(v)) = (&*k, &*v) else { bail!("keys and values are not on the CPU") };
        let (k, v) = (rows(k, k_layout)?, rows(v, v_layout)?);
        let width = self.heads.len() * self.dim;
        if k.width != width || v.width != width || k.count != v.count || position + k.count > self.capacity {
            let place = (position, self.capacity);
            bail!("{} keys of {} and {} values of {} at {place:?}", k.count, k.width, v.count, v.width);
        }
        let dim = self.dim;
        self.heads.par_iter_mut().enumerate().for_each(|(head, held)| {
            let of = |x: &Rows<'_>, token: usize| token * x.stride + head * dim;
            let key = |token| &k.data[of(&k, token)..][..dim];
            let value = |token| &v.data[of(&v, token)..][..dim];
            for token in 0..k.count {
                held.keys.write_column(position + token, key(token));
            }
            let mut token = 0;
            while token < v.count {
                // Two tokens at a time are a whole row of a tile.
                if (position + token).is_multiple_of(2) && token + 1 < v.count {
                    held.values.write_two_inputs(position + token, [value(token), value(token + 1)]);
                    token += 2;
                } else {
                    held.values.write_input(position + token, value(token));
                    token += 1;
                }
            }
        });
        Ok(())
    }

    /// Replaces the queries `q`, rows of f32 the last of which stands at the last of the first `keys` keys, by the result
    /// of their attention.
    pub fn attend(&self, shape: &AttentionShape, q: &Tensor, keys: usize) -> Result<()> {
        q.inplace_op1(&Attend { held: self, shape, keys })
    }
}

struct Attend<'a> {
    held: &'a TiledKeyValues,
    shape: &'a AttentionShape,
    keys: usize,
}

impl InplaceOp1 for Attend<'_> {
    fn name(&self) -> &'static str {
        "tiled-attention"
    }

    fn cpu_fwd(&self, q: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (q, shape, held) = (rows_mut(q, layout)?, self.shape, self.held);
        let fits = (shape.kv_heads, shape.head_dim) == (held.heads.len(), held.dim) && self.keys <= held.capacity;
        if q.width != shape.query_width() || q.count > self.keys || !fits {
            bail!("{} queries of {} columns over {} keys for {shape:?}", q.count, q.width, self.keys);
        }
        let queries = q.data.chunks_mut(q.stride).map(|row| &mut row[..q.width]);
        let tiles = parts_of(shape, queries, (q.count, self.keys), &mut []);
        tiles.into_par_iter().enumerate().for_each(|(index, parts)| {
            let head = &held.heads[index % shape.kv_heads];
            Tile { shape, parts, keys: &head.keys, values: &head.values }.run(simd::best(), held.unit);
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests;
