//! One device's part: its layers over all chunks of all candidates.

use super::inbox::{Chunk, Inbox, Outbox};
use super::weights::Weights;
use super::{Route, Stop};
use crate::first_layer::Share;
use crate::ledger::Held;
use crate::model::{KeyValues, Layer, Workspace};
use crate::rope_table::RopeTable;
use candle_core::{Result as Candle, Tensor};
use std::thread::Scope;

/// A device with what it needs for one layer at a time.
pub(super) struct Station<'r> {
    pub route: &'r Route<'r>,
    number: usize,
    pub inbox: Inbox,
    cache: KeyValues,
    pub workspace: Workspace,
    /// One for each candidate.
    tables: Vec<RopeTable>,
    _held: Held,
}

impl<'r> Station<'r> {
    pub fn new(route: &'r Route<'r>, number: usize, inbox: Inbox) -> Result<Self, Stop> {
        let (model, tokens) = (route.model, route.tokens.len());
        let device = &model.devices()[number];
        let failed = |error| route.failed(error);
        let cache = KeyValues::new(model, device, tokens).map_err(failed)?;
        let workspace = Workspace::on(device, model, route.chunk.min(tokens)).map_err(failed)?;
        let table = |rule: &_| RopeTable::new(Clone::clone(rule), tokens, route.chunk, device);
        let tables: Vec<_> = route.candidates.iter().map(|(rule, _)| table(rule)).collect();
        let bytes = cache.bytes() + workspace.bytes() + tables.iter().map(RopeTable::bytes).sum::<u64>();
        let held = model.ledgers()[number].hold(bytes);
        Ok(Self { route, number, inbox, cache, workspace, tables, _held: held })
    }

    /// Runs its layers. `step` is asked before each chunk whether its candidate is still wanted.
    pub fn layers<'scope>(
        &mut self,
        outbox: Outbox<'_>,
        share: &mut Share<'_>,
        step: &mut dyn FnMut(usize) -> Result<bool, Stop>,
        scope: &'scope Scope<'scope, '_>,
    ) -> Result<(), Stop>
    where
        'r: 'scope,
    {
        let route = self.route;
        let mut weights = Weights::new(route, self.number, scope);
        for index in route.layers_of(self.number) {
            let layer = weights.next()?;
            for candidate in 0..route.candidates.len() {
                self.cache.clear();
                for chunk in route.chunks_at(index) {
                    let passing = self.inbox.next(route, [index, candidate, chunk])?;
                    let wanted = step(candidate)?;
                    let passing = match passing.filter(|_| wanted) {
                        Some(Chunk { states, held }) => {
                            let states =
                                route.compute(|| self.advance((&layer, index), (candidate, chunk), states, share));
                            states.map_err(|error| route.failed(error))?.map(|states| Chunk { states, held })
                        }
                        None => None,
                    };
                    if route.chunks_at(index + 1).contains(&chunk) {
                        outbox.send(index, passing)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// A chunk's hidden states after a layer; of the last one those that count, if any do.
    fn advance(
        &mut self,
        (layer, index): (&Layer, usize),
        (candidate, chunk): (usize, usize),
        kept: Tensor,
        share: &mut Share<'_>,
    ) -> Candle<Option<Tensor>> {
        let spec = self.route.model.spec();
        let (cos, sin) = self.tables[candidate].rotation(chunk)?;
        let (rotation, cache, workspace) = ((&cos, &sin), &mut self.cache, &self.workspace);
        let (x, skip) = (workspace.opened(&kept)?, self.route.skip(index, chunk));
        let x = match skip {
            0 if index == 0 => layer.forward_sharing(spec, (x, chunk), rotation, cache, workspace, share).map(Some),
            0 => layer.forward(spec, x, rotation, cache, workspace).map(Some),
            skip => layer.forward_from(spec, x, rotation, skip, cache, workspace),
        };
        let Some(x) = x? else { return Ok(None) };
        workspace.kept(x, &kept.narrow(0, skip, kept.dim(0)? - skip)?).map(Some)
    }
}
