//! Where a model runs, and in which number format.

use candle_core::{DType, Device};
use std::fmt;
use std::str::FromStr;

/// A device as a user names it: `cpu`, `cuda` or `cuda:1`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DeviceChoice {
    /// The processor.
    #[default]
    Cpu,
    /// The NVIDIA GPU with this index.
    Cuda(usize),
}

/// Devices that evaluate together, one or more, as a user names them: `cpu`, `cuda:1`, `0,1` (GPUs), `cpu,cpu`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Devices(Vec<DeviceChoice>);

/// Number format of weights and activations. Losses are always accumulated in f64 over f32 logits.
///
/// On the CPU bf16 is how matrices of weights, hidden states between layers, and keys and values are kept: half the
/// memory. A matrix unit computes products and attention in it, with sums in f32; all else is computed in f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// Single precision, the reference.
    #[default]
    F32,
    /// bfloat16.
    Bf16,
    /// Half precision; not on the CPU.
    F16,
    /// Single precision with products in three terms of bf16 ("bf16x3", about 16 bits of mantissa) on CPUs with AMX; the
    /// same as [`Self::F32`] on all others.
    F32Fast,
}

/// A device or number format that cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// Not a name of a device.
    #[error("device {0:?} is not known: use cpu, cuda or cuda:N")]
    Unknown(String),
    /// Not a name of a number format.
    #[error("number format {0:?} is not known: use f32, f32-fast, bf16 or f16")]
    UnknownDtype(String),
    /// The program was built without GPU support.
    #[error(
        "this build has no CUDA support: build it with `cargo build --release --features cuda` (a worker: add `-p ropewalk-worker`), or use --device cpu"
    )]
    NoCuda,
    /// One GPU, twice.
    #[error("cuda:{0} is named twice: a model's layers are dealt out to different GPUs")]
    Twice(usize),
    /// The GPU did not start.
    #[error("cannot use cuda:{index}: {source}; `nvidia-smi` lists the GPUs of this machine")]
    Cuda {
        /// Index of the GPU.
        index: usize,
        /// What the driver said.
        source: Box<candle_core::Error>,
    },
    /// A model has to be somewhere.
    #[error("no device is named: use --devices cuda:0,cuda:1 or --device cuda:0")]
    None,
    /// Layers cannot pass from one kind to another.
    #[error("processor and GPUs cannot share a model: name either, as in --devices 0,1")]
    Mixed,
    /// A format that this device has no kernels for.
    #[error("{0} is not available on the CPU: use f32 or bf16 there, or a GPU (--device cuda:0)")]
    CpuDtype(Dtype),
    /// A format that GPUs have no kernels for.
    #[error("{0} is a number format of the CPU: use bf16, f16 or f32 on a GPU")]
    GpuDtype(Dtype),
    /// A GPU that is too old for bf16.
    #[error("this GPU has compute capability {}.{}, and bf16 needs 8.0: use --dtype f16", .0.0, .0.1)]
    OldGpu((i32, i32)),
}

/// Bytes of a GPU's memory that are free; none of the processor, whose memory is the host's. Waits until the GPU has done
/// what is queued: memory is given back in that order, and what a model held before would count as taken.
#[cfg(feature = "cuda")]
pub fn memory_bytes(device: &Device) -> Option<u64> {
    let Device::Cuda(cuda) = device else { return None };
    let stream = cuda.cuda_stream();
    stream.context().synchronize().ok()?;
    let (free, _) = stream.context().mem_get_info().ok()?;
    Some(free as u64)
}

/// Bytes of a GPU's memory that are free; none of the processor, whose memory is the host's.
#[cfg(not(feature = "cuda"))]
pub fn memory_bytes(_: &Device) -> Option<u64> {
    None
}

// === impl DeviceChoice ===

impl DeviceChoice {
    /// Starts the device.
    ///
    /// # Errors
    /// [`DeviceError::NoCuda`] in a build without the `cuda` feature, [`DeviceError::Cuda`] when the driver refuses.
    pub fn open(self) -> Result<Device, DeviceError> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(_) if !cfg!(feature = "cuda") => Err(DeviceError::NoCuda),
            Self::Cuda(index) => {
                // A stream of its own: candle's default is one for each thread, and evaluations change threads.
                Device::new_cuda_with_stream(index).map_err(|source| DeviceError::Cuda { index, source: source.into() })
            }
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = DeviceError;
    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let unknown = || DeviceError::Unknown(text.to_owned());
        match text {
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => match text.strip_prefix("cuda:") {
                Some(index) => index.parse().map(Self::Cuda).map_err(|_| unknown()),
                None => Err(unknown()),
            },
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

// === impl Devices ===

impl Devices {
    /// Whether they are the processor.
    pub fn is_cpu(&self) -> bool {
        self.0.contains(&DeviceChoice::Cpu)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The number format that is used on them unless another is asked for: GPUs are built for bf16.
    pub fn usual_dtype(&self) -> Dtype {
        if self.is_cpu() { Dtype::F32 } else { Dtype::Bf16 }
    }

    /// Starts them.
    ///
    /// # Errors
    /// As [`DeviceChoice::open`].
    pub fn open(&self) -> Result<Vec<Device>, DeviceError> {
        self.0.iter().map(|device| device.open()).collect()
    }
}

impl Default for Devices {
    fn default() -> Self {
        DeviceChoice::default().into()
    }
}

impl From<DeviceChoice> for Devices {
    fn from(device: DeviceChoice) -> Self {
        Self(vec![device])
    }
}

impl FromStr for Devices {
    type Err = DeviceError;
    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let device = |name: &str| match name.trim().parse() {
            Ok(index) => Ok(DeviceChoice::Cuda(index)),
            Err(_) => name.trim().parse(),
        };
        let devices: Vec<_> = text.split(',').map(device).collect::<Result<_, _>>()?;
        let cpus = devices.iter().filter(|device| **device == DeviceChoice::Cpu).count();
        if cpus > 0 && cpus < devices.len() {
            return Err(DeviceError::Mixed);
        }
        // Its memory would be counted twice.
        let twice = devices.iter().enumerate().find(|(at, gpu)| devices[..*at].contains(gpu));
        match twice {
            Some((_, &DeviceChoice::Cuda(index))) => Err(DeviceError::Twice(index)),
            _ => Ok(Self(devices)),
        }
    }
}

impl fmt::Display for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.0.iter().map(DeviceChoice::to_string).collect();
        f.write_str(&names.join(","))
    }
}

