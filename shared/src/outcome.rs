//! What came of evaluating a candidate on a sample, and of a candidate on all of them.

use serde::{Deserialize, Serialize};

/// Negative log-likelihood of one sample under one candidate.
///
/// NaN and infinity are values: a candidate can be that bad.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Loss {
    /// Sum over the predicted tokens, in nats.
    #[serde(with = "non_finite")]
    pub nll_sum: f64,
    /// Number of predicted tokens that count: one fewer than the sample has, unless it counts its last ones alone.
    pub tokens: u64,
}

/// How the loss of one sample changes with a candidate's numbers.
///
/// NaN and infinity are values, as they are of the loss itself.
#[derive(Clone, Debug, PartialEq)]
pub struct LossSlope {
    /// `d nll_sum / d ln lambda_i` for each rotary pair, the fastest first, in nats.
    pub log_factors: Vec<f64>,
    /// `d nll_sum / d ln f` with the attention factor `f`, in nats.
    pub log_attention_factor: f64,
    /// `d nll_sum / d ln m_i` with the attention factor `m_i` of each rotary pair, in nats; empty from a worker that does not
    /// tell them apart.
    pub log_pair_attention: Vec<f64>,
}

/// Why a worker could not evaluate a unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitFailure {
    /// What kind of failure, which decides what happens next.
    pub kind: FailureKind,
    /// For people: what happened, and what to do.
    pub reason: String,
}

/// Kinds of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// The worker has no such model: another worker may. Not the candidate's fault.
    ModelMissing,
    /// The worker's model of that name is not the job's. Not the candidate's fault.
    FingerprintMismatch,
    /// The sample does not fit into this worker's memory: another worker's may be larger.
    TooLarge,
    /// The sample could not be fetched. Not the candidate's fault.
    SampleUnavailable,
    /// The evaluation itself failed; three times on different leases, and the candidate has failed.
    Evaluation,
    /// The worker is stopping and hands the unit back.
    HandedBack,
    /// The worker computes no gradients: another worker may. Not the candidate's fault.
    NoGradient,
}

/// The perplexity of a candidate: `exp` of the mean over samples of the per-sample mean loss.
///
/// NaN when there is no sample or one has no predicted token.
pub fn perplexity(losses: &[Loss]) -> f64 {
    let sum: f64 = losses.iter().map(Loss::mean).sum();
    (sum / losses.len() as f64).exp()
}

/// The same with a weight for each sample; weights add up to 1, and a sample without weight may have any loss.
pub fn weighted_perplexity(losses: &[Loss], weights: &[f64]) -> f64 {
    let weighed = losses.iter().zip(weights).filter(|(_, weight)| **weight > 0.0);
    weighed.map(|(loss, weight)| weight * loss.mean()).sum::<f64>().exp()
}

// === impl Loss ===

impl Loss {
    /// Nats per predicted token.
    pub fn mean(&self) -> f64 {
        self.nll_sum / self.tokens as f64
    }
}

// === impl FailureKind ===

impl FailureKind {
    /// Whether the failure says something about the candidate, and not just about the worker that tried.
    pub fn counts_against_candidate(self) -> bool {
        matches!(self, Self::Evaluation)
    }
}

/// JSON has no NaN and no infinity; they are written as text.
pub(crate) mod non_finite {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Number {
        Finite(f64),
        Text(String),
    }

    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        if value.is_finite() { Number::Finite(*value) } else { Number::Text(value.to_string()) }.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        match Number::deserialize(deserializer)? {
            Number::Finite(value) => Ok(value),
            Number::Text(text) => match text.as_str() {
                "NaN" => Ok(f64::NAN),
                "inf" => Ok(f64::INFINITY),
                "-inf" => Ok(f64::NEG_INFINITY),
                _ => Err(D::Error::custom("expected a number, \"NaN\", \"inf\" or \"-inf\"")),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn perplexity_weighs_samples_alike() {
        let loss = |nll_sum, tokens| Loss { nll_sum, tokens };
        // Means 1 and 3, whatever the lengths.
        assert!((perplexity(&[loss(10.0, 10), loss(3000.0, 1000)]) - 2f64.exp()).abs() < 1e-12);
        assert!(perplexity(&[loss(f64::NAN, 10), loss(1.0, 1)]).is_nan());
        assert!(perplexity(&[]).is_nan());
    }

    #[test]
    fn losses_survive_json_exactly() {
        for nll_sum in [0.1 + 0.2, 1e-300, f64::INFINITY, f64::NEG_INFINITY] {
            let loss = Loss { nll_sum, tokens: 7 };
            let text = serde_json::to_string(&loss).unwrap();
            assert_eq!(serde_json::from_str::<Loss>(&text).unwrap(), loss);
        }
        let text = serde_json::to_string(&Loss { nll_sum: f64::NAN, tokens: 7 }).unwrap();
        assert!(serde_json::from_str::<Loss>(&text).unwrap().nll_sum.is_nan());
    }
}
