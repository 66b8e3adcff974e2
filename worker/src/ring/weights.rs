//! The layers of a station, one after the other; where they are streamed, the next is read while one is in use.

use super::{Route, Stop};
use crate::model::{LayerHere, LoadError};
use crate::perplexity::EvalError;
use crate::placement::Residence;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::Scope;

/// Hands over the layers in order. One that is streamed is gone when it is dropped, which must be before the next is
/// asked for.
pub(super) struct Weights<'r> {
    route: &'r Route<'r>,
    layers: Layers<'r>,
}

enum Layers<'r> {
    Resident(Box<dyn Iterator<Item = usize> + Send + 'r>),
    Ahead(Receiver<Result<LayerHere<'r>, LoadError>>),
}

impl<'r> Weights<'r> {
    pub fn new<'scope>(route: &'r Route<'r>, station: usize, scope: &'scope Scope<'scope, '_>) -> Self
    where
        'r: 'scope,
    {
        let mut layers = route.layers_of(station);
        if route.model.weights() == Residence::Device {
            return Self { route, layers: Layers::Resident(Box::new(layers)) };
        }
        // Nobody takes what is sent before asking for it, so one layer is in use and one ready, or on its way.
        let (to, from) = sync_channel(0);
        scope.spawn(move || layers.try_for_each(|layer| to.send(route.model.layer(layer)).ok()));
        Self { route, layers: Layers::Ahead(from) }
    }

    /// The next layer.
    pub fn next(&mut self) -> Result<LayerHere<'r>, Stop> {
        let layer = match &mut self.layers {
            Layers::Resident(next) => next.next().map(|layer| self.route.model.layer(layer)),
            Layers::Ahead(from) => from.recv().ok(),
        };
        layer.ok_or(Stop::Gone)?.map_err(|error| match error {
            // There was no room for it, or the device failed: the files are as they were.
            LoadError::Placement { source, .. } => self.route.failed(*source),
            error => EvalError::Weights(error.into()).into(),
        })
    }
}
