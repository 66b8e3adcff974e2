//! The losses: final norm, output head and cross-entropy, of a chunk at a time.

use super::Stop;
use super::station::Station;
use crate::cost::VOCABULARY_BLOCK;
use crate::counted::Counted;
use crate::model::{Model, Workspace};
use crate::ops::cross_entropy::CrossEntropy;
use crate::ops::linear::product;
use crate::ops::rms_norm::rms_norm;
use candle_core::{Result as Candle, Tensor};
use ropewalk_shared::outcome::Loss;

impl Station<'_> {
    /// The losses of what comes from the last layer; none of a candidate that is out.
    pub fn head(&mut self, step: &mut dyn FnMut(usize) -> Result<bool, Stop>) -> Result<Vec<Option<Counted>>, Stop> {
        let (route, last) = (self.route, self.route.layers());
        let tokens = route.counted() as u64;
        let mut all = vec![Some(Counted { loss: Loss { nll_sum: 0.0, tokens }, correct: 0 }); route.candidates.len()];
        for (candidate, counted) in all.iter_mut().enumerate() {
            for chunk in route.chunks_at(last) {
                let passing = self.inbox.next(route, [last, candidate, chunk])?;
                let wanted = step(candidate)?;
                let (targets, here) = (route.targets(chunk), passing.filter(|_| wanted));
                *counted =
                    counted.zip(here).map(|(so_far, here)| self.add(so_far, &here.states, targets)).transpose()?;
            }
        }
        Ok(all)
    }

    fn add(&self, so_far: Counted, states: &Tensor, targets: &[u32]) -> Result<Counted, Stop> {
        if targets.is_empty() {
            return Ok(so_far);
        }
        let (model, workspace) = (self.route.model, &self.workspace);
        let added = self.route.compute(|| cross_entropy(model, workspace, states, targets));
        let added = added.map_err(|error| self.route.failed(error))?;
        let (correct, nll) = (added.correct(), added.finish());
        let loss = Loss { nll_sum: so_far.loss.nll_sum + nll, ..so_far.loss };
        Ok(Counted { loss, correct: so_far.correct + correct })
    }
}

/// Of `targets`, which the first rows of a chunk are to predict.
fn cross_entropy<'t>(
    model: &Model,
    workspace: &Workspace,
    states: &Tensor,
    targets: &'t [u32],
) -> Candle<CrossEntropy<'t>> {
    let (spec, parameters, kernels, count) = (model.spec(), model.parameters(), workspace.kernels, targets.len());
    let x = workspace.opened(&states.narrow(0, 0, count)?)?;
    let x = rms_norm(kernels, &x, &parameters.norm, spec.norm_eps, workspace.normed(count)?)?;
    let mut loss = CrossEntropy::new(targets);
    for first in (0..spec.vocab).step_by(VOCABULARY_BLOCK) {
        let width = VOCABULARY_BLOCK.min(spec.vocab - first);
        let weight = parameters.head.narrow(0, first, width)?;
        let logits = product(kernels, &x, &weight, workspace.logits(count, width)?)?;
        loss.add(kernels, &logits, first)?;
    }
    Ok(loss)
}
