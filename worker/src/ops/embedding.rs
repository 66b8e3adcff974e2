//! The gradient of an embedding: that of every token's row is added to the row of its id.

use super::view::{rows, rows_mut};
use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor, bail};

/// Adds the rows of `grad`, `(tokens, hidden)`, to those of `out`, `(vocab, hidden)`, that `ids` name; both are f32 on
/// the CPU. Rows are added in the order of the tokens.
pub(crate) fn embedding_backward(grad: &Tensor, ids: &[u32], out: &Tensor) -> Result<()> {
    out.inplace_op2(grad, &EmbeddingBackward { ids })
}

struct EmbeddingBackward<'a> {
    ids: &'a [u32],
}

impl InplaceOp2 for EmbeddingBackward<'_> {
    fn name(&self) -> &'static str {
        "embedding-backward"
    }

    fn cpu_fwd(&self, out: &mut CpuStorage, out_layout: &Layout, grad: &CpuStorage, layout: &Layout) -> Result<()> {
        let (out, grad) = (rows_mut(out, out_layout)?, rows(grad, layout)?);
        let known = self.ids.iter().all(|&id| (id as usize) < out.count);
        if (grad.count, grad.width) != (self.ids.len(), out.width) || !known {
            bail!("{} rows of {} for {} ids of an embedding", grad.count, grad.width, self.ids.len());
        }
        for (id, grad) in self.ids.iter().zip(grad.data.chunks(grad.stride)) {
            let sum = &mut out.data[*id as usize * out.stride..][..out.width];
            sum.iter_mut().zip(grad).for_each(|(sum, grad)| *sum += grad);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn rows_are_added_where_their_ids_stand() {
        let tensor = |data: &[f32], width| Tensor::from_slice(data, (data.len() / width, width), &Device::Cpu).unwrap();
        let out = tensor(&[1.0; 8], 2);
        embedding_backward(&tensor(&[1.0, 2.0, 10.0, 20.0, 100.0, 200.0], 2), &[3, 0, 3], &out).unwrap();
        let want = vec![vec![11.0, 21.0], vec![1.0; 2], vec![1.0; 2], vec![102.0, 203.0]];
        assert_eq!(out.to_vec2::<f32>().unwrap(), want);
        assert!(embedding_backward(&tensor(&[1.0, 2.0], 2), &[4], &out).is_err());
        assert!(embedding_backward(&tensor(&[1.0, 2.0], 2), &[0, 0], &out).is_err());
    }
}
