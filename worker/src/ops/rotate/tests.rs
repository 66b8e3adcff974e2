use super::*;
use candle_core::Device;
use proptest::prelude::*;

const ROWS: usize = 70;

fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| (((i + seed) * 7919 % 1013) as f32 - 506.0) / 300.0).collect()
}

fn tensor(data: Vec<f32>, width: usize) -> Tensor {
    Tensor::from_vec(data.clone(), (data.len() / width, width), &Device::Cpu).unwrap()
}

/// The definition, in f64.
fn expected(x: &[f32], dim: usize, cos: &[f32], sin: &[f32], norm: Option<&[f32]>, eps: f64) -> Vec<f64> {
    let pairs = cos.len() / ROWS;
    let mut out: Vec<f64> = x.iter().copied().map(f64::from).collect();
    let heads = out.len() / ROWS / dim;
    for (index, head) in out.chunks_mut(dim).enumerate() {
        let row = index / heads;
        if let Some(weight) = norm {
            let factor = (head.iter().map(|x| x * x).sum::<f64>() / dim as f64 + eps).sqrt().recip();
            head.iter_mut().zip(weight).for_each(|(x, weight)| *x *= factor * f64::from(*weight));
        }
        for i in 0..pairs {
            let (c, s) = (f64::from(cos[row * pairs + i]), f64::from(sin[row * pairs + i]));
            (head[i], head[i + pairs]) = (head[i] * c - head[i + pairs] * s, head[i + pairs] * c + head[i] * s);
        }
    }
    out
}

/// Candle's operations, the kernel, and the kernel on every instruction set, against the definition.
fn check(heads: usize, dim: usize, pairs: usize, with_norm: bool, seed: usize) {
    let (x, cos, sin) =
        (numbers(ROWS * heads * dim, seed), numbers(ROWS * pairs, seed + 1), numbers(ROWS * pairs, seed + 2));
    let weight = with_norm.then(|| numbers(dim, seed + 3));
    let eps = 1e-3;
    let want = expected(&x, dim, &cos, &sin, weight.as_deref(), eps);
    let near = |got: &[f32], what: &str| {
        for (got, want) in got.iter().zip(&want) {
            assert!((f64::from(*got) - want).abs() < 4e-5, "{what} {heads}x{dim}: {got} for {want}");
        }
    };
    for arch in simd::available() {
        let mut out = x.clone();
        for (index, head) in out.chunks_exact_mut(dim).enumerate() {
            let angles = index / heads * pairs..(index / heads + 1) * pairs;
            arch.dispatch(|| {
                if let Some(weight) = &weight {
                    normalise(head, weight, eps as f32);
                }
                turn(head, &cos[angles.clone()], &sin[angles]);
            });
        }
        near(&out, simd::name(arch));
    }
    let norm = weight.map(|w| HeadNorm { weight: Tensor::from_vec(w, dim, &Device::Cpu).unwrap(), eps });
    let angles = (&tensor(cos, pairs), &tensor(sin, pairs));
    for kernels in [Kernels::Tensor, Kernels::Cpu] {
        let out = rotate(kernels, tensor(x.clone(), heads * dim), dim, angles, norm.as_ref()).unwrap();
        near(&out.flatten_all().unwrap().to_vec1::<f32>().unwrap(), &format!("{kernels:?}"));
    }
}

#[test]
fn both_implementations_are_the_definition() {
    for (heads, dim, pairs, with_norm) in
        [(1, 2, 1, false), (3, 12, 6, true), (2, 64, 32, false), (2, 96, 24, false), (4, 16, 7, true)]
    {
        check(heads, dim, pairs, with_norm, 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn heads_of_any_size_are_rotated(
        heads in 1usize..4, pairs in 1usize..70, beside in 0usize..9, with_norm: bool, seed in 0usize..1000,
    ) {
        check(heads, 2 * pairs + beside, pairs, with_norm, seed);
    }
}

#[test]
fn only_the_given_columns_are_rotated() {
    let wide = tensor(numbers(ROWS * 20, 1), 20);
    let before: Vec<Vec<f32>> = wide.to_vec2().unwrap();
    let angles = (&tensor(numbers(ROWS * 4, 2), 4), &tensor(numbers(ROWS * 4, 3), 4));
    rotate(Kernels::Cpu, wide.narrow(1, 4, 8).unwrap(), 8, angles, None).unwrap();
    for (after, before) in wide.to_vec2::<f32>().unwrap().iter().zip(&before) {
        assert_eq!((&after[..4], &after[12..]), (&before[..4], &before[12..]));
        assert_ne!(after[4..12], before[4..12]);
    }
}

#[test]
fn angles_that_do_not_fit_are_errors() {
    let call = |pairs: usize, rows: usize| {
        let angles = tensor(numbers(rows * pairs, 1), pairs);
        rotate(Kernels::Cpu, tensor(numbers(ROWS * 16, 1), 16), 8, (&angles, &angles), None)
    };
    assert!(call(4, ROWS).is_ok() && call(5, ROWS).is_err() && call(4, ROWS - 1).is_err());
}
