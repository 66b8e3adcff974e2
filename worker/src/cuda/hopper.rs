//! Attention on Hopper's own instructions, where the device has them and what they compute is right.

use super::launch::{Format, Kernel, Operand, int};
use super::on_device::of_three;
use crate::attention::AttentionShape;
use crate::attention::choice::HOPPER_HEAD_DIMS;
use crate::ops::view::{extent, heads_extent};
use candle_core::backend::BackendStorage as _;
use candle_core::cuda_backend::WrapErr as _;
use candle_core::cuda_backend::cudarc::driver::sys::{
    CUfunction_attribute_enum, CUtensorMap, CUtensorMapDataType, CUtensorMapFloatOOBfill, CUtensorMapInterleave,
    CUtensorMapL2promotion, CUtensorMapSwizzle, cuTensorMapEncodeTiled,
};
use candle_core::cuda_backend::cudarc::driver::{
    CudaView, DevicePtr as _, DeviceRepr, DeviceSlice as _, LaunchConfig, PushKernelArg as _,
};
use candle_core::cuda_backend::cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts};
use candle_core::{CudaDevice, CudaStorage, DType, Device, Result, Shape, Tensor, bail};
use half::{bf16, f16};
use std::collections::HashMap;
use std::f64::consts::LOG2_E;
use std::mem::MaybeUninit;
use std::sync::{Arc, Mutex, PoisonError};

/// Queries of a block, keys of a step, and how many steps of keys and of values are on the device's own memory at a time;
/// as in the kernel.
const ROWS: usize = 128;
const STAGES: usize = 2;
const THREADS: u32 = 384;
/// Numbers of a panel: 128 bytes, the widest swizzle.
const PANEL: usize = 64;

/// Attention of `q` over `k` and `v`, laid out as [`AttentionShape`] says.
pub(super) fn attention(shape: AttentionShape, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    let attention = Attention { shape };
    let run = |q: Operand<'_>, k: Operand<'_>, v: Operand<'_>| match q.0.dtype() {
        DType::BF16 => attention.run::<bf16>(q, k, v),
        DType::F16 => attention.run::<f16>(q, k, v),
        other => bail!("no attention of Hopper's own for numbers in {other:?}"),
    };
    q.apply_op3_no_bwd(k, v, &of_three("hopper-attention", run))
}

/// Whether a device can run it for heads of this size: it is tried out once, against streaming attention.
pub(super) fn present(device: &CudaDevice, dtype: DType, head_dim: usize) -> bool {
    type Tried = HashMap<(usize, DType, usize), bool>;
    static TRIED: Mutex<Option<Tried>> = Mutex::new(None);
    if !matches!(dtype, DType::BF16 | DType::F16) || !HOPPER_HEAD_DIMS.contains(&head_dim) {
        return false;
    }
    let stream = device.cuda_stream();
    let context = stream.context();
    let mut tried = TRIED.lock().unwrap_or_else(PoisonError::into_inner);
    let tried = tried.get_or_insert_default();
    *tried.entry((context.ordinal(), dtype, head_dim)).or_insert_with(|| {
        if !matches!(context.compute_capability(), Ok((9, 0))) {
            return false;
        }
        let result = is_right(device, dtype, head_dim);
        let right = matches!(result, Ok(true));
        if !right {
            tracing::warn!(?result, head_dim, "Hopper's attention does not work on this device: it is not used");
        }
        right
    })
}

