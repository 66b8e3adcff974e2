use super::host::{Argument, Format, buffer, integer, is_here, launch, numbers};
use super::{every_format, noise};
use crate::attention::{AttentionShape, reference};
use half::{bf16, f16};

/// Streaming attention as the device runs it: products by hand in place of cuBLAS's, the softmax by the kernels. Queries,
/// keys and values are numbers of the format.
fn attention<T: Format>(shape: &AttentionShape, chunk: usize, [q, k, v]: [&[f32]; 3], part: usize) -> Vec<T> {
    let (d, keys) = (shape.head_dim, k.len() / shape.kv_heads / shape.head_dim);
    let (rows, first) = (shape.heads * chunk, keys - chunk);
    // What is there before the first block does not matter.
    let [mut maxima, mut totals, mut sums] = [rows, rows, rows * d].map(|count| vec![f32::NAN; count]);
    let key_of = |row: usize, key: usize| (row / chunk / shape.group() * keys + key) * d;
    for begin in (0..keys).step_by(part) {
        let count = part.min(keys - begin);
        let mut scores = Vec::new();
        for row in 0..rows {
            let query = &q[row % chunk * shape.query_width() + row / chunk * d..][..d];
            scores.extend(
                (begin..begin + count)
                    .map(|key| -> f32 { query.iter().zip(&k[key_of(row, key)..]).map(|(a, b)| a * b).sum() }),
            );
        }
        let weights = vec![T::from_f64(9.0); rows * count];
        let scale = shape.scale() * std::f64::consts::LOG2_E;
        let state = [buffer(&scores), buffer(&weights), buffer(&maxima), buffer(&totals), buffer(&sums)];
        let sizes = [chunk, count, d, begin, first, shape.window.unwrap_or(keys), usize::from(begin == 0)].map(integer);
        let arguments: Vec<_> = state.into_iter().chain([Argument::Real(scale)]).chain(sizes).collect();
        let after = launch(&format!("softmax_block_{}", T::NAME), rows, 64, &arguments);
        let weights = numbers::<T>(&after[1]);
        [maxima, totals, sums] = [2, 3, 4].map(|i| numbers::<f32>(&after[i]));
        for (row, weights) in weights.chunks(count).enumerate() {
            for (key, weight) in weights.iter().enumerate() {
                let value = &v[key_of(row, begin + key)..][..d];
                let sum = sums[row * d..][..d].iter_mut().zip(value);
                sum.for_each(|(sum, value)| *sum += weight.to_f64() as f32 * value);
            }
        }
    }
    let out = vec![T::from_f64(9.0); chunk * shape.query_width()];
    let sizes = [shape.heads, chunk, d].map(integer);
    let arguments: Vec<_> = [buffer(&sums), buffer(&totals), buffer(&out)].into_iter().chain(sizes).collect();
    numbers(&launch(&format!("softmax_finish_{}", T::NAME), rows, 32, &arguments)[2])
}

#[test]
fn streaming_attention_honours_windows_like_the_definition() {
    fn check<T: Format>(window: Option<usize>, part: usize) {
        let shape = AttentionShape { heads: 4, kv_heads: 2, head_dim: 8, window };
        let (chunk, keys) = (5, 23);
        let numbers = |count: usize, seed: usize| -> Vec<f32> {
            noise::<T>(count, seed).into_iter().map(|x| T::from_f64(x.to_f64() * 3.0).to_f64() as f32).collect()
        };
        let (q, k, v) = (numbers(chunk * 32, 1), numbers(2 * keys * 8, 2), numbers(2 * keys * 8, 3));
        let got = attention::<T>(&shape, chunk, [&q, &k, &v], part);
        for (got, want) in got.iter().zip(reference::attention(&shape, chunk, &q, &k, &v)) {
            // Weights of 1 at most and values of 3 are rounded to the format once each.
            assert!((got.to_f64() - f64::from(want)).abs() < 3.0 * T::EPSILON + 1e-5, "{window:?}, {part}: {want}");
        }
    }
    if is_here() {
        for (window, part) in [(None, 7), (None, 64), (Some(1), 7), (Some(6), 4), (Some(22), 10), (Some(40), 10)] {
            every_format!(check, window, part);
        }
    }
}
