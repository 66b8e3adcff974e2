//! The losses: final norm, output head and cross-entropy, of a chunk at a time.

use super::Stop;
use super::station::Station;
use crate::cost::VOCABULARY_BLOCK;
use crate::counted::Counted;
use crate::model::{Model, Workspace};
use crate::ops::losses::Losses;
use crate::ops::rms_norm::rms_norm;
use candle_core::{Result as Candle, Tensor};
use ropewalk_shared::outcome::Loss;

impl Station<'_> {
    /// The losses of what comes from the last layer; none of a candidate that is out.
    pub fn head(&mut self, step: &mut dyn FnMut(usize) -> Result<bool, Stop>) -> Result<Vec<Option<Counted>>, Stop> {
        let (route, last) = (self.route, self.route.layers());
        let none_yet = || Losses::new(self.workspace.kernels, route.model.device(), route.chunks_at(last).len());
        let all = route.candidates.iter().map(|_| none_yet().map(Some)).collect::<Candle<Vec<_>>>();
        let mut all = all.map_err(|error| route.failed(error))?;
        for (candidate, losses) in all.iter_mut().enumerate() {
            for chunk in route.chunks_at(last) {
                let passing = self.inbox.next(route, [last, candidate, chunk])?;
                let wanted = step(candidate)?;
                match (losses.as_mut(), passing.filter(|_| wanted)) {
                    (Some(losses), Some(here)) => self.add(losses, &here.states, route.targets(chunk))?,
                    _ => *losses = None,
                }
            }
        }
        all.into_iter().map(|losses| losses.map(|losses| self.counted(&losses)).transpose()).collect()
    }

    fn add(&self, losses: &mut Losses, states: &Tensor, targets: &[u32]) -> Result<(), Stop> {
        if targets.is_empty() {
            return Ok(());
        }
        let (model, workspace) = (self.route.model, &self.workspace);
        let added = self.route.compute(|| cross_entropy(model, workspace, states, targets, losses));
        added.map_err(|error| self.route.failed(error))
    }

    fn counted(&self, losses: &Losses) -> Result<Counted, Stop> {
        let (nll_sum, correct) = losses.total().map_err(|error| self.route.failed(error))?;
        Ok(Counted { loss: Loss { nll_sum, tokens: self.route.counted() as u64 }, correct })
    }
}

/// Adds the losses of `targets`, which the first rows of a chunk are to predict.
fn cross_entropy(
    model: &Model,
    workspace: &Workspace,
    states: &Tensor,
    targets: &[u32],
    losses: &mut Losses,
) -> Candle<()> {
    let (spec, parameters, kernels, count) = (model.spec(), model.parameters(), workspace.kernels, targets.len());
    let x = workspace.opened(&states.narrow(0, 0, count)?)?;
    let x = rms_norm(kernels, &x, &parameters.norm, spec.norm_eps, workspace.normed(count)?)?;
    let mut rows = losses.rows(targets)?;
    for first in (0..spec.vocab).step_by(VOCABULARY_BLOCK) {
        let width = VOCABULARY_BLOCK.min(spec.vocab - first);
        let logits = parameters.logits(kernels, &x, (first, width), workspace.logits(count, width)?)?;
        rows.add(kernels, &logits, first)?;
    }
    losses.take(rows)
}
