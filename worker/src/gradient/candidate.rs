//! From the gradients of angles to those of a candidate's numbers.

use crate::ops::rotate::backward::Turning;
use ropewalk_shared::rope::AngleRule;

/// Sums over positions, layers, queries and keys.
pub(super) struct CandidateGradient {
    rule: AngleRule,
    start_tokens: u64,
    log_factors: Vec<f64>,
    log_pair_attention: Vec<f64>,
}

impl CandidateGradient {
    pub fn new(rule: AngleRule, start_tokens: u32) -> Self {
        let (log_factors, log_pair_attention) = (vec![0.0; rule.pairs()], vec![0.0; rule.pairs()]);
        Self { rule, start_tokens: start_tokens.into(), log_factors, log_pair_attention }
    }

    /// The angles of the candidate.
    pub fn rule(&self) -> &AngleRule {
        &self.rule
    }

    /// Adds the gradients of positions from `first` on.
    pub fn add(&mut self, first: u64, turning: &Turning) {
        for (position, (angles, factors)) in (first..).zip(turning.rows()) {
            self.log_pair_attention.iter_mut().zip(factors).for_each(|(sum, by)| *sum += by);
            // Starting tokens turn by the original angles, whatever the factors.
            if position < self.start_tokens {
                continue;
            }
            for (pair, (sum, by_angle)) in self.log_factors.iter_mut().zip(angles).enumerate() {
                // The angle is proportional to 1 / lambda.
                *sum -= self.rule.angle(pair, position) * by_angle;
            }
        }
    }

    /// By the logarithms of the factors, and of the attention factors of the pairs.
    pub fn finish(self) -> (Vec<f64>, Vec<f64>) {
        (self.log_factors, self.log_pair_attention)
    }
}
