//! What a search minimises: the perplexity of documents, of numbers hidden in them, or a mixture of both.

use crate::outcome::{Loss, perplexity, weighted_perplexity};
use crate::sample::SampleShape;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What a search minimises.
///
/// Samples that count whole are documents; samples that count their last tokens alone end with the answer to a question
/// (LongRoPE2's needle-driven objective). Within each kind all samples weigh alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SearchObjective {
    /// The perplexity over all samples, whatever they are.
    #[default]
    Perplexity,
    /// The perplexity of answers. Documents among the held-out samples are measured, and judge nothing.
    Needle,
    /// `exp((1 - w) * mean loss of documents + w * mean loss of answers)`.
    Mixture {
        /// `w`, above 0 and below 1.
        needle_share: f64,
    },
}

/// A text that names no objective.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no objective: give perplexity, needle, mixture, or mixture:W with the weight of the needles between 0 and 1"
)]
pub struct InvalidObjective(String);

/// Samples by which an objective cannot judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NothingToJudge {
    /// No sample asks for an answer.
    #[error(
        "objective {0} needs samples that count the tokens of an answer alone, and no token of these is counted so"
    )]
    NoAnswer(&'static str),
    /// No sample counts whole.
    #[error("objective {0} needs samples that count whole, and of these all count an answer alone")]
    NoDocument(&'static str),
}

// === impl SearchObjective ===

impl SearchObjective {
    /// The weight of each sample in the mean loss; absent where all weigh alike. Weights add up to 1.
    ///
    /// # Errors
    /// [`NothingToJudge`] when a kind of sample that the objective weighs is not there.
    pub fn weights(self, samples: &[SampleShape]) -> Result<Option<Vec<f64>>, NothingToJudge> {
        let answers = samples.iter().filter(|sample| !sample.is_whole()).count();
        let documents = samples.len() - answers;
        let needle_share = match self {
            Self::Perplexity => return Ok(None),
            _ if answers == 0 => return Err(NothingToJudge::NoAnswer(self.name())),
            Self::Needle if documents == 0 => return Ok(None),
            Self::Needle => 1.0,
            Self::Mixture { .. } if documents == 0 => return Err(NothingToJudge::NoDocument(self.name())),
            Self::Mixture { needle_share } => needle_share,
        };
        let of = |sample: &SampleShape| match sample.is_whole() {
            true => (1.0 - needle_share) / documents as f64,
            false => needle_share / answers as f64,
        };
        Ok(Some(samples.iter().map(of).collect()))
    }

    /// The score of a candidate with these losses on these samples; NaN where the objective cannot judge by them.
    pub fn score(self, losses: &[Loss], samples: &[SampleShape]) -> f64 {
        match self.weights(samples) {
            Ok(None) => perplexity(losses),
            Ok(Some(weights)) => weighted_perplexity(losses, &weights),
            Err(_) => f64::NAN,
        }
    }

    /// Its name, without the weight.
    pub fn name(self) -> &'static str {
        match self {
            Self::Perplexity => "perplexity",
            Self::Needle => "needle",
            Self::Mixture { .. } => "mixture",
        }
    }

    /// Samples that candidates are judged on, of so many documents with `needles` hidden in each. Where needles alone decide,
    /// the text is not among them.
    pub fn judged(self, documents: u64, needles: u64) -> u64 {
        let (texts, needles) = (u64::from(self != Self::Needle), if self.asks() { needles } else { 0 });
        documents.saturating_mul(texts + needles)
    }

    /// Whether it judges by answers.
    pub fn asks(self) -> bool {
        self != Self::Perplexity
    }
}

impl fmt::Display for SearchObjective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mixture { needle_share } => write!(f, "mixture:{needle_share}"),
            _ => f.write_str(self.name()),
        }
    }
}

impl FromStr for SearchObjective {
    type Err = InvalidObjective;
    fn from_str(text: &str) -> Result<Self, InvalidObjective> {
        let share = |text: &str| text.parse().ok().filter(|share: &f64| *share > 0.0 && *share < 1.0);
        match text {
            "perplexity" => Some(Self::Perplexity),
            "needle" => Some(Self::Needle),
            "mixture" => Some(Self::Mixture { needle_share: 0.5 }),
            _ => text.strip_prefix("mixture:").and_then(share).map(|needle_share| Self::Mixture { needle_share }),
        }
        .ok_or_else(|| InvalidObjective(text.chars().take(40).collect()))
    }
}

impl TryFrom<String> for SearchObjective {
    type Error = InvalidObjective;
    fn try_from(text: String) -> Result<Self, InvalidObjective> {
        text.parse()
    }
}

impl From<SearchObjective> for String {
    fn from(objective: SearchObjective) -> Self {
        objective.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: SampleShape = SampleShape { tokens: 100, counted_from: 1 };
    const ANSWER: SampleShape = SampleShape { tokens: 100, counted_from: 96 };

    fn loss(mean: f64, tokens: u64) -> Loss {
        Loss { nll_sum: mean * tokens as f64, tokens }
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for text in ["perplexity", "needle", "mixture:0.25"] {
            assert_eq!(text.parse::<SearchObjective>().unwrap().to_string(), text);
        }
        assert_eq!("mixture".parse(), Ok(SearchObjective::Mixture { needle_share: 0.5 }));
        for text in ["", "mixture:0", "mixture:1", "mixture:NaN", "mixture:-1", "needle:0.5", "loss"] {
            assert!(text.parse::<SearchObjective>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn each_kind_has_its_share_whatever_its_number() {
        let samples = [DOCUMENT, ANSWER, ANSWER, ANSWER];
        let losses = [loss(2.0, 99), loss(1.0, 4), loss(3.0, 4), loss(8.0, 4)];
        let near = |a: f64, mean: f64| assert!((a.ln() - mean).abs() < 1e-12, "{a} for exp({mean})");
        near(SearchObjective::Perplexity.score(&losses, &samples), 3.5);
        near(SearchObjective::Needle.score(&losses, &samples), 4.0);
        near(SearchObjective::Needle.score(&losses[1..], &samples[1..]), 4.0);
        near(SearchObjective::Mixture { needle_share: 0.25 }.score(&losses, &samples), 0.75 * 2.0 + 0.25 * 4.0);
        // What is not judged by may be anything.
        let mut broken = losses;
        broken[0].nll_sum = f64::NAN;
        near(SearchObjective::Needle.score(&broken, &samples), 4.0);
        assert!(SearchObjective::Mixture { needle_share: 0.25 }.score(&broken, &samples).is_nan());
    }

    #[test]
    fn what_there_is_nothing_to_judge_by_is_refused() {
        let mixture = SearchObjective::Mixture { needle_share: 0.5 };
        assert_eq!(SearchObjective::Needle.weights(&[DOCUMENT]), Err(NothingToJudge::NoAnswer("needle")));
        assert_eq!(mixture.weights(&[DOCUMENT]), Err(NothingToJudge::NoAnswer("mixture")));
        assert_eq!(mixture.weights(&[ANSWER]), Err(NothingToJudge::NoDocument("mixture")));
        assert!(SearchObjective::Needle.score(&[loss(1.0, 99)], &[DOCUMENT]).is_nan());
    }
}
