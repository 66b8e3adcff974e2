//! Options of searches that judge by hidden numbers.

use super::failure::Failure;
use crate::documents::{NeedlePlan, PER_DOCUMENT};
use clap::Args;
use ropewalk_shared::job::SearchObjective;
use ropewalk_shared::retrieval::Template;

/// Digits of a number, as LongRoPE2 has them.
const DIGITS: u32 = 7;
/// The deepest place: near the start of the document, and as far as can be from the question.
const DEEPEST: f64 = 0.1;

/// Which numbers are hidden for `--objective needle` and `mixture`.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Needles (--objective needle, mixture)")]
pub struct NeedleArgs {
    /// Numbers hidden in each document, one at a time [default: 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    needles: Option<u32>,

    /// The deepest place of a number, as a share of the document; depths are drawn evenly down to it [default: 0.1]
    #[arg(long, value_name = "SHARE")]
    needle_depth: Option<f64>,

    /// Digits of a number [default: 7]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=18))]
    needle_digits: Option<u32>,

    /// What the text begins with [default: LongRoPE2's text, as in `ropewalk eval --needle`]
    #[arg(long, value_name = "TEXT")]
    needle_introduction: Option<String>,

    /// The sentence that hides the number, which is written {key}
    #[arg(long, value_name = "TEXT")]
    needle_sentence: Option<String>,

    /// The question at the end
    #[arg(long, value_name = "TEXT")]
    needle_question: Option<String>,

    /// The answer, whose tokens alone count; {key} is the number
    #[arg(long, value_name = "TEXT")]
    needle_answer: Option<String>,
}

// === impl NeedleArgs ===

impl NeedleArgs {
    /// The numbers to hide; none where the objective does not ask for them.
    pub fn plan(&self, objective: SearchObjective, seed: u64) -> Result<Option<NeedlePlan>, Failure> {
        if !objective.asks() {
            return match self.given() {
                Some(option) => Err(Failure::input_message(format!(
                    "{option}: no number is hidden for objective {objective}; add --objective needle or mixture"
                ))),
                None => Ok(None),
            };
        }
        let deepest = self.needle_depth.unwrap_or(DEEPEST);
        if !(0.0..=1.0).contains(&deepest) {
            return Err(Failure::input_message(format!(
                "--needle-depth {deepest} is not a share of the document: give 0 to 1"
            )));
        }
        let usual = Template::needle();
        let text = |given: &Option<String>, usual: String| given.clone().unwrap_or(usual);
        let template = Template {
            introduction: text(&self.needle_introduction, usual.introduction),
            sentence: text(&self.needle_sentence, usual.sentence),
            question: text(&self.needle_question, usual.question),
            answer: text(&self.needle_answer, usual.answer),
        };
        template.check().map_err(Failure::input)?;
        Ok(Some(NeedlePlan {
            template,
            digits: self.needle_digits.unwrap_or(DIGITS),
            per_document: self.needles.unwrap_or(PER_DOCUMENT),
            deepest,
            seed,
        }))
    }

    fn given(&self) -> Option<&'static str> {
        let texts = [
            ("--needle-introduction", &self.needle_introduction),
            ("--needle-sentence", &self.needle_sentence),
            ("--needle-question", &self.needle_question),
            ("--needle-answer", &self.needle_answer),
        ];
        let numbers = [
            ("--needles", self.needles.is_some()),
            ("--needle-depth", self.needle_depth.is_some()),
            ("--needle-digits", self.needle_digits.is_some()),
        ];
        let texts = texts.into_iter().map(|(name, text)| (name, text.is_some()));
        numbers.into_iter().chain(texts).find_map(|(name, given)| given.then_some(name))
    }
}
