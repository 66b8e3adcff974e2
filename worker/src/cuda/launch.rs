//! Compiling, loading and launching kernels.

use super::source::source;
use candle_core::cuda_backend::CudaDType;
use candle_core::cuda_backend::cudarc::cublas::sys::cudaDataType_t;
use candle_core::cuda_backend::cudarc::driver::{CudaFunction, CudaStream, DeviceRepr, LaunchArgs, LaunchConfig};
use candle_core::cuda_backend::cudarc::nvrtc::{CompileError, CompileOptions, compile_ptx_with_opts};
use candle_core::{CudaDevice, CudaStorage, Layout, Result, bail};
use half::{bf16, f16};
use std::sync::{Arc, OnceLock};

/// A number format that the kernels exist for.
pub(super) trait Format: CudaDType + DeviceRepr {
    /// What the kernels' names end in.
    const NAME: &str;
    /// What cuBLAS calls it.
    const CUBLAS: cudaDataType_t;
}

impl Format for f32 {
    const NAME: &str = "f32";
    const CUBLAS: cudaDataType_t = cudaDataType_t::CUDA_R_32F;
}

impl Format for bf16 {
    const NAME: &str = "bf16";
    const CUBLAS: cudaDataType_t = cudaDataType_t::CUDA_R_16BF;
}

impl Format for f16 {
    const NAME: &str = "f16";
    const CUBLAS: cudaDataType_t = cudaDataType_t::CUDA_R_16F;
}

/// An operand of candle's calls.
pub(super) type Operand<'a> = (&'a CudaStorage, &'a Layout);

/// Calls a method that is generic over the format with that of `$dtype`.
macro_rules! by_format {
    ($dtype:expr, $op:ident.$method:ident($($argument:expr),*)) => {
        match $dtype {
            candle_core::DType::F32 => $op.$method::<f32>($($argument),*),
            candle_core::DType::BF16 => $op.$method::<half::bf16>($($argument),*),
            candle_core::DType::F16 => $op.$method::<half::f16>($($argument),*),
            other => candle_core::bail!("no kernel for numbers in {other:?}"),
        }
    };
}
pub(super) use by_format;

/// The kernels in the driver's assembly, compiled once per process.
///
/// It is assembly for the oldest architecture that the compiler knows, which the driver translates for the device.
///
/// # Errors
/// What the compiler says, the same at every call.
pub(super) fn program() -> std::result::Result<&'static str, &'static CompileError> {
    static PROGRAM: OnceLock<std::result::Result<String, CompileError>> = OnceLock::new();
    let compile = || {
        let options = vec!["--std=c++17".to_owned()];
        let options = CompileOptions { options, name: Some("ropewalk.cu".to_owned()), ..CompileOptions::default() };
        Ok(compile_ptx_with_opts(source(), options)?.to_src())
    };
    PROGRAM.get_or_init(compile).as_deref()
}

/// A kernel, loaded on a device.
pub(super) struct Kernel {
    function: CudaFunction,
    stream: Arc<CudaStream>,
}

impl Kernel {
    /// Loads a kernel where that has not happened yet.
    pub fn load(device: &CudaDevice, name: &str) -> Result<Self> {
        match program() {
            Ok(program) => Self::of(device, "ropewalk", name, program),
            Err(error) => bail!("the kernels do not compile: {error}"),
        }
    }

    /// Loads a kernel of a program in the driver's assembly, which is known by the name of its module from then on.
    pub fn of(device: &CudaDevice, module: &str, name: &str, program: &str) -> Result<Self> {
        let function = device.get_or_load_custom_func(name, module, program)?.into_cuda_function();
        Ok(Self { function, stream: device.cuda_stream() })
    }

    /// The kernel as the driver knows it.
    pub fn function(&self) -> &CudaFunction {
        &self.function
    }

    /// A launch on the device's stream, without arguments yet.
    pub fn builder(&self) -> LaunchArgs<'_> {
        self.stream.launch_builder(&self.function)
    }
}

/// A block for each of `rows`, with threads for `width` numbers.
pub(super) fn a_block_per_row(rows: usize, width: usize) -> Result<LaunchConfig> {
    let Ok(blocks) = i32::try_from(rows) else { bail!("{rows} rows are too many for one launch") };
    let threads = (width.div_ceil(4).next_multiple_of(32)).clamp(32, 256) as u32;
    Ok(LaunchConfig { grid_dim: (blocks as u32, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes: 0 })
}

/// A number as the kernels take sizes.
pub(super) fn int(x: usize) -> Result<i32> {
    i32::try_from(x).map_err(|_| candle_core::Error::Msg(format!("{x} is too large a size for a kernel")))
}
