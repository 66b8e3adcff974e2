//! Keys and values of one layer for a whole sequence.

use super::Model;
use crate::attention::cpu::tiled::TiledKeyValues;
use crate::attention::{self, AttentionShape};
use crate::ledger;
use crate::ops::Kernels;
use crate::ops::append::append;
use candle_core::{Device, Result, Tensor, bail};

/// Keys and values of one layer, appended chunk by chunk. Every layer writes over the last.
pub(crate) struct KeyValues {
    held: Held,
    filled: usize,
}

enum Held {
    /// `(kv_heads, tokens, head_dim)` each.
    Plain { keys: Tensor, values: Tensor },
    /// As a matrix unit reads them.
    Tiled(TiledKeyValues),
}

impl KeyValues {
    /// Room for `tokens` tokens on one of the model's devices.
    pub fn new(model: &Model, device: &Device, tokens: usize) -> Result<Self> {
        let spec = &model.spec;
        let held = if let Some((unit, parts)) = model.tiles {
            Held::Tiled(TiledKeyValues::new(unit, spec.kv_heads, spec.head_dim, tokens, parts))
        } else {
            let shape = (spec.kv_heads, tokens, spec.head_dim);
            let zeros = || Tensor::zeros(shape, model.dtype.to_candle(), device);
            Held::Plain { keys: zeros()?, values: zeros()? }
        };
        Ok(Self { held, filled: 0 })
    }

    /// What it takes.
    pub fn bytes(&self) -> u64 {
        match &self.held {
            Held::Plain { keys, values } => ledger::bytes(keys) + ledger::bytes(values),
            Held::Tiled(held) => held.bytes(),
        }
    }

    /// Forgets what is there: a layer begins.
    pub fn clear(&mut self) {
        self.filled = 0;
    }

    /// Adds a chunk of `(tokens, key width)`.
    pub fn append(&mut self, kernels: Kernels, k: &Tensor, v: &Tensor) -> Result<()> {
        match &mut self.held {
            Held::Plain { keys, values } => {
                append(kernels, keys, k, self.filled)?;
                append(kernels, values, v, self.filled)?;
            }
            Held::Tiled(held) => held.append(k, v, self.filled)?,
        }
        self.filled += k.dim(0)?;
        Ok(())
    }

    /// Attention of the queries `q`, `(tokens, query width)`, the last of which stands at the last key so far; on the CPU
    /// they are overwritten and returned.
    pub fn attend(&self, kernels: Kernels, shape: AttentionShape, q: Tensor) -> Result<Tensor> {
        if let Held::Tiled(held) = &self.held {
            return held.attend(&shape, &q, self.filled).map(|()| q);
        }
        let (k, v) = self.all()?;
        attention::attention(kernels, shape, q, &k, &v)
    }

    /// All keys and values so far, `(kv_heads, tokens, head_dim)`.
    ///
    /// # Errors
    /// When they are laid out for a matrix unit.
    pub fn all(&self) -> Result<(Tensor, Tensor)> {
        match &self.held {
            Held::Plain { keys, values } => Ok((keys.narrow(1, 0, self.filled)?, values.narrow(1, 0, self.filled)?)),
            Held::Tiled(_) => bail!("keys and values are laid out for a matrix unit"),
        }
    }
}
