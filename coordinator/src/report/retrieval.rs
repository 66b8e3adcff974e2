//! What retrieval prompts showed: exact answers by length and depth.

use ropewalk_shared::rope::Rescale;
use serde::Serialize;

/// One set of factors at one length.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Retrieval {
    /// Tokens of a prompt, its answer included.
    pub length: u32,
    /// Name of the factors.
    pub factors: String,
    /// What multiplies cosine and sine.
    pub attention_factor: f64,
    /// Positions that keep the original angles.
    pub start_tokens: u32,
    /// Prompts answered.
    pub prompts: u64,
    /// How many of them exactly, under greedy decoding.
    pub exact: u64,
    /// `exact / prompts`.
    pub accuracy: f64,
    /// Loss of a whole answer in nats, the mean over the prompts.
    pub answer_nll: f64,
    /// Seconds that all prompts took.
    pub seconds: f64,
    /// The same by depth, the shallowest first.
    pub depths: Vec<AtDepth>,
}

/// Answers at one depth.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct AtDepth {
    /// Share of the filler before the number, 0 to 1.
    pub depth: f64,
    /// Prompts answered.
    pub prompts: u64,
    /// How many of them exactly.
    pub exact: u64,
}

impl Retrieval {
    /// What came of prompts of `length` tokens under factors called `name`: their answers by depth, the sum of their losses in
    /// nats and of their seconds.
    pub fn of_depths(
        length: u32,
        name: &str,
        rescale: &Rescale,
        depths: Vec<AtDepth>,
        (nll, seconds): (f64, f64),
    ) -> Self {
        let total = |part: fn(&AtDepth) -> u64| depths.iter().map(part).sum::<u64>();
        let (prompts, exact) = (total(|at| at.prompts), total(|at| at.exact));
        Self {
            length,
            factors: name.to_owned(),
            attention_factor: rescale.attention_factor,
            start_tokens: rescale.start_tokens,
            prompts,
            exact,
            accuracy: exact as f64 / prompts as f64,
            answer_nll: nll / prompts as f64,
            seconds,
            depths,
        }
    }
}

impl AtDepth {
    /// Share of exact answers; 0 where nothing was asked.
    pub fn accuracy(&self) -> f64 {
        if self.prompts == 0 { 0.0 } else { self.exact as f64 / self.prompts as f64 }
    }
}

/// `count` depths, evenly from 0 to 1; the middle when there is one.
pub fn depths(count: u32) -> Vec<f64> {
    match count {
        1 => vec![0.5],
        _ => (0..count).map(|index| f64::from(index) / f64::from(count - 1)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depths_reach_both_ends() {
        assert_eq!(depths(5), [0.0, 0.25, 0.5, 0.75, 1.0]);
        assert_eq!(depths(2), [0.0, 1.0]);
        assert_eq!(depths(1), [0.5]);
        assert!(depths(0).is_empty());
    }
}
