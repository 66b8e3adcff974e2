use super::*;
use crate::attention::{reference, tensor};
use candle_core::Device;
use half::bf16;
use proptest::prelude::*;

/// Numbers between -1.5 and 1.5 without a pattern.
pub(super) fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next() * 1.5).collect()
}

fn on(arch: Arch, shape: &AttentionShape, chunk: usize, q: &[f32], k: &[f32], v: &[f32]) -> Vec<f32> {
    with(arch, shape, chunk, q, [k, v], Kept::F32)
}

fn with<'a, T: Number>(
    arch: Arch,
    shape: &AttentionShape,
    chunk: usize,
    q: &[f32],
    kv: [&'a [T]; 2],
    kept: impl Fn(Head<'a, T>) -> Kept<'a> + Sync,
) -> Vec<f32> {
    let mut out = q.to_vec();
    let (heads, dim, count) = (shape.kv_heads, shape.head_dim, kv[0].len() / shape.kv_heads / shape.head_dim);
    let head = |index| kv.map(|data| kept(Head::new(Heads { data, stride: count * dim, heads, count, dim }, index)));
    run(arch, shape, out.chunks_mut(shape.query_width()), (chunk, count), head, &mut []);
    out
}

fn assert_near(got: &[f32], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() < 4e-6, "{what}: {got} for {want} at {i}");
    }
}

fn check(shape: AttentionShape, chunk: usize, keys: usize, seed: u64) {
    let q = numbers(chunk * shape.query_width(), seed);
    let k = numbers(keys * shape.kv_heads * shape.head_dim, seed + 1);
    let v = numbers(keys * shape.kv_heads * shape.head_dim, seed + 2);
    let want = reference::attention(&shape, chunk, &q, &k, &v);
    for arch in simd::available() {
        assert_near(&on(arch, &shape, chunk, &q, &k, &v), &want, simd::name(arch));
    }
    // Kept in bf16, they are the same numbers less their lower halves: not a bit may differ.
    let kept = [&k, &v].map(|x| x.iter().map(|x| bf16::from_f32(*x)).collect::<Vec<_>>());
    let [wide_k, wide_v] = [&kept[0], &kept[1]].map(|x| x.iter().map(|x| x.to_f32()).collect::<Vec<_>>());
    for arch in simd::available() {
        let got = with(arch, &shape, chunk, &q, [&kept[0], &kept[1]], Kept::Bf16);
        assert_eq!(got, on(arch, &shape, chunk, &q, &wide_k, &wide_v), "bf16 on {}", simd::name(arch));
    }
    let q = Tensor::from_vec(q, (chunk, shape.query_width()), &Device::Cpu).unwrap();
    let [k, v] = [k, v].map(|x| Tensor::from_vec(x, (shape.kv_heads, keys, shape.head_dim), &Device::Cpu).unwrap());
    let out = tensor::attention(shape, &q, &k, &v).unwrap();
    assert_near(&out.flatten_all().unwrap().to_vec1::<f32>().unwrap(), &want, "tensor");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_kernel_computes_the_definition(
        kv_heads in 1usize..4, group in 1usize..4, half_dim in 8usize..=128, chunk in 1usize..150,
        before in 0usize..200, window in proptest::option::of(1usize..200), seed in 1u64..1 << 40,
    ) {
        let shape = AttentionShape { heads: kv_heads * group, kv_heads, head_dim: 2 * half_dim, window };
        check(shape, chunk, before + chunk, seed);
    }
}

#[test]
fn sizes_at_the_edges_of_blocks() {
    for head_dim in [1, 2, 5, 6, 16, 64, 96, 128, 256] {
        for (chunk, keys) in [(1, 1), (1, 64), (63, 64), (64, 64), (65, 65), (64, 129), (130, 192)] {
            for window in [None, Some(1), Some(64), Some(65)] {
                check(AttentionShape { heads: 2, kv_heads: 1, head_dim, window }, chunk, keys, 7);
            }
        }
    }
}

#[test]
fn large_scores_do_not_overflow_and_broken_ones_are_seen() {
    let shape = AttentionShape { heads: 1, kv_heads: 1, head_dim: 4, window: None };
    let (q, v) = (vec![300.0; 4 * 70], numbers(4 * 70, 3));
    let mut k = vec![300.0; 4 * 70];
    for arch in simd::available() {
        let out = on(arch, &shape, 70, &q, &k, &v);
        assert!(out.iter().all(|x| x.is_finite()), "{}", simd::name(arch));
    }
    k[4 * 30] = f32::NAN;
    for arch in simd::available() {
        let out = on(arch, &shape, 70, &q, &k, &v);
        assert!(out[..4 * 30].iter().all(|x| x.is_finite()), "{}: the past", simd::name(arch));
        assert!(out[4 * 30..].iter().all(|x| x.is_nan()), "{}: the future", simd::name(arch));
    }
}

#[test]
fn queries_may_be_part_of_wider_rows() {
    let shape = AttentionShape { heads: 2, kv_heads: 1, head_dim: 8, window: Some(9) };
    let (wide, k, v) = (numbers(20 * 40, 1), numbers(8 * 33, 2), numbers(8 * 33, 3));
    let rows = Tensor::from_slice(&wide, (20, 40), &Device::Cpu).unwrap();
    let heads = |data: &[f32]| Tensor::from_slice(data, (1, 33, 8), &Device::Cpu).unwrap();
    attention(shape, &rows.narrow(1, 4, 16).unwrap(), &heads(&k), &heads(&v)).unwrap();
    let out = rows.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let queries: Vec<f32> = wide.chunks(40).flat_map(|row| &row[4..20]).copied().collect();
    let want = reference::attention(&shape, 20, &queries, &k, &v);
    for (i, (row, original)) in out.chunks(40).zip(wide.chunks(40)).enumerate() {
        assert_near(&row[4..20], &want[i * 16..][..16], "strided");
        assert_eq!((&row[..4], &row[20..]), (&original[..4], &original[20..]), "neighbours are left alone");
    }
}

#[test]
fn shapes_that_do_not_fit_are_errors() {
    let shape = AttentionShape { heads: 2, kv_heads: 1, head_dim: 8, window: None };
    let zeros = |shape: &[usize]| Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu).unwrap();
    let call = |q: [usize; 2], k: [usize; 3], v: [usize; 3]| attention(shape, &zeros(&q), &zeros(&k), &zeros(&v));
    assert!(call([3, 16], [1, 5, 8], [1, 5, 8]).is_ok());
    assert!(call([3, 15], [1, 5, 8], [1, 5, 8]).is_err());
    assert!(call([3, 16], [1, 5, 8], [1, 4, 8]).is_err());
    assert!(call([3, 16], [1, 5, 9], [1, 5, 9]).is_err());
    assert!(call([3, 16], [2, 5, 8], [2, 5, 8]).is_err());
    assert!(call([6, 16], [1, 5, 8], [1, 5, 8]).is_err());
}
