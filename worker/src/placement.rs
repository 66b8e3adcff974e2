//! What lies where while documents are evaluated: weights and hidden states on the device, or beside it.
//!
//! ```text
//! device = weights (all, or two layers and the head) + keys and values of one layer + a chunk's buffers
//!        + hidden states (all, or two chunks)
//! moved  = weights of all layers, if they are streamed, + each layer's hidden states there and back, if they are
//! ```
//!
//! Keys and values of the layer that is computed are on the device always: every chunk reads all of them. Of several
//! devices each has the layers that it is dealt, keys and values of one of them, and no hidden states but those of the
//! chunks that pass through. This is arithmetic alone; [`crate::evaluator`] carries it out.

use crate::cost::{self, Load};
use crate::rope_table;
use std::fmt;

/// Layers, or chunks, that are on a device at a time where they are streamed: one in use, and one on its way.
const STREAMED: usize = 2;

/// Where something is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Residence {
    /// On the device, always.
    #[default]
    Device,
    /// In the host's memory (weights: in their mapped files), and on the device while it is needed.
    Host,
}

/// What lies where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The layers' weights. Embedding, final norm and head are on the first device always.
    pub weights: Residence,
    /// Hidden states of the sequence.
    pub hidden: Residence,
    /// Devices that layers are dealt out to in turn.
    pub devices: usize,
    /// Candidates that go through the layers together.
    pub together: usize,
}

/// Bytes that a placement takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// Weights on the device (of several, on the first, which has the most).
    pub weights: u64,
    /// Hidden states on the device.
    pub hidden_states: u64,
    /// Keys and values of one layer.
    pub keys_values: u64,
    /// Rotation tables and the buffers of a chunk.
    pub buffers: u64,
    /// In the host's memory beside mapped files: hidden states and token ids.
    pub host: u64,
    /// Bytes moved between host and device for one document.
    pub moved: u64,
}

/// Bytes that placements may take; [`u64::MAX`] where nothing bounds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Of each device.
    pub device: u64,
    /// Of the host. On the processor devices take theirs of it.
    pub host: u64,
}

/// No placement fits.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error(
    "{tokens} tokens fit into {room} in no way: {place} still take {total} (weights {weights}, hidden states {hidden}, keys and \
     values of one layer {keys_values}, buffers {buffers}) and {host} beside it on the host; take shorter documents or more \
     memory",
    total = Gib(.least.device()), weights = Gib(.least.weights), hidden = Gib(.least.hidden_states),
    keys_values = Gib(.least.keys_values), buffers = Gib(.least.buffers), host = Gib(.least.host)
)]
pub struct NoPlacement {
    /// Tokens of a document.
    pub tokens: usize,
    /// What there is.
    pub room: Room,
    /// The placement that takes the least.
    pub place: Placement,
    /// What it takes.
    pub least: Need,
}

struct Gib(u64);

// === impl Placement ===

impl Placement {
    /// Everything on one device, one candidate at a time.
    pub const RESIDENT: Self = Self { weights: Residence::Device, hidden: Residence::Device, devices: 1, together: 1 };

    /// Of all placements on so many devices the one that fits into `room` and moves the least; with `weights`, of those
    /// that have them there.
    ///
    /// # Errors
    /// [`NoPlacement`], with what the most frugal one takes.
    pub fn choose(
        load: Load<'_>,
        room: impl Into<Room>,
        devices: usize,
        weights: Option<Residence>,
    ) -> Result<Self, NoPlacement> {
        let room = room.into();
        let all = Self::all(devices).filter(|place| weights.is_none_or(|weights| place.weights == weights));
        let needs: Vec<(Self, Need)> = all.map(|place| (place, place.need(load))).collect();
        let fitting = needs.iter().filter(|(place, _)| place.fits(load, room));
        if let Some((place, _)) = fitting.min_by_key(|(_, need)| need.moved) {
            return Ok(*place);
        }
        // On the processor what is streamed from its own memory saves nothing of it, unless a device was given less.
        let narrow = needs.iter().all(|(_, need)| need.device() > room.device);
        let taken = |need: &Need| need.device() + if load.format.cpu && !narrow { need.host } else { 0 };
        let least = needs.iter().min_by_key(|(_, need)| taken(need));
        let &(place, least) = least.unwrap_or(&(Self::RESIDENT, Self::RESIDENT.need(load)));
        Err(NoPlacement { tokens: load.tokens, room, place, least })
    }

    /// Whether it takes no more than there is.
    fn fits(&self, load: Load<'_>, room: Room) -> bool {
        let need = self.need(load);
        need.device() <= room.device && self.of_host(&need, load.format.cpu) <= room.host
    }

    /// What it takes of the host's memory, where `cpu` or a device computes. Of several devices the first has the most, so this
    /// is an upper bound.
    fn of_host(&self, need: &Need, cpu: bool) -> u64 {
        need.host + if cpu { need.device() * self.devices as u64 } else { 0 }
    }

