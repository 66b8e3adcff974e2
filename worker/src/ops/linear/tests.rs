use super::*;
use crate::tiles::tests::units;
use candle_core::{DType, Device};
use proptest::prelude::*;

fn matrix(rows: usize, width: usize, seed: usize) -> Tensor {
    let numbers: Vec<f32> = (0..rows * width).map(|i| (((i + seed) * 7919 % 1013) as f32 - 506.0) / 506.0).collect();
    Tensor::from_vec(numbers, (rows, width), &Device::Cpu).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn pool(threads: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
}

/// Candle's operations and the library's product against the definition.
fn check(rows: usize, inputs: usize, outputs: usize, bias: bool) {
    let (x, weight) = (matrix(rows, inputs, 1), matrix(outputs, inputs, 2));
    let bias = bias.then(|| matrix(1, outputs, 3).squeeze(0).unwrap());
    let linear = Linear::new(weight.clone(), bias.clone());
    let out = Tensor::zeros((rows, outputs), DType::F32, &Device::Cpu).unwrap();
    let cpu = values(&linear.forward(Kernels::Cpu, &x, Some(out)).unwrap());
    let sum = matrix(rows, outputs, 4);
    let want_sum = values(&linear.add_to(Kernels::Tensor, sum.clone(), &x).unwrap());
    let cpu_sum = values(&linear.add_to(Kernels::Cpu, sum, &x).unwrap());
    let candle = values(&linear.forward(Kernels::Tensor, &x, None).unwrap());
    let (x, weight) = (values(&x), values(&weight));
    let bias = bias.map_or(vec![0.0; outputs], |bias| values(&bias));
    for r in 0..rows {
        for o in 0..outputs {
            let terms = x[r * inputs..][..inputs].iter().zip(&weight[o * inputs..][..inputs]);
            let want = terms.map(|(x, w)| f64::from(*x) * f64::from(*w)).sum::<f64>() + f64::from(bias[o]);
            let at = r * outputs + o;
            let near = |got: f32| (f64::from(got) - want).abs() < 1e-6 * (inputs as f64);
            assert!(near(cpu[at]) && near(candle[at]), "{} and {} for {want}", cpu[at], candle[at]);
            assert!((cpu_sum[at] - want_sum[at]).abs() < 1e-6 * inputs as f32);
        }
    }
}

#[test]
fn both_implementations_are_the_definition() {
    for (rows, inputs, outputs, bias) in [(1, 1, 1, false), (3, 17, 5, true), (65, 43, 36, true), (130, 256, 70, false)]
    {
        check(rows, inputs, outputs, bias);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn matrices_of_any_shape_are_multiplied(
        rows in 1usize..90, inputs in 1usize..300, outputs in 1usize..130, bias: bool,
    ) {
        check(rows, inputs, outputs, bias);
    }

    #[test]
    fn so_they_are_by_a_matrix_unit(
        rows in 1usize..90, inputs in 1usize..150, outputs in 1usize..130, from in 0usize..130, parts in 1usize..=2, add: bool,
    ) {
        let (x, weight) = (matrix(rows, inputs, 1), matrix(outputs, inputs, 2));
        let (first, linear) = (from % outputs, Linear::new(weight, None));
        let count = outputs - first;
        let result = |linear: &Linear| {
            let (linear, sum) = (linear.outputs(first, count).unwrap(), matrix(rows, count, 4));
            let out = Tensor::zeros((rows, count), DType::F32, &Device::Cpu).unwrap();
            if add { linear.add_to(Kernels::Cpu, sum, &x) } else { linear.forward(Kernels::Cpu, &x, Some(out)) }
        };
        let want = values(&result(&linear).unwrap());
        // Rounding to bf16 moves a factor by 2^-8 of itself at most, and a split one by 2^-16.
        let tolerance = inputs as f32 * if parts == 1 { 2f32.powi(-8) } else { 2f32.powi(-15) };
        for unit in units() {
            let got = values(&result(&linear.tiled(unit, parts).unwrap()).unwrap());
            for (got, want) in got.iter().zip(&want) {
                prop_assert!((got - want).abs() < tolerance, "{}: {got} for {want}", unit.name());
            }
        }
    }
}

#[test]
fn weights_kept_in_bf16_are_the_same_numbers() {
    // The last two are more than one panel, and a row that is more than one.
    for (rows, inputs, outputs) in [(1, 1, 1), (3, 17, 5), (130, 256, 70), (5, 3000, 1200), (1, (1 << 20) + 3, 2)] {
        let (x, weight) = (matrix(rows, inputs, 1), matrix(outputs, inputs, 2).to_dtype(DType::BF16).unwrap());
        let widened = weight.to_dtype(DType::F32).unwrap();
        for bias in [None, Some(matrix(1, outputs, 3).squeeze(0).unwrap())] {
            let [got, want] = [&weight, &widened].map(|weight| {
                let linear = Linear::new(weight.clone(), bias.clone());
                let wide = Tensor::zeros((rows, outputs + 3), DType::F32, &Device::Cpu).unwrap();
                let out = wide.narrow(1, 2, outputs).unwrap();
                let product = values(&linear.forward(Kernels::Cpu, &x, Some(out)).unwrap());
                assert_eq!(values(&wide.narrow(1, 0, 2).unwrap()), vec![0.0; 2 * rows]);
                product
            });
            for (got, want) in got.iter().zip(&want) {
                assert!((got - want).abs() < 1e-6 * inputs as f32, "{got} for {want}");
            }
        }
    }
}

#[test]
fn a_matrix_unit_multiplies_any_of_the_outputs() {
    // The last has more inputs than are multiplied at a time.
    for (rows, inputs, outputs) in [(1, 1, 1), (3, 17, 5), (150, 70, 133), (35, 4100, 50)] {
        let (x, weight) = (matrix(rows, inputs, 1), matrix(outputs, inputs, 2));
        let linear = Linear::new(weight, Some(matrix(1, outputs, 3).squeeze(0).unwrap()));
        let tiled = linear.tiled(Unit::Emulated, 2).unwrap();
        for (first, count) in [(0, outputs), (outputs / 3, outputs - outputs / 3), (outputs - 1, 1)] {
            let [got, want] = [&tiled, &linear].map(|linear| {
                let (linear, sum) = (linear.outputs(first, count).unwrap(), matrix(rows, count, 4));
                let out = Tensor::zeros((rows, count), DType::F32, &Device::Cpu).unwrap();
                let product = values(&linear.forward(Kernels::Cpu, &x, Some(out)).unwrap());
                [product, values(&linear.add_to(Kernels::Cpu, sum, &x).unwrap())].concat()
            });
            for (got, want) in got.iter().zip(&want) {
                assert!((got - want).abs() < 2e-5 * inputs as f32, "{got} for {want}, outputs {first} and {count}");
            }
        }
        let on = |threads: usize| {
            let out = Tensor::zeros((rows, outputs), DType::F32, &Device::Cpu).unwrap();
            pool(threads).install(|| values(&tiled.forward(Kernels::Cpu, &x, Some(out)).unwrap()))
        };
        assert!(on(1) == on(3) && on(1) == on(8), "threads");
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    // Large enough for the library to use all threads.
    let (x, weight) = (matrix(300, 704, 1), matrix(513, 704, 2));
    for weight in [&weight, &weight.to_dtype(DType::BF16).unwrap()] {
        let on = |threads| {
            let out = Tensor::zeros((300, 513), DType::F32, &Device::Cpu).unwrap();
            let linear = Linear::new(weight.clone(), None);
            pool(threads).install(|| values(&linear.forward(Kernels::Cpu, &x, Some(out)).unwrap()))
        };
        let one = on(1);
        for threads in [2, 3, 8] {
            assert_eq!(one, on(threads), "{threads} threads");
        }
    }
}

#[test]
fn shapes_that_do_not_fit_are_errors() {
    let linear = Linear::new(matrix(5, 17, 1), None);
    for (out, x) in [((3, 5), (3, 16)), ((3, 4), (3, 17)), ((2, 5), (3, 17))] {
        assert!(linear.forward(Kernels::Cpu, &matrix(x.0, x.1, 0), Some(matrix(out.0, out.1, 0))).is_err());
    }
}
