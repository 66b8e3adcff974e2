use super::*;
use crate::attention::cpu::attention_with_log_sums;
use crate::attention::cpu::tests::numbers;
use candle_core::Device;
use proptest::prelude::*;

/// A call and its gradients by the definition, in f64.
struct Case {
    shape: AttentionShape,
    chunk: usize,
    keys: usize,
    /// Queries, keys, values, gradient of the result.
    input: [Vec<f32>; 4],
    log_sums: Vec<f32>,
    dots: Vec<f32>,
    /// Gradients of queries, keys and values; keys and values as rows `(keys, kv_heads * head_dim)`.
    want: [Vec<f64>; 3],
}

impl Case {
    fn new(shape: AttentionShape, chunk: usize, keys: usize, seed: u64) -> Self {
        let (queries, rows) = (chunk * shape.query_width(), keys * shape.kv_heads * shape.head_dim);
        let input =
            [numbers(queries, seed), numbers(rows, seed + 1), numbers(rows, seed + 2), numbers(queries, seed + 3)];
        let mut case = Self {
            shape,
            chunk,
            keys,
            input,
            log_sums: vec![0.0; shape.heads * chunk],
            dots: vec![0.0; shape.heads * chunk],
            want: [vec![0.0; queries], vec![0.0; rows], vec![0.0; rows]],
        };
        (0..shape.heads).for_each(|head| (0..chunk).for_each(|row| case.define(head, row)));
        case
    }

    fn define(&mut self, head: usize, row: usize) {
        let (d, position, scale) = (self.shape.head_dim, self.keys - self.chunk + row, self.shape.scale());
        let kv_head = head / self.shape.group();
        let [q, k, v, grad] = &self.input;
        let at = row * self.shape.query_width() + head * d;
        let (q, grad) = (&q[at..][..d], &grad[at..][..d]);
        let visible: Vec<usize> = (self.shape.first_key(position)..=position).collect();
        let key = |key: usize| (kv_head * self.keys + key) * d;
        let dot = |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
        let scores: Vec<f64> = visible.iter().map(|&j| scale * dot(q, &k[key(j)..][..d])).collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = scores.iter().map(|score| (score - max).exp()).sum();
        let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp() / total).collect();
        let weight_grads: Vec<f64> = visible.iter().map(|&j| dot(grad, &v[key(j)..][..d])).collect();
        let dot_of_row: f64 = weights.iter().zip(&weight_grads).map(|(weight, grad)| weight * grad).sum();
        self.log_sums[head * self.chunk + row] = ((max + total.ln()) / std::f64::consts::LN_2) as f32;
        self.dots[head * self.chunk + row] = dot_of_row as f32;
        for ((j, weight), weight_grad) in visible.into_iter().zip(weights).zip(weight_grads) {
            let score_grad = scale * weight * (weight_grad - dot_of_row);
            let to = (j * self.shape.kv_heads + kv_head) * d;
            for i in 0..d {
                self.want[0][at + i] += score_grad * f64::from(k[key(j) + i]);
                self.want[1][to + i] += score_grad * f64::from(q[i]);
                self.want[2][to + i] += weight * f64::from(grad[i]);
            }
        }
    }

    fn saved(&self) -> Saved<'_> {
        Saved { log_sums: &self.log_sums, dots: &self.dots }
    }

    fn on(&self, arch: Arch) -> [Vec<f32>; 3] {
        let (shape, [q, k, v, grad], cancel) = (&self.shape, &self.input, &CancelFlag::new());
        let (dim, heads, width) = (shape.head_dim, shape.kv_heads, shape.query_width());
        let view = |data| Heads { data, stride: self.keys * dim, heads, count: self.keys, dim };
        let (saved, wanted) = (self.saved(), Wanted::KeysAndValues);
        let q = Rows { data: q, stride: width, width, count: self.chunk };
        let input = Input { shape, q, k: view(k), v: view(v), saved, wanted, cancel };
        let mut grad = grad.clone();
        let keys = run(arch, &input, grad.chunks_mut(width));
        let out = Tensor::zeros((self.keys, 2 * heads * dim), candle_core::DType::F32, &Device::Cpu).unwrap();
        let part = |index| out.narrow(1, index * heads * dim, heads * dim).unwrap();
        keys.write_keys(&part(0)).unwrap();
        keys.write_values(&part(1)).unwrap();
        let flat = |part: Tensor| part.contiguous().unwrap().flatten_all().unwrap().to_vec1().unwrap();
        [grad, flat(part(0)), flat(part(1))]
    }

    /// The largest error in units of the gradient's own size (root mean square, and at least 0.1: that of a window of 1 is 0).
    fn error(&self, got: &[Vec<f32>; 3]) -> f64 {
        let pairs = got.iter().zip(&self.want).map(|(got, want)| {
            assert_eq!(got.len(), want.len());
            let size = (want.iter().map(|x| x * x).sum::<f64>() / want.len() as f64).sqrt().max(0.1);
            let worst = |worst: f64, (got, want): (&f32, &f64)| {
                let error = (f64::from(*got) - want).abs();
                if error.is_nan() { f64::INFINITY } else { worst.max(error) }
            };
            got.iter().zip(want).fold(0.0, worst) / size
        });
        pairs.fold(0.0, f64::max)
    }

    fn check(&self) {
        for arch in simd::available() {
            let error = self.error(&self.on(arch));
            let what = (self.shape, self.chunk, self.keys);
            assert!(error < 5e-5, "{}: off by {error:.1e} for {what:?}", simd::name(arch));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_kernel_computes_the_definition(
        kv_heads in 1usize..4, group in 1usize..4, half_dim in 8usize..=64, chunk in 1usize..150,
        before in 0usize..200, window in proptest::option::of(1usize..200), seed in 1u64..1 << 40,
    ) {
        let shape = AttentionShape { heads: kv_heads * group, kv_heads, head_dim: 2 * half_dim, window };
        Case::new(shape, chunk, before + chunk, seed).check();
    }
}

#[test]
fn sizes_at_the_edges_of_blocks() {
    for head_dim in [1, 2, 16, 17, 64, 96, 128] {
        for (chunk, keys) in [(1, 1), (1, 64), (64, 64), (65, 65), (64, 129)] {
            for window in [None, Some(1), Some(64), Some(65)] {
                Case::new(AttentionShape { heads: 2, kv_heads: 1, head_dim, window }, chunk, keys, 7).check();
            }
        }
    }
}

#[test]
fn units_add_up_whatever_the_number_of_threads() {
    for window in [None, Some(700)] {
        let shape = AttentionShape { heads: 2, kv_heads: 1, head_dim: 16, window };
        let case = Case::new(shape, 2500, 2600, 5);
        assert_eq!(splits(&shape, 2500), 3);
        case.check();
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| case.on(simd::best()))
        };
        let bits = |got: [Vec<f32>; 3]| got.map(|x| x.into_iter().map(f32::to_bits).collect::<Vec<_>>());
        let one = bits(on(1));
        assert!([2, 3].into_iter().all(|threads| bits(on(threads)) == one));
    }
}

