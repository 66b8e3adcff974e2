//! Steps down the slope, on factors that stay monotone.
//!
//! Adam's rule on the logarithms of factors and attention factor: a step follows the running mean of the slope, divided
//! by the running size of it. Pairs differ in sensitivity by orders of magnitude; where the slope is small against the
//! largest one, the step shrinks with it rather than being blown up to full length. After each step the nearest monotone
//! sequence is taken. Only operations that IEEE 754 rounds exactly are used.

use crate::search::isotonic::nearest_monotone;
use crate::search::strategy::Slope;
use ropewalk_shared::candidate::{ATTENTION_STEP, Candidate, attention_value};
use ropewalk_shared::space::SearchSpace;
use serde::{Deserialize, Serialize};

/// Gradient steps of a search.
pub const STEPS: u32 = 24;

/// Longest step of a factor, as a share of it; steps shorten linearly to nothing.
const RATE: f64 = 0.12;
/// The same for the attention factor, whose logarithm varies over about a tenth of the range.
const ATTENTION_RATE: f64 = 0.015;
/// Weights of the past in the running mean of the slope and of its square.
const MEMORY: (f64, f64) = (0.8, 0.95);
/// A slope below this share of the largest one gets less than half of a full step.
const FLOOR: f64 = 0.1;

/// A descent under way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Descent {
    factors: Vec<f64>,
    attention_factor: Option<f64>,
    start_tokens: u32,
    /// Of each factor, then of the attention factor: running mean of the slope, and of its square.
    means: Vec<f64>,
    squares: Vec<f64>,
    taken: u32,
}

// === impl Descent ===

impl Descent {
    /// A descent that begins at a candidate of the space.
    pub fn from(candidate: &Candidate, space: &SearchSpace) -> Self {
        let factors: Vec<f64> = candidate.factors.iter().map(|&point| space.grid.value(point)).collect();
        let count = factors.len() + 1;
        Self {
            factors,
            attention_factor: candidate.attention.map(attention_value),
            start_tokens: candidate.start_tokens,
            means: vec![0.0; count],
            squares: vec![0.0; count],
            taken: 0,
        }
    }

    /// Steps taken.
    pub fn taken(&self) -> u32 {
        self.taken
    }

    /// Where it stands, on the grid.
    pub fn candidate(&self, space: &SearchSpace) -> Candidate {
        space.nearest(&self.factors, self.start_tokens, self.attention_factor.unwrap_or(1.0))
    }

    /// Whether it can have come from a search of this space.
    pub fn fits(&self, space: &SearchSpace) -> bool {
        let count = space.pairs + 1;
        self.factors.len() == space.pairs && self.means.len() == count && self.squares.len() == count
    }

    /// One step down the slope at [`Self::candidate`]; false, and nothing changed, when the slope cannot be used.
    pub fn step(&mut self, space: &SearchSpace, slope: &Slope) -> bool {
        let numbers = || slope.log_factors.iter().chain([&slope.log_attention_factor]);
        if slope.log_factors.len() != self.factors.len() || numbers().any(|by| !by.is_finite()) {
            return false;
        }
        for ((mean, square), &by) in self.means.iter_mut().zip(&mut self.squares).zip(numbers()) {
            *mean = MEMORY.0 * *mean + (1.0 - MEMORY.0) * by;
            *square = MEMORY.1 * *square + (1.0 - MEMORY.1) * by * by;
        }
        self.taken += 1;
        // Both running means start at 0 and are too small at first, by these shares.
        let (mut of_mean, mut of_square) = (1.0, 1.0);
        for _ in 0..self.taken {
            of_mean *= MEMORY.0;
            of_square *= MEMORY.1;
        }
        let size = |square: f64| (square / (1.0 - of_square)).sqrt();
        let largest =
            self.squares[..self.factors.len()].iter().fold(0.0, |largest: f64, &square| largest.max(size(square)));
        let left = 1.0 - f64::from(self.taken - 1) / f64::from(STEPS);
        let direction = |at: usize| {
            let divisor = size(self.squares[at]) + FLOOR * largest;
            if divisor > 0.0 { -left * self.means[at] / (1.0 - of_mean) / divisor } else { 0.0 }
        };

        let bounds = (space.grid.value(space.grid.one()), space.grid.value(space.max_point));
        let moved = self.factors.iter().enumerate().map(|(pair, &factor)| scaled(factor, RATE * direction(pair)));
        let moved: Vec<f64> = moved.collect();
        let weights = vec![1.0; moved.len()];
        self.factors = nearest_monotone(&moved, &weights).into_iter().map(|f| f.clamp(bounds.0, bounds.1)).collect();
        if let (Some(factor), Some((low, high))) = (self.attention_factor, space.attention) {
            // Its slope has a scale of its own: the step is not shortened by those of the factors.
            let last = self.means.len() - 1;
            let size = size(self.squares[last]);
            let along = if size > 0.0 { -left * self.means[last] / (1.0 - of_mean) / size } else { 0.0 };
            let bounds = (f64::from(low) * ATTENTION_STEP, f64::from(high) * ATTENTION_STEP);
            self.attention_factor = Some(scaled(factor, ATTENTION_RATE * along).clamp(bounds.0, bounds.1));
        }
        true
    }
}

/// Larger by a share, or smaller by as much on a logarithmic scale.
fn scaled(value: f64, share: f64) -> f64 {
    value * if share >= 0.0 { 1.0 + share } else { 1.0 / (1.0 - share) }
}
