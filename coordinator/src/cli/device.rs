//! Options that say on which devices a command computes, and with how much of their memory.

use clap::Args;
use ropewalk_worker::device::{self, DeviceChoice, DeviceError, Devices};
use serde::{Deserialize, Serialize};

/// Where to compute.
#[derive(Args, Clone, Debug)]
pub struct DeviceArgs {
    /// Where to compute: cpu or cuda:N
    #[arg(long, default_value = "cpu")]
    device: DeviceChoice,

    /// Several devices that share one evaluation, layer by layer in turn: indices of GPUs, such as 0,1
    #[arg(long, value_name = "LIST", conflicts_with = "device")]
    devices: Option<Devices>,

    /// Memory of each device that is used at most: weights that do not fit are streamed layer by layer, hidden states wait
    /// in the host's memory [default: what the device has]
    #[arg(long, value_name = "GIB", value_parser = device::gib)]
    pub device_memory: Option<u64>,
}

/// The same as a file keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRecord {
    devices: String,
    device_memory: Option<u64>,
}

// === impl DeviceArgs ===

impl DeviceArgs {
    /// The devices that are named.
    pub fn devices(&self) -> Devices {
        self.devices.clone().unwrap_or_else(|| self.device.into())
    }

    /// What was typed, for a file.
    pub fn record(&self) -> DeviceRecord {
        DeviceRecord { devices: self.devices().to_string(), device_memory: self.device_memory }
    }
}

impl TryFrom<DeviceRecord> for DeviceArgs {
    type Error = DeviceError;
    fn try_from(record: DeviceRecord) -> Result<Self, DeviceError> {
        let devices = Some(record.devices.parse()?);
        Ok(Self { device: DeviceChoice::default(), devices, device_memory: record.device_memory })
    }
}