#[test]
fn the_forward_pass_leaves_behind_what_is_needed() {
    let shape = AttentionShape { heads: 4, kv_heads: 2, head_dim: 24, window: Some(90) };
    let case = Case::new(shape, 100, 170, 11);
    let [q, k, v, grad] = &case.input;
    let tensor = |data: &[f32], shape: &[usize]| Tensor::from_slice(data, shape, &Device::Cpu).unwrap();
    let heads = |data| tensor(data, &[2, 170, 24]);
    let (q, grad) = (tensor(q, &[100, 96]), tensor(grad, &[100, 96]));
    let out = q.force_contiguous().unwrap();
    let log_sums = attention_with_log_sums(shape, &out, &heads(k), &heads(v)).unwrap();
    let mut dots = vec![0.0; log_sums.len()];
    dot_heads(&shape, &out, &grad, &mut dots, 0).unwrap();
    let near = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5);
    assert!(near(&log_sums, &case.log_sums) && near(&dots, &case.dots));

    let saved = Saved { log_sums: &log_sums, dots: &dots };
    let run = |wanted, grad: &Tensor| {
        attention_backward(shape, [&q, &heads(k), &heads(v)], saved, grad, wanted, &CancelFlag::new())
    };
    let rows = || Tensor::zeros((170, 48), candle_core::DType::F32, &Device::Cpu).unwrap();
    let other = grad.force_contiguous().unwrap();
    let both = run(Wanted::KeysAndValues, &grad).unwrap();
    let (keys, values) = (rows(), rows());
    both.write_keys(&keys).unwrap();
    both.write_values(&values).unwrap();
    let got = [&grad, &keys, &values].map(|x| x.flatten_all().unwrap().to_vec1().unwrap());
    assert!(case.error(&got) < 5e-5);

    let only = run(Wanted::KeysOnly, &other).unwrap();
    let keys = rows();
    only.write_keys(&keys).unwrap();
    assert_eq!(keys.flatten_all().unwrap().to_vec1::<f32>().unwrap(), got[1]);
    assert!(only.write_values(&values).is_err(), "values were not wanted");
    assert!(run(Wanted::KeysOnly, &grad.narrow(0, 0, 99).unwrap()).is_err(), "a row is missing");
}
