//! Attention factors of rotary pairs, folded into a model's weights.
//!
//! A factor on cosine and sine of a pair commutes with its rotation: turning `(m x, m y)` gives `m` times what turning `(x, y)`
//! gives. So a model whose queries and keys are `m_i` times as large in dimensions `i` and `i + pairs` of every head computes,
//! with the one attention factor, what the model computes with one for each pair: at every position, whatever the factors,
//! the starting tokens and the length.
//!
//! ```text
//! rows of the query and key projections, and their biases      times m_i, for dimension i or i + pairs of a head
//! where queries and keys are normalised per head, the weights of those norms instead: the norm would undo the rows
//! ```

use crate::model::config::DecoderSpec;
use crate::model::weights::{Stored, WeightFiles, decode};
use crate::model::{LoadError, written};
use safetensors::tensor::{Dtype, View};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

/// A model into which nothing can be folded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FoldError {
    /// The model cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Neither one factor for each pair nor usable ones.
    #[error("{got} attention factors of pairs, the model needs {expected}, finite and above 0")]
    Factors {
        /// Factors given.
        got: usize,
        /// Pairs of the model.
        expected: usize,
    },
    /// A tensor that should have been multiplied is not there.
    #[error("the weights have no tensor {0}: nothing is written")]
    Missing(String),
    /// A format that cannot be multiplied, as quantised weights have.
    #[error("tensor {tensor} is {format}: attention factors are folded into f32, bf16 and f16 weights alone")]
    Format {
        /// Its name.
        tensor: String,
        /// Its format.
        format: String,
    },
    /// A file cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Writes the weight files of the model in folder `model` into the folder `out`, queries and keys multiplied by
/// `pair_attention`, the fastest pair first. Numbers keep their format, rounded to the nearest: f32 weights lose nothing that
/// an evaluation could see, bf16 weights as much as by being written in bf16 at all.
///
/// # Errors
/// [`FoldError`]; files that were written until then stay.
pub fn write(model: &Path, pair_attention: &[f64], out: &Path) -> Result<(), FoldError> {
    let config = model.join("config.json");
    let text = std::fs::read_to_string(&config).map_err(|source| LoadError::Io { path: config, source })?;
    let spec = DecoderSpec::from_config_json(&text)?;
    let expected = spec.rotary_dim / 2;
    if pair_attention.len() != expected || pair_attention.iter().any(|m| !(m.is_finite() && *m > 0.0)) {
        return Err(FoldError::Factors { got: pair_attention.len(), expected });
    }
    let files = WeightFiles::open(model)?;
    let mut missing = folded_tensors(&spec);
    for (_, tensors) in files.stored() {
        for Stored { name, dtype, .. } in tensors {
            if missing.remove(&name) && !matches!(dtype, Dtype::F32 | Dtype::BF16 | Dtype::F16) {
                return Err(FoldError::Format { tensor: name, format: format!("{dtype:?}").to_lowercase() });
            }
        }
    }
    if let Some(tensor) = missing.into_iter().next() {
        return Err(FoldError::Missing(tensor));
    }
    let folded = folded_tensors(&spec);
    let fold = Fold { spec: &spec, pair_attention };
    for (path, tensors) in files.stored() {
        let tensors = tensors.map(|stored| {
            let rows = if folded.contains(&stored.name) { fold.rows(&stored) } else { Vec::new() };
            (stored.name.clone(), Multiplied { stored, rows })
        });
        let path = out.join(path.file_name().unwrap_or_default());
        written::write(&path, tensors.collect()).map_err(|source| FoldError::Write { path, source })?;
    }
    Ok(())
}

/// Names of the tensors that are multiplied.
fn folded_tensors(spec: &DecoderSpec) -> BTreeSet<String> {
    let parts: &[&str] = match (spec.head_norm, spec.fused_tensors) {
        (true, _) => &["q_norm", "k_norm"],
        (false, true) => &["qkv_proj"],
        (false, false) => &["q_proj", "k_proj"],
    };
    let kinds: &[&str] = if spec.qkv_bias && !spec.head_norm { &["weight", "bias"] } else { &["weight"] };
    let names = (0..spec.layers()).flat_map(|layer| parts.iter().map(move |part| (layer, part)));
    names
        .flat_map(|(layer, part)| kinds.iter().map(move |kind| format!("model.layers.{layer}.self_attn.{part}.{kind}")))
        .collect()
}

/// What the rows of tensors are multiplied by.
struct Fold<'a> {
    spec: &'a DecoderSpec,
    pair_attention: &'a [f64],
}

// === impl Fold ===

impl Fold<'_> {
    /// For each row of a tensor, or each number of a vector. Queries, keys and norms all go head by head; below queries and
    /// keys of a fused tensor come the values, which stay.
    fn rows(&self, stored: &Stored<'_>) -> Vec<f64> {
        let rows = stored.shape.first().copied().unwrap_or(0);
        let rotated = self.spec.query_width() + self.spec.key_width();
        let pairs = self.pair_attention.len();
        let factor = |row: usize| match row % self.spec.head_dim {
            _ if self.spec.fused_tensors && row >= rotated => 1.0,
            dimension if dimension < 2 * pairs => self.pair_attention[dimension % pairs],
            _ => 1.0,
        };
        (0..rows).map(factor).collect()
    }
}

/// A tensor of the files, each row multiplied; as it is without rows.
struct Multiplied<'a> {
    stored: Stored<'a>,
    rows: Vec<f64>,
}

impl View for Multiplied<'_> {
    fn dtype(&self) -> Dtype {
        self.stored.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.stored.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let Stored { bytes, dtype, .. } = &self.stored;
        if self.rows.is_empty() {
            return Cow::Borrowed(bytes);
        }
        // The format was looked at before anything is written.
        let mut numbers = Vec::new();
        decode(bytes, *dtype, &mut numbers);
        let width = (numbers.len() / self.rows.len()).max(1);
        let rows = numbers.chunks(width).zip(&self.rows);
        let multiplied: Vec<f32> =
            rows.flat_map(|(row, factor)| row.iter().map(move |number| (f64::from(*number) * factor) as f32)).collect();
        Cow::Owned(written::encode(&multiplied, *dtype).into_owned())
    }

    fn data_len(&self) -> usize {
        self.stored.bytes.len()
    }
}
