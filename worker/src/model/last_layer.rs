//! The last layer where only some positions' losses count: its keys and values are needed of every token, all else of
//! the counted rows alone.

use super::Layer;
use super::config::DecoderSpec;
use super::decoder::Workspace;
use super::key_values::KeyValues;
use crate::ops::rms_norm::rms_norm;
use crate::ops::rotate::rotate;
use candle_core::{Result, Tensor};

impl Layer {
    /// As [`Layer::forward`], of the rows from `skip` on; none when there are none, and then keys and values are all
    /// that is computed.
    pub fn forward_from(
        &self,
        spec: &DecoderSpec,
        x: Tensor,
        (cos, sin): (&Tensor, &Tensor),
        skip: usize,
        cache: &mut KeyValues,
        workspace: &Workspace,
    ) -> Result<Option<Tensor>> {
        if skip == 0 {
            return self.forward(spec, x, (cos, sin), cache, workspace).map(Some);
        }
        let (kernels, tokens) = (workspace.kernels, x.dim(0)?);
        let (queries, keys) = (spec.query_width(), spec.key_width());
        let buffer = workspace.qkv(tokens)?;
        let normed = rms_norm(kernels, &x, &self.input_norm, spec.norm_eps, workspace.normed(tokens)?)?;

        let out = buffer.as_ref().map(|qkv| qkv.narrow(1, queries, 2 * keys)).transpose()?;
        let kv = self.qkv.outputs(queries, 2 * keys)?.forward(kernels, &normed, out)?;
        let k = rotate(kernels, kv.narrow(1, 0, keys)?, spec.head_dim, (cos, sin), self.key_norm.as_ref())?;
        cache.append(kernels, &k, &kv.narrow(1, keys, keys)?)?;
        let count = tokens.saturating_sub(skip);
        if count == 0 {
            return Ok(None);
        }

        let rows = |all: &Tensor| all.narrow(0, skip, count);
        let out = buffer.as_ref().map(|qkv| rows(qkv)?.narrow(1, 0, queries)).transpose()?;
        let q = self.qkv.outputs(0, queries)?.forward(kernels, &rows(&normed)?, out)?;
        let q = rotate(kernels, q, spec.head_dim, (&rows(cos)?, &rows(sin)?), self.query_norm.as_ref())?;
        // The queries are the last ones of the keys so far, as attention takes them to be.
        let attended = cache.attend(kernels, self.attention_shape(spec), q)?;
        let x = self.output.add_to(kernels, rows(&x)?, &attended)?;
        self.feed_forward(spec, x, workspace).map(Some)
    }
}
