//! Streaming attention: products by cuBLAS, the softmax between them by a kernel.
//!
//! Keys are visited in blocks. Scores, maxima and sums are f32 whatever the type of the operands; weights are rounded to it
//! for the second product. What a query does not see is left out in the kernel, so no mask exists.

use super::launch::{Format, Kernel, Operand, a_block_per_row, by_format, int};
use super::on_device::of_three;
use crate::attention::{AttentionShape, gpu_block};
use crate::ops::view::{contiguous_range, heads_extent};
use candle_core::backend::BackendStorage as _;
use candle_core::cuda_backend::WrapErr as _;
use candle_core::cuda_backend::cudarc::cublas::{result, sys};
use candle_core::cuda_backend::cudarc::driver::{
    CudaSlice, CudaView, DevicePtr as _, DevicePtrMut as _, PushKernelArg as _,
};
use candle_core::{CudaDevice, CudaStorage, Result, Shape, Tensor, bail};
use std::f64::consts::LOG2_E;

/// Attention of `q` over `k` and `v`, laid out as [`AttentionShape`] says.
pub(crate) fn attention(shape: AttentionShape, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    let (chunk, heads) = (q.dim(0)?, shape.heads);
    // The queries of a key head next to each other: they are the rows of one product.
    let by_head = Tensor::zeros((heads, chunk, shape.head_dim), q.dtype(), q.device())?;
    super::rows::append(&by_head, q, 0)?;
    let attention = Attention { shape };
    let run = |q: Operand<'_>, k: Operand<'_>, v: Operand<'_>| by_format!(q.0.dtype(), attention.run(q, k, v));
    by_head.apply_op3_no_bwd(k, v, &of_three("streaming-attention", run))
}

struct Attention {
    shape: AttentionShape,
}

/// Rows of key heads on the device, `stride` numbers from head to head.
struct Heads<'a, T> {
    data: CudaView<'a, T>,
    stride: usize,
}

impl Attention {
    fn run<T: Format>(
        &self,
        (q, ql): Operand<'_>,
        (k, kl): Operand<'_>,
        (v, vl): Operand<'_>,
    ) -> Result<(CudaStorage, Shape)> {
        let (device, shape) = (q.device(), &self.shape);
        let (heads, chunk, d) = ql.shape().dims3()?;
        let (k_range, k_stride, [kv_heads, keys, k_dim]) = heads_extent(kl)?;
        let (v_range, v_stride, v_sizes) = heads_extent(vl)?;
        let fits = [kv_heads, keys, k_dim] == v_sizes && (kv_heads, k_dim) == (shape.kv_heads, shape.head_dim);
        if !fits || (heads, d) != (shape.heads, shape.head_dim) || chunk > keys {
            bail!("{heads} heads of {chunk} queries, keys {:?}, values {v_sizes:?} for {shape:?}", kl.dims());
        }
        let q = q.as_cuda_slice::<T>()?.slice(contiguous_range(ql)?);
        let k = Heads { data: k.as_cuda_slice::<T>()?.slice(k_range), stride: k_stride };
        let v = Heads { data: v.as_cuda_slice::<T>()?.slice(v_range), stride: v_stride };

        let rows = heads * chunk;
        let block = gpu_block(rows, keys);
        // SAFETY: the first product writes all scores of a block, and the kernel everything else.
        let (mut scores, mut weights) =
            unsafe { (device.alloc::<f32>(rows * block)?, device.alloc::<T>(rows * block)?) };
        // SAFETY: the kernel writes these for the first block.
        let (mut maxima, mut totals) = unsafe { (device.alloc::<f32>(rows)?, device.alloc::<f32>(rows)?) };
        // SAFETY: as above.
        let mut sums = unsafe { device.alloc::<f32>(rows * d)? };
        let softmax = Kernel::load(device, &format!("softmax_block_{}", T::NAME))?;
        let (scale, first) = ((shape.scale() * LOG2_E) as f32, (keys - chunk) as i64);
        let (window, chunk_int, d_int) = (shape.window.unwrap_or(keys) as i64, int(chunk)?, int(d)?);

        let begin = shape.first_key(keys - chunk);
        for key in (begin..keys).step_by(block) {
            let count = block.min(keys - key);
            let products = Products { device, batch: kv_heads, rows: shape.group() * chunk, count, d };
            products.scores(&q, &k, key, &mut scores)?;
            let (count, key_int, fresh) = (int(count)?, key as i64, i32::from(key == begin));
            let mut launch = softmax.builder();
            launch.arg(&scores).arg(&mut weights).arg(&mut maxima).arg(&mut totals).arg(&mut sums).arg(&scale);
            launch.arg(&chunk_int).arg(&count).arg(&d_int).arg(&key_int).arg(&first).arg(&window).arg(&fresh);
            // SAFETY: the arguments are those of the kernel; a block takes one of `rows` rows, of `count <= block`
            // scores and weights and of `d` sums, for which the buffers have room.
            unsafe { launch.launch(a_block_per_row(rows, block)?) }.w()?;
            products.add_values(&weights, &v, key, &mut sums)?;
        }

        // SAFETY: the kernel writes every number of the result.
        let mut out = unsafe { device.alloc::<T>(rows * d)? };
        let (finish, heads) = (Kernel::load(device, &format!("softmax_finish_{}", T::NAME))?, int(heads)?);
        let mut launch = finish.builder();
        launch.arg(&sums).arg(&totals).arg(&mut out).arg(&heads).arg(&chunk_int).arg(&d_int);
        // SAFETY: the arguments are those of the kernel; a block reads a row's sums and writes its part of `out`, which
        // has as many numbers.
        unsafe { launch.launch(a_block_per_row(rows, d)?) }.w()?;
        Ok((CudaStorage::wrap_cuda_slice(out, device.clone()), Shape::from((chunk, shape.query_width()))))
    }
}

