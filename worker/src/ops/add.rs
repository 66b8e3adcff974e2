//! Adding in place, on the threads of the current pool.

use super::rows_per_task;
use super::view::{rows, rows_mut};
use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor, bail};
use rayon::prelude::*;

/// `sum += x` for views of f32 on the CPU of `(rows, width)`.
///
/// Candle's addition would allocate the sum, and hand it to threads of candle's own.
pub(crate) fn add(sum: &Tensor, x: &Tensor) -> Result<()> {
    sum.inplace_op2(x, &Add)
}

struct Add;

impl InplaceOp2 for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn cpu_fwd(&self, sum: &mut CpuStorage, sum_layout: &Layout, x: &CpuStorage, x_layout: &Layout) -> Result<()> {
        let (sum, x) = (rows_mut(sum, sum_layout)?, rows(x, x_layout)?);
        if (sum.count, sum.width) != (x.count, x.width) {
            bail!("{} rows of {} to be added to {} of {}", x.count, x.width, sum.count, sum.width);
        }
        let (width, to, from, task) = (sum.width, sum.stride, x.stride, rows_per_task(sum.width));
        let tasks = sum.data.par_chunks_mut(to * task).zip(x.data.par_chunks(from * task));
        tasks.for_each(|(sum, x)| {
            for (sum, x) in sum.chunks_mut(to).zip(x.chunks(from)) {
                sum[..width].iter_mut().zip(x).for_each(|(sum, x)| *sum += x);
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use proptest::prelude::*;

    #[test]
    fn only_the_given_columns_are_added_to() {
        let tensor = |from: f32| -> Tensor {
            let data = (0..30 * 7).map(|i| from + i as f32).collect();
            Tensor::from_vec::<_, f32>(data, (30, 7), &Device::Cpu).unwrap()
        };
        let (sum, x) = (tensor(0.0), tensor(1000.0));
        add(&sum.narrow(1, 2, 4).unwrap(), &x.narrow(1, 1, 4).unwrap()).unwrap();
        for (row, sum) in sum.to_vec2::<f32>().unwrap().iter().enumerate() {
            for (column, sum) in sum.iter().enumerate() {
                let old = (row * 7 + column) as f32;
                assert_eq!(*sum, if (2..6).contains(&column) { old + 999.0 + old } else { old });
            }
        }
        assert!(add(&sum, &x.narrow(0, 0, 29).unwrap()).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn rows_of_any_width_are_added(rows in 1usize..60, width in 1usize..400, before in 0usize..5, after in 0usize..5) {
            let whole = before + width + after;
            let tensor = |factor: f32| -> Tensor {
                let data = (0..rows * whole).map(|i| i as f32 * factor).collect();
                Tensor::from_vec::<_, f32>(data, (rows, whole), &Device::Cpu).unwrap()
            };
            let (sum, x) = (tensor(0.5), tensor(2.0));
            add(&sum.narrow(1, before, width).unwrap(), &x.narrow(1, after, width).unwrap()).unwrap();
            for (i, sum) in sum.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().enumerate() {
                let inside = (before..before + width).contains(&(i % whole));
                let added = if inside { (i + after - before) as f32 * 2.0 } else { 0.0 };
                prop_assert_eq!(sum, i as f32 * 0.5 + added);
            }
        }
    }
}