/// Bytes of a number of GiB, as a user gives them.
///
/// # Errors
/// A message when it is no number above 0.
pub fn gib(text: &str) -> Result<u64, String> {
    match text.parse::<f64>() {
        Ok(gib) if gib > 0.0 && gib < 1e9 => Ok((gib * f64::from(1 << 30)) as u64),
        _ => Err(format!("{text:?} is not a number of GiB above 0")),
    }
}

/// Candle's kernels for bf16 are left out of what is built for GPUs before compute capability 8.0.
#[cfg(feature = "cuda")]
fn check_bf16(device: &Device) -> Result<(), DeviceError> {
    let capability = device.as_cuda_device().ok().and_then(|gpu| gpu.cuda_stream().context().compute_capability().ok());
    match capability.filter(|capability| *capability < (8, 0)) {
        Some(capability) => Err(DeviceError::OldGpu(capability)),
        None => Ok(()),
    }
}

#[cfg(not(feature = "cuda"))]
fn check_bf16(_: &Device) -> Result<(), DeviceError> {
    Ok(())
}

// === impl Dtype ===

impl Dtype {
    /// Bytes of one number.
    pub fn bytes(self) -> usize {
        self.to_candle().size_in_bytes()
    }

    /// Checks that `device` computes with these numbers.
    ///
    /// # Errors
    /// [`DeviceError::CpuDtype`], [`DeviceError::GpuDtype`], [`DeviceError::OldGpu`].
    pub fn check(self, device: &Device) -> Result<(), DeviceError> {
        self.check_kind(device.is_cpu())?;
        if self == Self::Bf16 && !device.is_cpu() { check_bf16(device) } else { Ok(()) }
    }

    /// Checks that the CPU, or any GPU, computes with these numbers.
    ///
    /// # Errors
    /// [`DeviceError::CpuDtype`], [`DeviceError::GpuDtype`].
    pub fn check_kind(self, cpu: bool) -> Result<(), DeviceError> {
        match (self, cpu) {
            (Self::F16, true) => Err(DeviceError::CpuDtype(self)),
            (Self::F32Fast, false) => Err(DeviceError::GpuDtype(self)),
            _ => Ok(()),
        }
    }

    /// Into how many parts of bf16 a matrix unit splits a number; none where it has no part in the arithmetic.
    pub(crate) fn parts(self) -> Option<usize> {
        match self {
            Self::Bf16 => Some(1),
            Self::F32Fast => Some(2),
            Self::F32 | Self::F16 => None,
        }
    }

    pub(crate) fn to_candle(self) -> DType {
        match self {
            Self::F32 | Self::F32Fast => DType::F32,
            Self::Bf16 => DType::BF16,
            Self::F16 => DType::F16,
        }
    }
}

impl FromStr for Dtype {
    type Err = DeviceError;
    fn from_str(text: &str) -> Result<Self, DeviceError> {
        match text {
            "f32" => Ok(Self::F32),
            "f32-fast" => Ok(Self::F32Fast),
            "bf16" => Ok(Self::Bf16),
            "f16" => Ok(Self::F16),
            _ => Err(DeviceError::UnknownDtype(text.to_owned())),
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F32Fast => "f32-fast",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_devices_are_read_and_written() {
        for (text, choice) in
            [("cpu", DeviceChoice::Cpu), ("cuda:0", DeviceChoice::Cuda(0)), ("cuda:3", DeviceChoice::Cuda(3))]
        {
            assert_eq!(text.parse::<DeviceChoice>().unwrap(), choice);
            assert_eq!(choice.to_string(), text);
        }
        for text in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "CPU"] {
            assert!(text.parse::<DeviceChoice>().unwrap_err().to_string().contains("use cpu"), "{text}");
        }
    }

    #[test]
    fn several_devices_are_read_and_written() {
        for (text, written) in
            [("cpu", "cpu"), ("0,1", "cuda:0,cuda:1"), ("cuda:2, 0", "cuda:2,cuda:0"), ("cpu,cpu", "cpu,cpu")]
        {
            assert_eq!(text.parse::<Devices>().unwrap().to_string(), written);
        }
        for text in ["", "0,", "gpu", "cpu,0"] {
            assert!(text.parse::<Devices>().is_err(), "{text}");
        }
        let twice = "1,0,cuda:1".parse::<Devices>().unwrap_err();
        assert!(matches!(twice, DeviceError::Twice(1)), "{twice}");
        assert_eq!(gib("0.5"), Ok(1 << 29));
        assert!(["0", "-1", "x", "inf", "nan"].iter().all(|text| gib(text).is_err()));
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_build_without_cuda_says_how_to_get_it() {
        let error = DeviceChoice::Cuda(0).open().unwrap_err();
        assert!(error.to_string().contains("--features cuda"), "{error}");
    }
}
