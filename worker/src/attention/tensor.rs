//! Streaming attention in candle's operations, for devices without a kernel of ours.

use super::{AttentionShape, gpu_block};
use candle_core::{D, DType, Device, Result, Tensor};
use candle_transformers::utils::repeat_kv;

/// Attention of the queries `q` over `k` and `v`, laid out as [`AttentionShape`] says, in the type of `q`.
///
/// Scores, weights and sums are f32 whatever the type of the operands.
pub(crate) fn attention(shape: AttentionShape, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    let (chunk, keys, d) = (q.dim(0)?, k.dim(1)?, shape.head_dim);
    let (first, at_a_time) = (keys - chunk, gpu_block(shape.heads * chunk, keys));
    // (1, heads, tokens, head_dim)
    let q = (q.reshape((1, chunk, shape.heads, d))?.transpose(1, 2)?.contiguous()? * shape.scale())?;
    let column = |value: f32| Tensor::full(value, (1, shape.heads, chunk, 1), q.device());
    let (mut max, mut total) = (column(f32::MIN)?, column(0.0)?);
    let mut sums = Tensor::zeros((1, shape.heads, chunk, d), DType::F32, q.device())?;
    let mut key = shape.first_key(first);
    while key < keys {
        let count = at_a_time.min(keys - key);
        let block = |x: &Tensor| repeat_kv(x.narrow(1, key, count)?.unsqueeze(0)?.contiguous()?, shape.group());
        let mut scores = q.matmul(&block(k)?.t()?)?.to_dtype(DType::F32)?;
        if let Some(mask) = mask(&shape, first, chunk, key, count, q.device())? {
            scores = scores.broadcast_add(&mask)?;
        }
        let new = max.maximum(&scores.max_keepdim(D::Minus1)?)?;
        let correction = (max - &new)?.exp()?;
        let weights = scores.broadcast_sub(&new)?.exp()?;
        total = ((total * &correction)? + weights.sum_keepdim(D::Minus1)?)?;
        let weighted = weights.to_dtype(v.dtype())?.matmul(&block(v)?)?.to_dtype(DType::F32)?;
        sums = (sums.broadcast_mul(&correction)? + weighted)?;
        max = new;
        key += count;
    }
    sums.broadcast_div(&total)?.transpose(1, 2)?.reshape((chunk, shape.query_width()))?.to_dtype(q.dtype())
}

/// What is added to the scores of a block, `(chunk, count)`: minus infinity where a query must not look.
fn mask(
    shape: &AttentionShape,
    first: usize,
    chunk: usize,
    key: usize,
    count: usize,
    device: &Device,
) -> Result<Option<Tensor>> {
    if key + count <= first + 1 && shape.first_key(first + chunk - 1) <= key {
        return Ok(None);
    }
    let hidden = |position: usize, key: usize| key > position || key < shape.first_key(position);
    let mask: Vec<f32> = (first..first + chunk)
        .flat_map(|position| (key..key + count).map(move |key| (position, key)))
        .map(|(position, key)| if hidden(position, key) { f32::NEG_INFINITY } else { 0.0 })
        .collect();
    Tensor::from_vec(mask, (chunk, count), device).map(Some)
}
