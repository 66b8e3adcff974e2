//! What memory evaluations may take: a share of what is free, unless they were given so much of each device.

use crate::device;
use crate::ledger::Ledger;
use crate::memory;
use crate::model::Model;
use crate::placement::Room;
use candle_core::Device;

/// Share of the free memory that is taken for granted.
const USABLE_SHARE: f64 = 0.8;

/// What of free memory is taken for granted.
pub(super) fn usable(bytes: u64) -> u64 {
    (bytes as f64 * USABLE_SHARE) as u64
}

/// Whoever says what memory there is.
#[derive(Clone, Debug)]
pub(super) enum Rooms {
    /// The system; `given` is the bound on each device.
    System { given: Option<u64> },
    /// A test.
    #[cfg(test)]
    Put(std::sync::Arc<std::sync::Mutex<Room>>),
}

impl Rooms {
    /// What there is for a model that is to be loaded onto these devices.
    pub fn before(&self, devices: &[Device]) -> Room {
        self.of(devices.iter().map(|device| (device, 0)))
    }

    /// What there is for a model that is loaded: its weights are not free, but count as part of the memory. So do `kept`
    /// bytes that lie beside them on the first device.
    pub fn beside(&self, model: &Model, kept: u64) -> Room {
        let live = model.ledgers().iter().map(Ledger::live);
        let kept = std::iter::once(kept).chain(std::iter::repeat(0));
        self.of(model.devices().iter().zip(live.zip(kept).map(|(live, kept)| live + kept)))
    }

    fn of<'d>(&self, devices: impl Iterator<Item = (&'d Device, u64)> + Clone) -> Room {
        match self {
            Self::System { given } => of(devices, *given),
            #[cfg(test)]
            Self::Put(room) => *room.lock().unwrap(),
        }
    }
}

/// Of devices, each with the bytes that are held there: that with the least decides.
fn of<'d>(devices: impl Iterator<Item = (&'d Device, u64)> + Clone, given: Option<u64>) -> Room {
    let of_gpu = |(device, live)| device::memory_bytes(device).map(|free| usable(free) + live);
    let least = || devices.clone().filter_map(of_gpu).min();
    let of_host: u64 = devices.clone().filter(|(device, _)| device.is_cpu()).map(|(_, live)| live).sum();
    Room {
        device: given.or_else(least).unwrap_or(u64::MAX),
        host: memory::available_bytes().map_or(u64::MAX, |free| usable(free) + of_host),
    }
}
