//! One layer of the decoder, over one chunk of tokens.

use super::config::DecoderSpec;
use super::decoder::Workspace;
use super::key_values::KeyValues;
use crate::attention::AttentionShape;
use crate::first_layer::Share;
use crate::ledger;
use crate::ops::Kernels;
use crate::ops::linear::Linear;
use crate::ops::linear::gated::add_gated;
use crate::ops::rms_norm::rms_norm;
use crate::ops::rotate::{HeadNorm, rotate};
use crate::ops::silu_mul::silu_mul;
use candle_core::{Result, Tensor};

/// Weights of a layer.
#[derive(Debug)]
pub(crate) struct Layer {
    pub input_norm: Tensor,
    /// Rows: queries, keys, values.
    pub qkv: Linear,
    pub query_norm: Option<HeadNorm>,
    pub key_norm: Option<HeadNorm>,
    pub output: Linear,
    pub mlp_norm: Tensor,
    /// Rows: gate, up.
    pub gate_up: Linear,
    pub down: Linear,
    pub window: Option<usize>,
}

impl Layer {
    /// `x + attention(norm(x))`, then `x + mlp(norm(x))`, for the chunk `x` of `(tokens, hidden)`.
    ///
    /// Appends the chunk's keys and values to `cache`, which must hold those of all tokens before it. `rotation` holds
    /// cosines and sines, `(tokens, pairs)`. On the CPU `x` is overwritten and returned.
    pub fn forward(
        &self,
        spec: &DecoderSpec,
        x: Tensor,
        rotation: (&Tensor, &Tensor),
        cache: &mut KeyValues,
        workspace: &Workspace,
    ) -> Result<Tensor> {
        let (kernels, tokens) = (workspace.kernels, x.dim(0)?);
        let (normed, qkv) = (workspace.normed(tokens)?, workspace.qkv(tokens)?);
        let qkv = self.unrotated(kernels, spec, &x, normed, qkv)?;
        self.forward_rotating(spec, x, &qkv, rotation, cache, workspace)
    }

    /// The same from [`Self::unrotated`] on; on the CPU `qkv` is overwritten too.
    pub fn forward_rotating(
        &self,
        spec: &DecoderSpec,
        x: Tensor,
        qkv: &Tensor,
        rotation: (&Tensor, &Tensor),
        cache: &mut KeyValues,
        workspace: &Workspace,
    ) -> Result<Tensor> {
        let kernels = workspace.kernels;
        let [q, k, v] = self.rotated(kernels, spec, qkv, rotation)?;
        cache.append(kernels, &k, &v)?;
        let attended = cache.attend(kernels, self.attention_shape(spec), q)?;
        let x = self.output.add_to(kernels, x, &attended)?;
        self.feed_forward(spec, x, workspace)
    }

    /// The same of a chunk of the first layer, with what an earlier candidate's evaluation has left of it.
    pub fn forward_sharing(
        &self,
        spec: &DecoderSpec,
        (x, chunk): (Tensor, usize),
        rotation: (&Tensor, &Tensor),
        cache: &mut KeyValues,
        workspace: &Workspace,
        share: &mut Share<'_>,
    ) -> Result<Tensor> {
        let (kernels, tokens) = (workspace.kernels, x.dim(0)?);
        let (normed, room) = (workspace.normed(tokens)?, workspace.qkv(tokens)?);
        let qkv = match (share.rows(chunk), room) {
            (Some(kept), Some(room)) => {
                // A copy: the rotation overwrites it.
                room.slice_set(kept, 0, 0)?;
                room
            }
            (Some(kept), None) => kept.clone(),
            (None, room) => {
                let made = self.unrotated(kernels, spec, &x, normed, room)?;
                share.offer(chunk, &made)?;
                made
            }
        };
        self.forward_rotating(spec, x, &qkv, rotation, cache, workspace)
    }

    /// Rotated queries, rotated keys, and values of the chunk `x`: on the CPU views of `qkv`, into which they are
    /// written, by way of `normed`.
    pub fn project(
        &self,
        kernels: Kernels,
        spec: &DecoderSpec,
        x: &Tensor,
        rotation: (&Tensor, &Tensor),
        normed: Option<Tensor>,
        qkv: Option<Tensor>,
    ) -> Result<[Tensor; 3]> {
        let qkv = self.unrotated(kernels, spec, x, normed, qkv)?;
        self.rotated(kernels, spec, &qkv, rotation)
    }

    /// Queries, keys and values of the chunk `x` side by side, `(tokens, query width + 2 key widths)`, before anything
    /// depends on positions.
    pub fn unrotated(
        &self,
        kernels: Kernels,
        spec: &DecoderSpec,
        x: &Tensor,
        normed: Option<Tensor>,
        qkv: Option<Tensor>,
    ) -> Result<Tensor> {
        let normed = rms_norm(kernels, x, &self.input_norm, spec.norm_eps, normed)?;
        self.qkv.forward(kernels, &normed, qkv)
    }

    fn rotated(
        &self,
        kernels: Kernels,
        spec: &DecoderSpec,
        qkv: &Tensor,
        rotation: (&Tensor, &Tensor),
    ) -> Result<[Tensor; 3]> {
        let (queries, keys) = (spec.query_width(), spec.key_width());
        let part = |start, width| qkv.narrow(1, start, width);
        let q = rotate(kernels, part(0, queries)?, spec.head_dim, rotation, self.query_norm.as_ref())?;
        let k = rotate(kernels, part(queries, keys)?, spec.head_dim, rotation, self.key_norm.as_ref())?;
        Ok([q, k, part(queries + keys, keys)?])
    }

    /// `x + mlp(norm(x))`; on the CPU `x` is overwritten and returned.
    pub fn feed_forward(&self, spec: &DecoderSpec, x: Tensor, workspace: &Workspace) -> Result<Tensor> {
        let (kernels, tokens) = (workspace.kernels, x.dim(0)?);
        let normed = rms_norm(kernels, &x, &self.mlp_norm, spec.norm_eps, workspace.normed(tokens)?)?;
        if kernels == Kernels::Cpu
            && let Some(x) = add_gated(&self.gate_up, &self.down, &x, &normed)?
        {
            return Ok(x);
        }
        let gate_up = self.gate_up.forward(kernels, &normed, workspace.gate_up(tokens)?)?;
        self.down.add_to(kernels, x, &silu_mul(kernels, gate_up)?)
    }

    /// Bytes of its weights.
    pub fn bytes(&self) -> u64 {
        let linears = [&self.qkv, &self.output, &self.gate_up, &self.down].map(Linear::bytes);
        let head_norms = [&self.query_norm, &self.key_norm].into_iter().flatten().map(|norm| &norm.weight);
        let norms = [&self.input_norm, &self.mlp_norm].into_iter().chain(head_norms);
        linears.into_iter().sum::<u64>() + norms.map(ledger::bytes).sum::<u64>()
    }

    /// The attention of this layer.
    pub fn attention_shape(&self, spec: &DecoderSpec) -> AttentionShape {
        AttentionShape { heads: spec.heads, kv_heads: spec.kv_heads, head_dim: spec.head_dim, window: self.window }
    }
}
