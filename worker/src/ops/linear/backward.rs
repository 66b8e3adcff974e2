//! The gradient of a projection with respect to its input: `dx = dy W`.
//!
//! The bias has no part in it. What a projection that is trained needs besides is in [`super::weights`].

use super::{Linear, Product, Side};
use candle_core::{Result, Tensor};

impl Linear {
    /// Writes `grad W` to `out`, views of f32 on the CPU of `(rows, outputs)` and `(rows, inputs)`.
    pub fn backward(&self, grad: &Tensor, out: &Tensor) -> Result<()> {
        product_backward(grad, &self.weight, out)
    }
}

/// Writes `grad W` to `out` for weights that are not a whole projection.
pub(crate) fn product_backward(grad: &Tensor, weight: &Tensor, out: &Tensor) -> Result<()> {
    out.inplace_op3(grad, weight, &Product { accumulate: false, side: Side::Inputs })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn the_gradient_is_the_product_with_the_weights() {
        for (rows, outputs, inputs) in [(1, 1, 1), (3, 17, 5), (70, 96, 33), (130, 64, 256)] {
            let tensor = |count: usize, width: usize, seed: usize| {
                let data = (0..count * width).map(|i| (((i + seed) * 7919 % 1013) as f32 - 506.0) / 500.0).collect();
                Tensor::from_vec::<_, f32>(data, (count, width), &Device::Cpu).unwrap()
            };
            let (weight, wide) = (tensor(outputs, inputs, 1), tensor(rows, outputs + 3, 2));
            let grad = wide.narrow(1, 2, outputs).unwrap();
            let out = Tensor::full(f32::NAN, (rows, inputs + 1), &Device::Cpu).unwrap();
            let view = out.narrow(1, 0, inputs).unwrap();
            Linear::new(weight.clone(), None).backward(&grad, &view).unwrap();
            let double = |x: &Tensor| x.to_dtype(DType::F64).unwrap().contiguous().unwrap();
            let want = double(&grad).matmul(&double(&weight)).unwrap();
            let error = (double(&view) - want).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
            assert!(error < 1e-4, "{rows}x{outputs}x{inputs}: off by {error}");
            assert!(out.to_vec2::<f32>().unwrap().iter().all(|row| row[inputs].is_nan()), "neighbours are left alone");
        }
        let zeros = |count: usize, width: usize| Tensor::zeros((count, width), DType::F32, &Device::Cpu).unwrap();
        let projection = Linear::new(zeros(4, 6), None);
        assert!(projection.backward(&zeros(2, 4), &zeros(2, 6)).is_ok());
        assert!(projection.backward(&zeros(2, 6), &zeros(2, 4)).is_err());
        assert!(projection.backward(&zeros(2, 4), &zeros(3, 6)).is_err());
    }
}
