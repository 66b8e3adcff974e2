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

use crate::cost;
use crate::device::Dtype;
use crate::model::config::DecoderSpec;
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

/// What is to be placed: a model, and documents of some length in chunks.
#[derive(Clone, Copy, Debug)]
pub struct Load<'a> {
    /// The model.
    pub spec: &'a DecoderSpec,
    /// Its number format on the device.
    pub dtype: Dtype,
    /// Tokens that go through a layer at a time.
    pub chunk_tokens: usize,
    /// Tokens of a document.
    pub tokens: usize,
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

/// No placement fits.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error(
    "{tokens} tokens fit into {limit} of device memory in no way: {place} still take {total} (weights {weights}, hidden states \
     {hidden}, keys and values of one layer {keys_values}, buffers {buffers}); take shorter documents or a device with more \
     memory",
    limit = Gib(*.limit), total = Gib(.least.device()), weights = Gib(.least.weights), hidden = Gib(.least.hidden_states),
    keys_values = Gib(.least.keys_values), buffers = Gib(.least.buffers)
)]
pub struct NoPlacement {
    /// Tokens of a document.
    pub tokens: usize,
    /// Bytes that each device has.
    pub limit: u64,
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

    /// Of all placements on so many devices with `limit` bytes each the one that fits and moves the least; with
    /// `weights`, of those that have them there.
    ///
    /// # Errors
    /// [`NoPlacement`], with what the most frugal one takes.
    pub fn choose(load: Load<'_>, limit: u64, devices: usize, weights: Option<Residence>) -> Result<Self, NoPlacement> {
        let all = Self::all(devices).filter(|place| weights.is_none_or(|weights| place.weights == weights));
        let needs: Vec<(Self, Need)> = all.map(|place| (place, place.need(load))).collect();
        let fitting = needs.iter().filter(|(_, need)| need.device() <= limit);
        if let Some((place, _)) = fitting.min_by_key(|(_, need)| need.moved) {
            return Ok(*place);
        }
        let least = needs.iter().min_by_key(|(_, need)| need.device());
        let &(place, least) = least.unwrap_or(&(Self::RESIDENT, Self::RESIDENT.need(load)));
        Err(NoPlacement { tokens: load.tokens, limit, place, least })
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
    pub fn with_most_together(self, load: Load<'_>, limit: u64, most: usize) -> Self {
        let with = |together| Self { together, ..self };
        (2..=most).map(with).take_while(|place| place.need(load).device() <= limit).last().unwrap_or(with(1))
    }

    /// What it takes on the device that has the most, and beside it.
    pub fn need(&self, load: Load<'_>) -> Need {
        let Load { spec, dtype, tokens, .. } = load;
        let (number, chunk) = (dtype.bytes() as u64, load.chunk_tokens.min(tokens));
        let (layers, devices) = (spec.layers(), self.devices.clamp(1, spec.layers().max(1)));
        let layer = cost::layer_weights(spec) * number;
        let rest = cost::weights(spec) * number - layers as u64 * layer;
        let dealt = layers.div_ceil(devices);
        let (here, weights_moved) = match self.weights {
            Residence::Device => (dealt, 0),
            Residence::Host => (dealt.min(STREAMED), layers as u64 * layer / self.together as u64),
        };
        let (row, candidates) = ((spec.hidden * dtype.bytes()) as u64, self.together as u64);
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
            weights: rest + here as u64 * layer,
            hidden_states,
            keys_values: (tokens * 2 * spec.key_width()) as u64 * number,
            buffers: cost::chunk_buffers(spec, dtype, chunk) + tables,
            host: waiting + (tokens * size_of::<u32>()) as u64,
            moved: weights_moved + hidden_moved,
        }
    }

    /// The longest document that fits into `limit` bytes of each device when the weights lie where they do here.
    pub fn longest(&self, load: Load<'_>, limit: u64) -> usize {
        let fits = |tokens| Self::choose(Load { tokens, ..load }, limit, self.devices, Some(self.weights)).is_ok();
        cost::longest(fits)
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
