//! One layer backwards.

use super::candidate::CandidateGradient;
use super::forward::{Attended, Kept};
use super::projected::Projected;
use super::steps::{Step, Steps, Stop};
use super::weights::WeightGradients;
use crate::attention::cpu::attention_with_log_sums;
use crate::attention::cpu::backward::{Saved, Wanted, attention_backward, dot_heads};
use crate::cancel::CancelFlag;
use crate::model::{KeyValues, Layer, Model, Pass};
use crate::ops::Kernels;
use crate::ops::add::add;
use crate::ops::rms_norm::backward::rms_norm_backward;
use crate::ops::rms_norm::rms_norm;
use crate::ops::rotate::backward::Turning;
use crate::ops::rotate::rotate;
use crate::ops::silu_mul::backward::silu_mul_backward;
use crate::ops::silu_mul::silu_mul_to;
use crate::rope_table::{RopeTable, Rotation};
use candle_core::{DType, Result, Tensor};
use std::borrow::Cow;

/// What is collected on the way.
pub(super) struct Sinks<'a> {
    /// Derivatives of the candidate's numbers.
    pub candidate: Option<&'a mut CandidateGradient>,
    /// Derivatives of weights: wherever a projection or norm is taken backwards, what went into it is at hand beside the
    /// gradient of what came out.
    pub weights: Option<&'a WeightGradients>,
}

/// Carries the gradient through layers, the last of them first.
pub(super) struct LayerBackward<'m> {
    model: &'m Model,
    chunk: usize,
    /// Gradients with respect to the hidden states after the layer, then before it; `(tokens, hidden)` in chunks.
    grads: Vec<Tensor>,
    cache: KeyValues,
    /// Rotated queries and keys, and values.
    projected: Projected,
    /// Their gradients; in the place of the queries' first those of the attention's result.
    grad_projected: Projected,
    sums: Sums,
    buffers: Buffers,
}

/// For each head and token, `(heads, tokens)`: see [`Saved`].
struct Sums {
    log_sums: Vec<f32>,
    dots: Vec<f32>,
}

/// Room for a chunk, written over and over.
struct Buffers {
    normed: Tensor,
    grad_normed: Tensor,
    gate_up: Tensor,
    grad_gated: Tensor,
}

impl<'m> LayerBackward<'m> {
    /// Starts behind the last layer, with the gradients in the place of the hidden states of `pass`.
    pub fn new(model: &'m Model, chunk: usize, pass: Pass<'m>) -> Result<Self> {
        let (spec, device, grads, cache) = (model.spec(), model.device(), pass.chunks, pass.cache);
        let tokens = grads.iter().map(|chunk| chunk.dim(0)).sum::<Result<usize>>()?;
        let buffer = |width: usize| Tensor::zeros((chunk, width), DType::F32, device);
        let zeros = || vec![0.0; spec.heads * tokens];
        Ok(Self {
            model,
            chunk,
            grads,
            cache,
            projected: Projected::zeros(spec, tokens, device)?,
            grad_projected: Projected::zeros(spec, tokens, device)?,
            sums: Sums { log_sums: zeros(), dots: zeros() },
            buffers: Buffers {
                normed: buffer(spec.hidden)?,
                grad_normed: buffer(spec.hidden)?,
                gate_up: buffer(2 * spec.intermediate)?,
                grad_gated: buffer(spec.intermediate)?,
            },
        })
    }

    /// Carries the gradient from behind layer `index` to before it. Of the first layer, where weights are not asked for,
    /// only what the candidate has a part in is computed: nothing before its rotation depends on it.
    pub fn run(
        &mut self,
        index: usize,
        kept: Kept,
        table: &mut RopeTable,
        sinks: &mut Sinks<'_>,
        steps: &mut Steps<'_>,
    ) -> std::result::Result<(), Stop> {
        let layer = &self.model.parameters().layers[index];
        let (weights, ends) = (sinks.weights, index == 0 && sinks.weights.is_none());
        self.cache.clear();
        for (chunk, x) in kept.inputs.iter().enumerate() {
            steps.next(Step::FeedForward)?;
            let kept = kept.attended.as_ref().map(|all| &all[chunk]);
            let attended = self.attention_result(layer, x, kept, chunk, &table.rotation(chunk)?)?;
            self.feed_forward(layer, x, &attended, chunk, weights)?;
        }
        steps.next(Step::Attention)?;
        let wanted = if ends { Wanted::KeysOnly } else { Wanted::KeysAndValues };
        self.attention(layer, wanted, steps.cancel())?;
        // Stopped in the middle of it, its gradients are not complete.
        steps.check()?;
        for (chunk, x) in kept.inputs.iter().enumerate() {
            steps.next(Step::Projection)?;
            if let Some(candidate) = &mut sinks.candidate {
                self.rotation(chunk, candidate)?;
            }
            if !ends {
                self.projection(layer, x, chunk, &table.rotation(chunk)?, weights)?;
            }
        }
        Ok(())
    }

