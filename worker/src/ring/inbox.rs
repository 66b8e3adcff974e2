//! Chunks between stations: where they wait, and how they come to a device and leave it.

use super::{Route, Stop};
use crate::ledger::{self, Held};
use crate::placement::Residence;
use candle_core::{Device, Module as _, Result as Candle, Tensor};
use std::sync::mpsc::{Receiver, Sender, sync_channel};
use std::thread::Scope;

/// Hidden states of a chunk, `(tokens, hidden)`, in the memory that `held` is of.
pub(super) struct Chunk {
    pub states: Tensor,
    pub held: Held,
}

/// A chunk, or none of a candidate that is out.
pub(super) type Passing = Option<Chunk>;

/// What comes to a station, in the order of [`Route::visits`].
pub(super) enum Inbox {
    /// From where it waits on the device.
    Direct(Sources),
    /// Fetched to the device by a thread of its own: one chunk in use, and one ready, or on its way.
    Ahead(Receiver<Result<Passing, Stop>>),
}

/// From the station before; and to the first, of the last layer.
type Sources = (Receiver<Passing>, Option<Receiver<Passing>>);

/// Where a station sends its chunks.
pub(super) struct Outbox<'r> {
    route: &'r Route<'r>,
    next: Sender<Passing>,
    head: Sender<Passing>,
}

// === impl Inbox ===

impl Inbox {
    pub fn new<'scope, 'r: 'scope>(
        route: &'r Route<'r>,
        station: usize,
        sources: Sources,
        scope: &'scope Scope<'scope, '_>,
    ) -> Self {
        if route.hidden == Residence::Device {
            return Self::Direct(sources);
        }
        let (to, from) = sync_channel(0);
        scope.spawn(move || {
            for visit in route.visits(station) {
                let arrived = arrive(route, station, &sources, visit);
                let last = arrived.is_err();
                if to.send(arrived).is_err() || last {
                    return;
                }
            }
        });
        Self::Ahead(from)
    }

    /// What comes next, on the device.
    pub fn next(&self, route: &Route<'_>, visit: [usize; 3]) -> Result<Passing, Stop> {
        match self {
            // There is one device, the first.
            Self::Direct(sources) => arrive(route, 0, sources, visit),
            Self::Ahead(from) => from.recv().unwrap_or(Err(Stop::Gone)),
        }
    }
}

/// Brings a chunk to the device of a station: embedded for the first layer, else from where it waits.
fn arrive(
    route: &Route<'_>,
    station: usize,
    (layers, head): &Sources,
    [layer, candidate, chunk]: [usize; 3],
) -> Result<Passing, Stop> {
    let (model, device) = (route.model, &route.model.devices()[station]);
    if layer == 0 {
        if route.is_cancelled(candidate) {
            return Ok(None);
        }
        let ids = route.chunk_tokens(chunk);
        let bytes = ids.len() * model.spec().hidden * model.dtype().bytes();
        let held = model.ledgers()[0].hold(bytes as u64);
        let embed = || model.parameters().embedding.forward(&Tensor::from_slice(ids, ids.len(), device)?);
        return Ok(Some(Chunk { states: embed().map_err(|error| route.failed(error))?, held }));
    }
    let source = if layer == route.layers() { head.as_ref().ok_or(Stop::Gone)? } else { layers };
    let passing = source.recv().map_err(|_| Stop::Gone)?;
    let waiting = match (passing, route.hidden) {
        (Some(waiting), Residence::Host) => waiting,
        (passing, _) => return Ok(passing),
    };
    let held = model.ledgers()[station].hold(ledger::bytes(&waiting.states));
    let states = copy(&waiting.states, device).map_err(|error| route.failed(error))?;
    Ok(Some(Chunk { states, held }))
}

// === impl Outbox ===

impl<'r> Outbox<'r> {
    pub fn new(route: &'r Route<'r>, next: Sender<Passing>, head: Sender<Passing>) -> Self {
        Self { route, next, head }
    }

    /// Sends a chunk on from a layer.
    pub fn send(&self, layer: usize, passing: Passing) -> Result<(), Stop> {
        let passing = match passing {
            Some(here) if self.route.hidden == Residence::Host => {
                let held = self.route.model.host_ledger().hold(ledger::bytes(&here.states));
                let states = copy(&here.states, &Device::Cpu).map_err(|error| self.route.failed(error))?;
                Some(Chunk { states, held })
            }
            passing => passing,
        };
        let to = if layer + 1 == self.route.layers() { &self.head } else { &self.next };
        to.send(passing).map_err(|_| Stop::Gone)
    }
}

/// The same numbers in another memory; a copy also where both are the host's, as layers overwrite what they are given.
fn copy(states: &Tensor, device: &Device) -> Candle<Tensor> {
    if states.device().same_device(device) { states.force_contiguous() } else { states.contiguous()?.to_device(device) }
}
