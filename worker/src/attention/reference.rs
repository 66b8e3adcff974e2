//! Attention as it is defined, in double precision: slow, and what the kernels are tested against.

use super::AttentionShape;

/// Attention of `chunk` queries, the last of which stands at the last key; see [`AttentionShape`] for the layout.
///
/// Returns `(chunk, heads * head_dim)`.
pub fn attention(shape: &AttentionShape, chunk: usize, q: &[f32], k: &[f32], v: &[f32]) -> Vec<f32> {
    let (d, keys) = (shape.head_dim, k.len() / shape.kv_heads / shape.head_dim);
    let mut out = Vec::with_capacity(chunk * shape.query_width());
    for row in 0..chunk {
        let position = keys - chunk + row;
        for head in 0..shape.heads {
            let query = &q[row * shape.query_width() + head * d..][..d];
            let start = |key: usize| (head / shape.group() * keys + key) * d;
            let visible = shape.first_key(position)..=position;
            let scores: Vec<f64> =
                visible.clone().map(|key| shape.scale() * dot(query, &k[start(key)..][..d])).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
            let sum: f64 = weights.iter().sum();
            out.extend((0..d).map(|i| {
                let weighted = visible.clone().zip(&weights).map(|(key, weight)| weight * f64::from(v[start(key) + i]));
                (weighted.sum::<f64>() / sum) as f32
            }));
        }
    }
    out
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}
