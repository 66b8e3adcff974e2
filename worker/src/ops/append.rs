//! Adding a chunk of keys or values to those of its layer.

use super::Kernels;
use super::bf16::narrow;
use super::view::{HeadsMut, Rows, heads_mut, rows};
use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor, bail};

/// Copies the rows `x`, `(tokens, kv_heads * head_dim)`, into `cache`, `(kv_heads, capacity, head_dim)`, from token
/// `position` on. A head's rows thus lie next to each other, which is how attention reads them. On the CPU `x` is f32,
/// and rounded where the cache is bf16.
pub(crate) fn append(kernels: Kernels, cache: &Tensor, x: &Tensor, position: usize) -> Result<()> {
    match kernels {
        Kernels::Cpu => cache.inplace_op2(x, &Append { position }),
        #[cfg(feature = "cuda")]
        Kernels::Cuda => crate::cuda::rows::append(cache, x, position),
        Kernels::Tensor => {
            let (heads, _, dim) = cache.dims3()?;
            let x = x.contiguous()?.reshape((x.dim(0)?, heads, dim))?.transpose(0, 1)?.contiguous()?;
            cache.slice_set(&x, 1, position)
        }
    }
}

struct Append {
    position: usize,
}

impl InplaceOp2 for Append {
    fn name(&self) -> &'static str {
        "append"
    }

    fn cpu_fwd(&self, cache: &mut CpuStorage, cache_layout: &Layout, x: &CpuStorage, x_layout: &Layout) -> Result<()> {
        let x = rows(x, x_layout)?;
        match cache {
            CpuStorage::BF16(_) => self.copy(heads_mut(cache, cache_layout)?, x, narrow),
            _ => self.copy(heads_mut(cache, cache_layout)?, x, |from, to: &mut [f32]| to.copy_from_slice(from)),
        }
    }
}

impl Append {
    fn copy<T>(&self, cache: HeadsMut<'_, T>, x: Rows<'_>, copy: impl Fn(&[f32], &mut [T])) -> Result<()> {
        if x.width != cache.heads * cache.dim || self.position + x.count > cache.count {
            let place = (self.position, cache.count);
            bail!("{} rows of {} do not fit {} heads of {} at {place:?}", x.count, x.width, cache.heads, cache.dim);
        }
        let dim = cache.dim;
        for (head, data) in cache.data.chunks_mut(cache.stride).enumerate() {
            let to = data[self.position * dim..].chunks_exact_mut(dim);
            for (to, from) in to.zip(x.data.chunks(x.stride)) {
                copy(&from[head * dim..][..dim], to);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn both_implementations_put_heads_apart() {
        let numbers: Vec<f32> = (0..5 * 20).map(|i| i as f32).collect();
        let wide = Tensor::from_vec(numbers, (5, 20), &Device::Cpu).unwrap();
        let x = wide.narrow(1, 3, 8).unwrap();
        let made = [Kernels::Cpu, Kernels::Tensor].map(|kernels| {
            let cache = Tensor::zeros((2, 9, 4), DType::F32, &Device::Cpu).unwrap();
            append(kernels, &cache, &x, 4).unwrap();
            assert!(append(kernels, &cache, &x, 5).is_err());
            cache.to_vec3::<f32>().unwrap()
        });
        assert_eq!(made[0], made[1]);
        assert_eq!(made[0][0][3], [0.0; 4]);
        assert_eq!(made[0][1][4], [7.0, 8.0, 9.0, 10.0]);
        assert_eq!(made[0][0][8], [83.0, 84.0, 85.0, 86.0]);

        let cache = Tensor::zeros((2, 9, 4), DType::BF16, &Device::Cpu).unwrap();
        append(Kernels::Cpu, &cache, &(&x * 1.003).unwrap(), 4).unwrap();
        let kept = cache.to_dtype(DType::F32).unwrap().to_vec3::<f32>().unwrap();
        let rounded = |number: f32| half::bf16::from_f32(number * 1.003).to_f32();
        assert_eq!(kept[0][8], [83.0, 84.0, 85.0, 86.0].map(rounded));
    }
}