    /// Queries, keys and values of a chunk, and the result of its attention: `kept` from the forward pass, or again.
    fn attention_result(
        &mut self,
        layer: &Layer,
        x: &Tensor,
        kept: Option<&Attended>,
        chunk: usize,
        (cos, sin): &Rotation,
    ) -> Result<Tensor> {
        let (spec, rows) = (self.model.spec(), x.dim(0)?);
        let projected = self.projected.rows(chunk * self.chunk, rows)?;
        let (normed, out) = (self.buffers.normed.narrow(0, 0, rows)?, projected.all().clone());
        let [q, k, v] = layer.project(Kernels::Cpu, spec, x, (cos, sin), Some(normed), Some(out))?;
        self.cache.append(Kernels::Cpu, &k, &v)?;
        let (keys, values) = self.cache.all()?;
        let (out, log_sums) = match kept {
            Some(kept) => (kept.out.clone(), Cow::Borrowed(&kept.log_sums)),
            None => {
                let out = q.force_contiguous()?;
                let log_sums = attention_with_log_sums(layer.attention_shape(spec), &out, &keys, &values)?;
                (out, Cow::Owned(log_sums))
            }
        };
        let heads = self.sums.log_sums.chunks_exact_mut(self.sums.dots.len() / spec.heads);
        for (all, part) in heads.zip(log_sums.chunks_exact(rows)) {
            all[chunk * self.chunk..][..rows].copy_from_slice(part);
        }
        Ok(out)
    }

    /// The feed-forward block and the attention's projection backwards, after running them again.
    fn feed_forward(
        &mut self,
        layer: &Layer,
        x: &Tensor,
        attended: &Tensor,
        chunk: usize,
        weights: Option<&WeightGradients>,
    ) -> Result<()> {
        let (spec, rows, first) = (self.model.spec(), x.dim(0)?, chunk * self.chunk);
        let buffer = |buffer: &Tensor| buffer.narrow(0, 0, rows);
        let (normed, gate_up) = (buffer(&self.buffers.normed)?, buffer(&self.buffers.gate_up)?);
        let x = layer.output.add_to(Kernels::Cpu, x.force_contiguous()?, attended)?;
        let normed = rms_norm(Kernels::Cpu, &x, &layer.mlp_norm, spec.norm_eps, Some(normed))?;
        let gate_up = layer.gate_up.forward(Kernels::Cpu, &normed, Some(gate_up))?;

        let (grad_gated, grad_normed) = (buffer(&self.buffers.grad_gated)?, buffer(&self.buffers.grad_normed)?);
        if let Some(weights) = weights {
            // In the place of its gradient, which comes next.
            silu_mul_to(&gate_up, &grad_gated)?;
            weights.linear(&layer.down, &self.grads[chunk], &grad_gated)?;
        }
        layer.down.backward(&self.grads[chunk], &grad_gated)?;
        silu_mul_backward(&gate_up, &grad_gated)?;
        layer.gate_up.backward(&gate_up, &grad_normed)?;
        if let Some(weights) = weights {
            weights.linear(&layer.gate_up, &gate_up, &normed)?;
            weights.norm(&layer.mlp_norm, spec.norm_eps, &grad_normed, &x)?;
        }
        rms_norm_backward(&grad_normed, &x, &layer.mlp_norm, spec.norm_eps)?;
        add(&self.grads[chunk], &grad_normed)?;

        let grad_attended = self.grad_projected.rows(first, rows)?.queries()?;
        layer.output.backward(&self.grads[chunk], &grad_attended)?;
        if let Some(weights) = weights {
            weights.linear(&layer.output, &self.grads[chunk], attended)?;
        }
        dot_heads(&layer.attention_shape(spec), attended, &grad_attended, &mut self.sums.dots, first)
    }