/// The two products of a block of `count` keys, for each key head and the `rows` queries that share it.
struct Products<'a> {
    device: &'a CudaDevice,
    batch: usize,
    rows: usize,
    count: usize,
    d: usize,
}

/// One product of column-major matrices per key head: `c (m x n) = op(a) b + beta c`, as cuBLAS has it.
struct Gemm<T> {
    transpose_a: bool,
    sizes: [usize; 3],
    strides: [usize; 3],
    beta: f32,
    format: std::marker::PhantomData<T>,
}

impl Products<'_> {
    /// `scores = q k^T`, `(rows, count)`; what is row-major here is column-major and transposed there.
    fn scores<T: Format>(
        &self,
        q: &CudaView<'_, T>,
        k: &Heads<'_, T>,
        key: usize,
        scores: &mut CudaSlice<f32>,
    ) -> Result<()> {
        let (rows, count, d) = (self.rows, self.count, self.d);
        let strides = [k.stride, rows * d, rows * count];
        let gemm = Gemm { transpose_a: true, sizes: [count, rows, d], strides, beta: 0.0, format: Default::default() };
        gemm.run(self.device, self.batch, &k.data.slice(key * d..), q, scores)
    }

    /// `sums += weights v`, `(rows, d)`.
    fn add_values<T: Format>(
        &self,
        weights: &CudaSlice<T>,
        v: &Heads<'_, T>,
        key: usize,
        sums: &mut CudaSlice<f32>,
    ) -> Result<()> {
        let (rows, count, d) = (self.rows, self.count, self.d);
        let strides = [v.stride, rows * count, rows * d];
        let gemm = Gemm { transpose_a: false, sizes: [d, rows, count], strides, beta: 1.0, format: Default::default() };
        gemm.run(self.device, self.batch, &v.data.slice(key * d..), &weights.as_view(), sums)
    }
}

impl<T: Format> Gemm<T> {
    fn run(
        &self,
        device: &CudaDevice,
        batch: usize,
        a: &CudaView<'_, T>,
        b: &CudaView<'_, T>,
        c: &mut CudaSlice<f32>,
    ) -> Result<()> {
        let [m, n, k] = self.sizes;
        let last = |stride: usize, size: usize| (batch - 1) * stride + size;
        let [stride_a, stride_b, stride_c] = self.strides;
        if a.len() < last(stride_a, m * k) || b.len() < last(stride_b, k * n) || c.len() < last(stride_c, m * n) {
            bail!("a product of {:?} per head reaches past its operands", self.sizes);
        }
        let (transpose, lda) = match self.transpose_a {
            true => (sys::cublasOperation_t::CUBLAS_OP_T, k),
            false => (sys::cublasOperation_t::CUBLAS_OP_N, m),
        };
        let (alpha, blas, stream) = (1.0_f32, device.cublas_handle(), device.cuda_stream());
        let ((a, _a), (b, _b), (c, _c)) = (a.device_ptr(&stream), b.device_ptr(&stream), c.device_ptr_mut(&stream));
        // SAFETY: `a` is `m x k` or its transpose, `b` is `k x n` and `c` is `m x n`, each next to each other in its head,
        // and the heads lie inside the operands, as was checked. The handle is that of the device's stream.
        let status = unsafe {
            result::gemm_strided_batched_ex(
                *blas.handle(),
                transpose,
                sys::cublasOperation_t::CUBLAS_OP_N,
                int(m)?,
                int(n)?,
                int(k)?,
                (&raw const alpha).cast(),
                a as *const _,
                T::CUBLAS,
                int(lda)?,
                stride_a as i64,
                b as *const _,
                T::CUBLAS,
                int(k)?,
                stride_b as i64,
                (&raw const self.beta).cast(),
                c as *mut _,
                sys::cudaDataType_t::CUDA_R_32F,
                int(m)?,
                stride_c as i64,
                int(batch)?,
                sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        };
        status.w()
    }
}
