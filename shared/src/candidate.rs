//! What the search varies: one factor per rotary pair, and the number of starting tokens left alone.

use crate::grid::Grid;
use crate::rope::Rescale;
use serde::{Deserialize, Serialize};

/// A point of the search space: rescale factors in grid points, lowest pair first, and the starting tokens.
///
/// Equality and hashing are exact. A candidate says nothing about its grid; [`crate::space::SearchSpace`] does.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Candidate {
    /// Rescale factor of each rotary pair, in points of the grid.
    pub factors: Vec<u32>,
    /// Positions below this one keep the original angles (n-hat in the paper).
    pub start_tokens: u32,
    /// The attention factor in points of [`ATTENTION_STEP`]; absent where it is not searched and follows from the job's policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attention: Option<u32>,
    /// Attention factors of the pairs on top of that one, in points of [`ATTENTION_STEP`], lowest pair first; empty where
    /// all are 1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pair_attention: Vec<u32>,
}

/// Distance of neighbouring attention factors where they are searched.
pub const ATTENTION_STEP: f64 = 1e-3;

impl Candidate {
    /// What an evaluator needs to know of this candidate; `attention_factor` is the job's, for a candidate without its own.
    pub fn rescale(&self, grid: Grid, attention_factor: f64) -> Rescale {
        Rescale {
            factors: self.factors.iter().map(|&point| grid.value(point)).collect(),
            start_tokens: self.start_tokens,
            attention_factor: self.attention.map_or(attention_factor, attention_value),
            pair_attention: self.pair_attention.iter().map(|&point| attention_value(point)).collect(),
        }
    }

    /// Whether no factor is smaller than the one before it.
    pub fn is_monotone(&self) -> bool {
        self.factors.is_sorted()
    }
}

/// The attention factor of a point. Divided, not multiplied, so that it is the number nearest to its decimal text.
pub fn attention_value(point: u32) -> f64 {
    f64::from(point) / (1.0 / ATTENTION_STEP).round()
}