    /// The gradients with respect to the hidden states before the layer that was run last, in chunks.
    pub fn into_grads(self) -> Vec<Tensor> {
        self.grads
    }

    /// The attention of all chunks backwards.
    fn attention(&self, layer: &Layer, wanted: Wanted, cancel: &CancelFlag) -> Result<()> {
        let (shape, grad) = (layer.attention_shape(self.model.spec()), &self.grad_projected);
        let (keys, values) = self.cache.all()?;
        let saved = Saved { log_sums: &self.sums.log_sums, dots: &self.sums.dots };
        let qkv = [&self.projected.queries()?, &keys, &values];
        let key_grads = attention_backward(shape, qkv, saved, &grad.queries()?, wanted, cancel)?;
        key_grads.write_keys(&grad.keys()?)?;
        match wanted {
            Wanted::KeysOnly => Ok(()),
            Wanted::KeysAndValues => key_grads.write_values(&grad.values()?),
        }
    }

    /// What the rotation of a chunk tells about the candidate.
    fn rotation(&self, chunk: usize, candidate: &mut CandidateGradient) -> Result<()> {
        let (spec, first, rows) = (self.model.spec(), chunk * self.chunk, self.grads[chunk].dim(0)?);
        let (rotated, grad) = (self.projected.rows(first, rows)?, self.grad_projected.rows(first, rows)?);
        let mut turning = Turning::new(rows, spec.rotary_dim / 2);
        turning.add(&rotated.queries()?, &grad.queries()?, spec.head_dim)?;
        turning.add(&rotated.keys()?, &grad.keys()?, spec.head_dim)?;
        candidate.add(first as u64, &turning);
        Ok(())
    }

    /// Rotation, projection and first norm of a chunk backwards.
    fn projection(
        &mut self,
        layer: &Layer,
        x: &Tensor,
        chunk: usize,
        (cos, sin): &Rotation,
        weights: Option<&WeightGradients>,
    ) -> Result<()> {
        let (spec, first, rows) = (self.model.spec(), chunk * self.chunk, x.dim(0)?);
        let grad = self.grad_projected.rows(first, rows)?;
        let back = (cos, &sin.neg()?);
        rotate(Kernels::Cpu, grad.queries()?, spec.head_dim, back, None)?;
        rotate(Kernels::Cpu, grad.keys()?, spec.head_dim, back, None)?;

        let head_norms = layer.query_norm.as_ref().zip(layer.key_norm.as_ref());
        let normed = self.buffers.normed.narrow(0, 0, rows)?;
        if weights.is_some() || head_norms.is_some() {
            rms_norm(Kernels::Cpu, x, &layer.input_norm, spec.norm_eps, Some(normed.clone()))?;
        }
        if let Some((query_norm, key_norm)) = head_norms {
            // What went into these norms was overwritten by what came out.
            let raw = self.projected.rows(first, rows)?;
            layer.qkv.forward(Kernels::Cpu, &normed, Some(raw.all().clone()))?;
            if let Some(weights) = weights {
                weights.norm(&query_norm.weight, query_norm.eps, &grad.queries()?, &raw.queries()?)?;
                weights.norm(&key_norm.weight, key_norm.eps, &grad.keys()?, &raw.keys()?)?;
            }
            rms_norm_backward(&grad.queries()?, &raw.queries()?, &query_norm.weight, query_norm.eps)?;
            rms_norm_backward(&grad.keys()?, &raw.keys()?, &key_norm.weight, key_norm.eps)?;
        }
        let grad_normed = self.buffers.grad_normed.narrow(0, 0, rows)?;
        layer.qkv.backward(grad.all(), &grad_normed)?;
        if let Some(weights) = weights {
            weights.linear(&layer.qkv, grad.all(), &normed)?;
            weights.norm(&layer.input_norm, spec.norm_eps, &grad_normed, x)?;
        }
        rms_norm_backward(&grad_normed, x, &layer.input_norm, spec.norm_eps)?;
        add(&self.grads[chunk], &grad_normed)
    }
}
