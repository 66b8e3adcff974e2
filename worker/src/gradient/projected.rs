//! Queries, keys and values side by side, as the fused projection gives them.

use crate::model::config::DecoderSpec;
use candle_core::{DType, Device, Result, Tensor};

/// Rows of `(tokens, query width + 2 key widths)`, or their gradients.
pub(super) struct Projected {
    all: Tensor,
    queries: usize,
    keys: usize,
}

impl Projected {
    pub fn zeros(spec: &DecoderSpec, tokens: usize, device: &Device) -> Result<Self> {
        let (queries, keys) = (spec.query_width(), spec.key_width());
        Ok(Self { all: Tensor::zeros((tokens, queries + 2 * keys), DType::F32, device)?, queries, keys })
    }

    /// A view of `count` rows from `first` on.
    pub fn rows(&self, first: usize, count: usize) -> Result<Self> {
        Ok(Self { all: self.all.narrow(0, first, count)?, ..*self })
    }

    /// All columns.
    pub fn all(&self) -> &Tensor {
        &self.all
    }

    pub fn queries(&self) -> Result<Tensor> {
        self.all.narrow(1, 0, self.queries)
    }

    pub fn keys(&self) -> Result<Tensor> {
        self.all.narrow(1, self.queries, self.keys)
    }

    pub fn values(&self) -> Result<Tensor> {
        self.all.narrow(1, self.queries + self.keys, self.keys)
    }
}