    /// Every placement of one candidate. What passes from device to device goes through the host's memory, so that hidden
    /// states wait there where there are several.
    fn all(devices: usize) -> impl Iterator<Item = Self> {
        let hidden = if devices > 1 { &[Residence::Host][..] } else { &[Residence::Device, Residence::Host] };
        [Residence::Device, Residence::Host].into_iter().flat_map(move |weights| {
            hidden.iter().map(move |&hidden| Self { weights, hidden, devices: devices.max(1), together: 1 })
        })
    }

    /// The same with as many candidates together as fit, up to `most`. One is held to fit.
    #[must_use]
    pub fn with_most_together(self, load: Load<'_>, room: impl Into<Room>, most: usize) -> Self {
        let (room, with) = (room.into(), |together| Self { together, ..self });
        (2..=most).map(with).take_while(|place| place.fits(load, room)).last().unwrap_or(with(1))
    }

    /// What it takes on the device that has the most, and beside it.
    pub fn need(&self, load: Load<'_>) -> Need {
        let Load { spec, format, tokens, .. } = load;
        let (number, chunk) = (format.dtype.bytes() as u64, load.chunk_tokens.min(tokens));
        let (layers, devices) = (spec.layers(), self.devices.clamp(1, spec.layers().max(1)));
        let (layer, ends) = (cost::layer_bytes(spec, format), cost::ends_bytes(spec, format));
        let dealt = layers.div_ceil(devices);
        let (here, weights_moved) = match self.weights {
            Residence::Device => (dealt, 0),
            Residence::Host => (dealt.min(STREAMED), layers as u64 * layer / self.together as u64),
        };
        let (row, candidates) = (spec.hidden as u64 * number, self.together as u64);
        let all_hidden = tokens as u64 * row * candidates;
        let (hidden_states, waiting, hidden_moved) = match self.hidden {
            Residence::Device => (all_hidden, 0, 0),
            // There and back, in every layer, but for the way to the first and from the last.
            Residence::Host => {
                ((chunk * STREAMED).min(tokens) as u64 * row, all_hidden, 2 * layers as u64 * tokens as u64 * row)
            }
        };
        let tables = rope_table::bytes(spec.rotary_dim / 2, tokens, chunk) as u64 * candidates;
        Need {
            weights: ends + here as u64 * layer,
            hidden_states,
            keys_values: cost::keys_values_bytes(spec, format, tokens),
            buffers: cost::chunk_buffers(load) + tables,
            host: waiting + (tokens * size_of::<u32>()) as u64,
            moved: weights_moved + hidden_moved,
        }
    }

    /// The longest document that fits into `room` when the weights lie where they do here.
    pub fn longest(&self, load: Load<'_>, room: impl Into<Room>) -> usize {
        let room = room.into();
        cost::longest(|tokens| Self::choose(Load { tokens, ..load }, room, self.devices, Some(self.weights)).is_ok())
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let weights = match self.weights {
            Residence::Device => "all weights",
            Residence::Host => "weights streamed layer by layer",
        };
        let hidden = match self.hidden {
            Residence::Device => "hidden states on the device",
            Residence::Host => "hidden states in host memory",
        };
        write!(f, "{weights}, {hidden}")?;
        if self.devices > 1 { write!(f, ", on {} devices", self.devices) } else { Ok(()) }
    }
}

// === impl Room ===

impl Room {
    /// The same without `bytes` that are kept for something else where `cpu` or a device computes.
    #[must_use]
    pub(crate) fn without(self, bytes: u64, cpu: bool) -> Self {
        let less = |all: u64| if all == u64::MAX { all } else { all.saturating_sub(bytes) };
        Self { device: less(self.device), host: if cpu { less(self.host) } else { self.host } }
    }

    /// What a placement leaves where it computes.
    pub(crate) fn left(self, load: Load<'_>, place: &Placement) -> u64 {
        let need = place.need(load);
        let (cpu, device) = (load.format.cpu, self.device.saturating_sub(need.device()));
        if cpu { device.min(self.host.saturating_sub(place.of_host(&need, cpu))) } else { device }
    }
}

impl From<u64> for Room {
    /// So much of each device, beside a host that has enough.
    fn from(device: u64) -> Self {
        Self { device, host: u64::MAX }
    }
}

impl fmt::Display for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.device, self.host) {
            (device, u64::MAX) => write!(f, "{} of device memory", Gib(device)),
            (u64::MAX, host) => write!(f, "{} of memory", Gib(host)),
            (device, host) => write!(f, "{} of device memory and {} of the host's", Gib(device), Gib(host)),
        }
    }
}

// === impl Need ===

impl Need {
    /// Everything on the device.
    pub fn device(&self) -> u64 {
        self.weights + self.hidden_states + self.keys_values + self.buffers
    }
}

impl fmt::Display for Gib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} GiB", self.0 as f64 / (1u64 << 30) as f64)
    }
}

#[cfg(test)]
mod tests;
