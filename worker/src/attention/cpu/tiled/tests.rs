use super::*;
use crate::attention::cpu::tests::numbers;
use crate::attention::reference;
use crate::tiles::tests::units;
use candle_core::Device;
use proptest::prelude::*;

/// Keys or values, `(heads, keys, dim)`, as the rows in which they arrive.
fn rows_of(x: &[f32], heads: usize, dim: usize) -> Tensor {
    let keys = x.len() / heads / dim;
    let x = Tensor::from_slice(x, (heads, keys, dim), &Device::Cpu).unwrap();
    x.transpose(0, 1).unwrap().contiguous().unwrap().reshape((keys, heads * dim)).unwrap()
}

/// Keys and values arrive in two pieces, and the queries in a part of wider rows.
fn computed(unit: Unit, shape: &AttentionShape, chunk: usize, parts: usize, [q, k, v]: [&[f32]; 3]) -> Vec<f32> {
    let (k, v) = (rows_of(k, shape.kv_heads, shape.head_dim), rows_of(v, shape.kv_heads, shape.head_dim));
    let (keys, half) = (k.dim(0).unwrap(), k.dim(0).unwrap() / 2);
    let mut held = TiledKeyValues::new(unit, shape.kv_heads, shape.head_dim, keys + 3, parts);
    for (position, count) in [(0, half), (half, keys - half)] {
        if count > 0 {
            let part = |x: &Tensor| x.narrow(0, position, count).unwrap();
            held.append(&part(&k), &part(&v), position).unwrap();
        }
    }
    let q = Tensor::from_slice(q, (chunk, shape.query_width()), &Device::Cpu).unwrap();
    let beside = |width| Tensor::zeros((chunk, width), candle_core::DType::F32, &Device::Cpu).unwrap();
    let wide = Tensor::cat(&[beside(4), q, beside(3)], 1).unwrap();
    let out = wide.narrow(1, 4, shape.query_width()).unwrap();
    held.attend(shape, &out, keys).unwrap();
    out.contiguous().unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn attention_is_the_definition_to_the_precision_of_its_parts(
        kv_heads in 1usize..3, group in 1usize..4, half_dim in 4usize..=128, chunk in 1usize..90,
        before in 0usize..200, window in proptest::option::of(1usize..200), parts in 1usize..=2, seed in 1u64..1 << 40,
    ) {
        let (head_dim, keys) = (2 * half_dim, before + chunk);
        let shape = AttentionShape { heads: kv_heads * group, kv_heads, head_dim, window };
        let q = numbers(chunk * shape.query_width(), seed);
        let [k, v] = [1, 2].map(|i| numbers(keys * kv_heads * head_dim, seed + i));
        let want = reference::attention(&shape, chunk, &q, &k, &v);
        // Scores reach 10 or so, of which rounding to bf16 moves 2^-8 at most, and twice that in the weights.
        let tolerance = if parts == 1 { 3e-2 } else { 2e-4 };
        for unit in units() {
            let got = computed(unit, &shape, chunk, parts, [&q, &k, &v]);
            for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                prop_assert!((got - want).abs() < tolerance, "{}: {got} for {want} at {i}, {parts} parts", unit.name());
            }
        }
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let shape = AttentionShape { heads: 4, kv_heads: 2, head_dim: 32, window: None };
    let (q, k, v) = (numbers(150 * 128, 1), numbers(400 * 64, 2), numbers(400 * 64, 3));
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| computed(Unit::Emulated, &shape, 150, 1, [&q, &k, &v]))
    };
    assert_eq!(on(1), on(3));
    assert_eq!(on(1), on(8));
}

#[test]
fn what_is_not_a_number_stays_so_and_disturbs_no_other_query() {
    let shape = AttentionShape { heads: 1, kv_heads: 1, head_dim: 16, window: None };
    let (q, mut k, v) = (numbers(40 * 16, 1), numbers(40 * 16, 2), numbers(40 * 16, 3));
    k[30 * 16] = f32::NAN;
    let out = computed(Unit::Emulated, &shape, 40, 1, [&q, &k, &v]);
    assert!(out[..30 * 16].iter().all(|number| number.is_finite()));
    assert!(out[30 * 16..].iter().all(|number| number.is_nan()));
}

#[test]
fn shapes_that_do_not_fit_are_errors() {
    let mut held = TiledKeyValues::new(Unit::Emulated, 2, 8, 10, 1);
    let rows = |count, width| Tensor::zeros((count, width), candle_core::DType::F32, &Device::Cpu).unwrap();
    assert!(held.append(&rows(4, 16), &rows(4, 16), 7).is_err(), "past the end");
    assert!(held.append(&rows(4, 16), &rows(4, 8), 0).is_err(), "another width");
    let shape = AttentionShape { heads: 2, kv_heads: 2, head_dim: 8, window: None };
    assert!(held.attend(&shape, &rows(4, 16), 11).is_err(), "more keys than there is room for");
    assert!(held.attend(&shape, &rows(4, 24), 10).is_err(), "another width of queries");
    assert!(held.attend(&shape, &rows(9, 16), 8).is_err(), "more queries than keys");
}