/// Whether queries of two heads that share keys, at the end of more keys than a step has, get what streaming attention
/// computes, with a window and without.
fn is_right(device: &CudaDevice, dtype: DType, head_dim: usize) -> Result<bool> {
    let (chunk, keys, device) = (200, 333, Device::Cuda(device.clone()));
    let noise = |shape: [usize; 3], seed: usize| {
        let number = |i: usize| ((i + seed) * 7919 % 1013) as f32 / 253.0 - 2.0;
        let numbers: Vec<f32> = (0..shape.iter().product()).map(number).collect();
        Tensor::from_vec(numbers, &shape[..], &device)?.to_dtype(dtype)
    };
    let q = noise([chunk, 2, head_dim], 1)?.reshape((chunk, 2 * head_dim))?;
    let (k, v) = (noise([1, keys, head_dim], 5)?, noise([1, keys, head_dim], 11)?);
    for window in [None, Some(70)] {
        let shape = AttentionShape { heads: 2, kv_heads: 1, head_dim, window };
        let (got, want) = (attention(shape, &q, &k, &v)?, super::streaming::attention(shape, &q, &k, &v)?);
        let difference = (got.to_dtype(DType::F32)? - want.to_dtype(DType::F32)?)?.abs()?.flatten_all()?;
        // Both round weights and results to 8 bits at worst; numbers that are none are no difference that is small.
        let off = difference.to_vec1::<f32>()?.into_iter().any(|x| x.is_nan() || x > 0.03);
        if off {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A number format that the tensor cores multiply and the memory accelerator moves.
trait Half: Format {
    const MAP: CUtensorMapDataType;
}

impl Half for bf16 {
    const MAP: CUtensorMapDataType = CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
}

impl Half for f16 {
    const MAP: CUtensorMapDataType = CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
}

struct Attention {
    shape: AttentionShape,
}

/// What the memory accelerator must know of a tensor of `(heads, rows, head_dim)` to bring 128 rows of 64 numbers.
#[repr(transparent)]
struct Map(CUtensorMap);

// SAFETY: a kernel's argument as it is, 128 bytes that the driver has filled.
unsafe impl DeviceRepr for Map {}

// === impl Map ===

impl Map {
    /// Of `rows` rows `row_stride` numbers apart in each of `heads` heads `head_stride` numbers apart, all inside of `data`.
    fn new<T: Half>(data: &CudaView<'_, T>, [heads, rows, dim]: [usize; 3], strides: [usize; 2]) -> Result<Self> {
        let [head_stride, row_stride] = strides;
        if data.len() < (heads - 1) * head_stride + (rows - 1) * row_stride + dim {
            bail!("{heads} heads of {rows} rows reach past their tensor");
        }
        let stream = data.stream().clone();
        let (pointer, _guard) = data.device_ptr(&stream);
        let sizes = [dim, rows, heads].map(|size| size as u64);
        let strides = [row_stride, head_stride].map(|stride| (stride * size_of::<T>()) as u64);
        let mut map = MaybeUninit::<CUtensorMap>::uninit();
        // SAFETY: describes a tensor of three dimensions by arrays of three and two numbers; nothing is read through the
        // pointer here, and what a kernel reads through it was found to be inside of `data`.
        let status = unsafe {
            cuTensorMapEncodeTiled(
                map.as_mut_ptr(),
                T::MAP,
                3,
                pointer as *mut _,
                sizes.as_ptr(),
                strides.as_ptr(),
                [PANEL as u32, ROWS as u32, 1].as_ptr(),
                [1, 1, 1].as_ptr(),
                CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        status.result().w()?;
        // SAFETY: the driver has filled it, as it reported success.
        Ok(Self(unsafe { map.assume_init() }))
    }
}

// === impl Attention ===

impl Attention {
    fn run<T: Half>(
        &self,
        (q, ql): Operand<'_>,
        (k, kl): Operand<'_>,
        (v, vl): Operand<'_>,
    ) -> Result<(CudaStorage, Shape)> {
        let (device, shape) = (q.device(), &self.shape);
        let (q_range, q_stride, chunk, width) = extent(ql)?;
        let (k_range, k_stride, [kv_heads, keys, dim]) = heads_extent(kl)?;
        let (v_range, v_stride, v_sizes) = heads_extent(vl)?;
        let fits = [kv_heads, keys, dim] == v_sizes && (kv_heads, dim) == (shape.kv_heads, shape.head_dim);
        if !fits || width != shape.query_width() || chunk > keys || !HOPPER_HEAD_DIMS.contains(&dim) {
            bail!("{chunk} queries of {width}, keys {:?}, values {v_sizes:?} for {shape:?}", kl.dims());
        }
        let q = q.as_cuda_slice::<T>()?.slice(q_range);
        let (k, v) = (k.as_cuda_slice::<T>()?.slice(k_range), v.as_cuda_slice::<T>()?.slice(v_range));
        let queries = Map::new(&q, [shape.heads, chunk, dim], [dim, q_stride])?;
        let key_rows = Map::new(&k, [kv_heads, keys, dim], [k_stride, dim])?;
        let value_rows = Map::new(&v, [kv_heads, keys, dim], [v_stride, dim])?;

        // SAFETY: the kernel writes every number of the result.
        let mut out = unsafe { device.alloc::<T>(chunk * width)? };
        let kernel = load::<T>(device, dim)?;
        let tile = ROWS * dim.next_multiple_of(PANEL) * size_of::<T>();
        // Queries, keys and values, and what it takes to begin at a multiple of 1 KiB.
        let shared = (1 + 2 * STAGES) * tile + 1024;
        let attribute = CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        kernel.function().set_attribute(attribute, int(shared)?).w()?;
        let blocks = int(chunk.div_ceil(ROWS) * shape.heads)?;
        let config = LaunchConfig {
            grid_dim: (blocks as u32, 1, 1),
            block_dim: (THREADS, 1, 1),
            shared_mem_bytes: shared as u32,
        };
        let scale = (shape.scale() * LOG2_E) as f32;
        let (chunk_int, heads, group) = (int(chunk)?, int(shape.heads)?, int(shape.group())?);
        let (keys_int, window) = (keys as i64, shape.window.unwrap_or(keys) as i64);
        let mut launch = kernel.builder();
        launch.arg(&queries).arg(&key_rows).arg(&value_rows).arg(&mut out).arg(&scale);
        launch.arg(&chunk_int).arg(&heads).arg(&group).arg(&keys_int).arg(&window);
        // SAFETY: the arguments are those of the kernel. It reads through the maps alone, which keep it inside of their
        // tensors, and writes rows below `chunk` of `out`, `heads * dim` numbers each.
        unsafe { launch.launch(config) }.w()?;
        Ok((CudaStorage::wrap_cuda_slice(out, device.clone()), Shape::from((chunk, width))))
    }
}

/// The kernel for a format and heads of this size, compiled once per process.
fn load<T: Half>(device: &CudaDevice, head_dim: usize) -> Result<Kernel> {
    static PROGRAMS: Mutex<Option<HashMap<String, Arc<str>>>> = Mutex::new(None);
    let name = format!("attention_{head_dim}_{}", T::NAME);
    let program = {
        let mut programs = PROGRAMS.lock().unwrap_or_else(PoisonError::into_inner);
        let programs = programs.get_or_insert_default();
        match programs.get(&name) {
            Some(program) => program.clone(),
            None => programs.entry(name.clone()).or_insert(compile(&name, head_dim, T::NAME)?).clone(),
        }
    };
    Kernel::of(device, &name, &name, &program)
}

/// The kernel in the driver's assembly, for Hopper alone.
fn compile(name: &str, head_dim: usize, format: &str) -> Result<Arc<str>> {
    let definitions = format!("#define HEAD_DIM {head_dim}\n#define TYPE \"{format}\"\n#define NAME {name}\n");
    let options = CompileOptions {
        options: vec!["--std=c++17".to_owned()],
        arch: Some("compute_90a"),
        name: Some("hopper.cu".to_owned()),
        ..CompileOptions::default()
    };
    match compile_ptx_with_opts(definitions + include_str!("kernels/hopper.cu"), options) {
        Ok(program) => Ok(program.to_src().into()),
        Err(error) => bail!("the attention kernel does not compile: {error}"),
    }
}
