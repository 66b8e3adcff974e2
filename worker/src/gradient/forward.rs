//! The forward pass of a gradient: that of an evaluation, which leaves behind what the way back needs.

use super::steps::{Step, Steps, Stop};
use crate::attention::cpu::attention_with_log_sums;
use crate::model::{Model, Pass};
use crate::rope_table::RopeTable;
use candle_core::{Result, Tensor};

/// What is left of a layer.
pub(super) struct Kept {
    /// Hidden states that went into it, `(tokens, hidden)`, one tensor per chunk.
    pub inputs: Vec<Tensor>,
    /// Results of its attention, one per chunk; computed again where they would take too much memory.
    pub attended: Option<Vec<Attended>>,
}

/// The attention's result for a chunk.
pub(super) struct Attended {
    /// `(tokens, heads * head_dim)`.
    pub out: Tensor,
    /// `(heads, tokens)`.
    pub log_sums: Vec<f32>,
}

/// Runs all layers over all chunks; the hidden states of the pass are then those that go into the final norm.
pub(super) fn run(
    model: &Model,
    pass: &mut Pass<'_>,
    table: &mut RopeTable,
    keep_attended: bool,
    steps: &mut Steps<'_>,
) -> std::result::Result<Vec<Kept>, Stop> {
    let mut layers = Vec::with_capacity(model.spec().layers());
    for layer in 0..model.spec().layers() {
        let mut kept = Kept { inputs: Vec::new(), attended: keep_attended.then(Vec::new) };
        for chunk in 0..pass.chunks() {
            steps.next(Step::Forward)?;
            let (cos, sin) = table.rotation(chunk)?;
            // A copy: the layer overwrites what it is given.
            kept.inputs.push(pass.chunks[chunk].force_contiguous()?);
            match &mut kept.attended {
                Some(attended) => attended.push(advance(model, pass, layer, chunk, (&cos, &sin))?),
                None => pass.advance(layer, chunk, (&cos, &sin))?,
            }
        }
        layers.push(kept);
    }
    Ok(layers)
}

/// As [`Pass::advance`], and returns a copy of the attention's result.
fn advance(
    model: &Model,
    pass: &mut Pass<'_>,
    layer: usize,
    chunk: usize,
    rotation: (&Tensor, &Tensor),
) -> Result<Attended> {
    let (spec, layer, kernels) = (model.spec(), &model.parameters().layers[layer], model.kernels());
    if chunk == 0 {
        pass.cache.clear();
    }
    let x = pass.chunks[chunk].clone();
    let (normed, qkv) = (pass.workspace.normed(x.dim(0)?)?, pass.workspace.qkv(x.dim(0)?)?);
    let [q, k, v] = layer.project(kernels, spec, &x, rotation, normed, qkv)?;
    pass.cache.append(kernels, &k, &v)?;
    let (k, v) = pass.cache.all()?;
    let log_sums = attention_with_log_sums(layer.attention_shape(spec), &q, &k, &v)?;
    let x = layer.output.add_to(kernels, x, &q)?;
    pass.chunks[chunk] = layer.feed_forward(spec, x, &pass.workspace)?;
    Ok(Attended { out: q.force_contiguous()?, log_sums })
}
