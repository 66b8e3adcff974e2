//! FlashAttention, where it was built in, and what of it can be trusted.

use crate::attention::AttentionShape;
use crate::attention::choice::Flash;
use candle_core::{CudaDevice, Result, Tensor};

/// What this process has of FlashAttention, tried out once on the first device.
#[cfg(not(feature = "flash-attn"))]
pub(super) fn present(_: &CudaDevice) -> Flash {
    Flash::Absent
}

/// Never called: without the feature there is nothing to choose.
#[cfg(not(feature = "flash-attn"))]
pub(super) fn attention(_: AttentionShape, _: Option<usize>, _: &Tensor, _: &Tensor, _: &Tensor) -> Result<Tensor> {
    candle_core::bail!("this build has no FlashAttention: build it with the feature flash-attn")
}

/// What this process has of FlashAttention, tried out once on the first device.
///
/// A build may leave out windows to save compilation, and then silently computes attention without them, and without
/// causality: nothing but the result tells.
#[cfg(feature = "flash-attn")]
pub(super) fn present(device: &CudaDevice) -> Flash {
    static PRESENT: std::sync::OnceLock<Flash> = std::sync::OnceLock::new();
    *PRESENT.get_or_init(|| match (is_right(device, None), is_right(device, Some(2))) {
        (Ok(true), Ok(true)) => Flash::Whole,
        (Ok(true), _) => {
            tracing::info!("FlashAttention was built without windows: layers that have one run without it");
            Flash::WithoutWindows
        }
        (result, _) => {
            tracing::warn!(?result, "FlashAttention does not work on this device: it is not used");
            Flash::Absent
        }
    })
}

/// Attention by FlashAttention; `q` may be a view of wider rows.
#[cfg(feature = "flash-attn")]
pub(super) fn attention(
    shape: AttentionShape,
    left: Option<usize>,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
) -> Result<Tensor> {
    let chunk = q.dim(0)?;
    // It takes (batch, tokens, heads, head_dim) with any strides but the last, so nothing is copied.
    let by_token = |x: &Tensor| x.transpose(0, 1)?.unsqueeze(0);
    let q = q.reshape((1, chunk, shape.heads, shape.head_dim))?;
    let scale = shape.scale() as f32;
    let out = candle_flash_attn::flash_attn_windowed(&q, &by_token(k)?, &by_token(v)?, scale, left, Some(0))?;
    out.reshape((chunk, shape.query_width()))
}

/// Whether two queries at the end of four keys see what they must. All scores are equal, so the result is the mean of the
/// values that are seen.
#[cfg(feature = "flash-attn")]
fn is_right(device: &CudaDevice, window: Option<usize>) -> Result<bool> {
    use candle_core::{DType, Device};
    let device = Device::Cuda(device.clone());
    let shape = AttentionShape { heads: 1, kv_heads: 1, head_dim: 64, window };
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::BF16, &device);
    let values: Vec<f32> = (0..4 * 64).map(|i| [1.0, 2.0, 4.0, 8.0][i / 64]).collect();
    let v = Tensor::from_vec(values, (1, 4, 64), &device)?.to_dtype(DType::BF16)?;
    let left = window.map(|window| window - 1);
    let out = attention(shape, left, &zeros(&[2, 64])?, &zeros(&[1, 4, 64])?, &v)?;
    let out = out.to_dtype(DType::F32)?.to_vec2::<f32>()?;
    let want = if window.is_some() { [3.0, 6.0] } else { [7.0 / 3.0, 15.0 / 4.0] };
    Ok(out.iter().zip(want).all(|(row, want)| row.iter().all(|x| (x - want).abs() < 0.02)))
}
