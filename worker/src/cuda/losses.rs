//! Losses of rows of logits, which stay on the device until a whole pass is through.

use super::launch::{Format, Kernel, a_block_per_row, by_format, int};
use crate::ops::view::contiguous_range;
use candle_core::backend::BackendStorage as _;
use candle_core::cuda_backend::WrapErr as _;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, LaunchConfig, PushKernelArg as _};
use candle_core::{CudaDevice, CudaStorage, Device, Layout, Result, Storage, Tensor, bail};

/// The sums of several chunks of rows: negative log-likelihood in nats and number of right rows, of one after another.
pub(crate) struct Losses {
    device: CudaDevice,
    sums: CudaSlice<f64>,
    filled: usize,
}

/// What is known of each row's likelihood so far; see `kernels/cross_entropy.cu`.
pub(crate) struct RowLosses {
    device: CudaDevice,
    targets: CudaSlice<u32>,
    maxima: CudaSlice<f32>,
    sums: CudaSlice<f64>,
    found: CudaSlice<f32>,
    likeliest: CudaSlice<u32>,
}

// === impl Losses ===

impl Losses {
    /// Room for the sums of so many chunks.
    pub fn new(device: &Device, chunks: usize) -> Result<Self> {
        let device = device.as_cuda_device()?.clone();
        Ok(Self { sums: device.alloc_zeros(2 * chunks.max(1))?, device, filled: 0 })
    }

    /// Starts rows with these targets.
    pub fn rows(&self, targets: &[u32]) -> Result<RowLosses> {
        let (device, count) = (self.device.clone(), targets.len());
        let targets = device.clone_htod(targets)?;
        // SAFETY: the kernel that takes in the first part of the vocabulary writes every number of these.
        let rows = unsafe {
            let (maxima, sums, found) = (device.alloc(count)?, device.alloc(count)?, device.alloc(count)?);
            RowLosses { targets, maxima, sums, found, likeliest: device.alloc(count)?, device }
        };
        Ok(rows)
    }

    /// Adds up the rows of a chunk, in a fixed order.
    pub fn take(&mut self, rows: &RowLosses) -> Result<()> {
        let function = Kernel::load(&self.device, "cross_entropy_finish")?;
        let Some(mut out) = self.sums.try_slice_mut(2 * self.filled..2 * self.filled + 2) else {
            bail!("the losses of more chunks than there is room for")
        };
        let count = int(rows.targets.len())?;
        let config = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (1024, 1, 1), shared_mem_bytes: 0 };
        let mut launch = function.builder();
        launch.arg(&rows.maxima).arg(&rows.sums).arg(&rows.found).arg(&mut out).arg(&count);
        // SAFETY: the arguments are those of the kernel, which reads `count` numbers of each and writes two.
        unsafe { launch.launch(config) }.w()?;
        self.filled += 1;
        Ok(())
    }

    /// Negative log-likelihood of all chunks in nats, and how many rows were right. Waits for the device.
    pub fn total(&self) -> Result<(f64, u64)> {
        let sums = self.device.clone_dtoh(&self.sums)?;
        let total = |first: usize| -> f64 { sums.iter().skip(first).step_by(2).sum() };
        Ok((total(0), total(1) as u64))
    }
}

// === impl RowLosses ===

impl RowLosses {
    /// Takes in the logits of the vocabulary from `first` on, `(rows, part of the vocabulary)`; those from 0 on come first.
    pub fn add(&mut self, logits: &Tensor, first: usize) -> Result<()> {
        let (storage, layout) = logits.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else { bail!("the logits are not on a CUDA device") };
        by_format!(storage.dtype(), self.add_format(storage, layout, first))
    }

    fn add_format<T: Format>(&mut self, logits: &CudaStorage, layout: &Layout, first: usize) -> Result<()> {
        let (rows, width) = layout.shape().dims2()?;
        if rows != self.targets.len() {
            bail!("{rows} rows of logits for {} targets", self.targets.len());
        }
        let function = Kernel::load(&self.device, &format!("cross_entropy_add_{}", T::NAME))?;
        let logits = logits.as_cuda_slice::<T>()?.slice(contiguous_range(layout)?);
        let (first, columns) = (int(first)? as u32, int(width)? as u32);
        let mut launch = function.builder();
        launch.arg(&logits).arg(&self.targets).arg(&mut self.maxima).arg(&mut self.sums).arg(&mut self.found);
        launch.arg(&mut self.likeliest).arg(&first).arg(&columns);
        // SAFETY: the arguments are those of the kernel; a block reads a row of the logits, which are contiguous, and
        // reads and writes one number of each of the others, which have as many as there are rows.
        unsafe { launch.launch(a_block_per_row(rows, width)?) }.w()?;
        Ok(())
    }
}
