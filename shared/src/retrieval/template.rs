//! The texts of a retrieval prompt, and the numbers hidden in them.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// The filler of the passkey prompt, repeated as often as needed.
pub const GRASS: &str = " The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.";
/// Most digits of a hidden number; all of them fit into 64 bits.
pub const MAX_KEY_DIGITS: u32 = 18;
/// Where the hidden number stands in a text.
const KEY: &str = "{key}";

/// The four texts of a retrieval prompt. `{key}` stands for the number.
///
/// The order is introduction, filler, sentence, filler, question, answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Template {
    /// What is to be done, at the very start.
    pub introduction: String,
    /// The sentence that hides the number.
    pub sentence: String,
    /// Asks for the number, without naming it.
    pub question: String,
    /// What has to follow the question; its tokens alone are counted.
    pub answer: String,
}

/// A template that asks for nothing, or gives its answer away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidTemplate {
    /// The number is nowhere.
    #[error("the {0} of the retrieval prompt does not name the number: write {{key}} where it belongs")]
    KeyMissing(&'static str),
    /// The number stands where it must not.
    #[error("the {0} of the retrieval prompt gives the number away: remove {{key}} from it")]
    KeyGivenAway(&'static str),
    /// No such number of digits.
    #[error("a hidden number of {0} digits was asked for: it may have 1 to {MAX_KEY_DIGITS}")]
    Digits(u32),
}

// === impl Template ===

impl Template {
    /// The passkey prompt of LongRoPE's evaluation.
    pub fn passkey() -> Self {
        Self {
            introduction:
                "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. \
                           I will quiz you about the important information there.\n"
                    .to_owned(),
            sentence: "\nThe pass key is {key}. Remember it. {key} is the pass key.\n".to_owned(),
            question: "\nWhat is the pass key? The pass key is".to_owned(),
            answer: " {key}".to_owned(),
        }
    }

    /// The needle of LongRoPE2's search.
    pub fn needle() -> Self {
        Self {
            introduction:
                "A special magic number is hidden within the following text. Make sure to memorize it. I will \
                           quiz you about the number afterwards.\n"
                    .to_owned(),
            sentence: "\nOne of the special magic numbers for wandering-age is: {key}.\n".to_owned(),
            question: "\nThe special magic number for wandering-age mentioned in the provided text is:".to_owned(),
            answer: " {key}".to_owned(),
        }
    }

    /// Checks that the number is hidden once, asked for, and nowhere else.
    ///
    /// # Errors
    /// [`InvalidTemplate`] with the part at fault.
    pub fn check(&self) -> Result<(), InvalidTemplate> {
        for (name, text, wanted) in [
            ("introduction", &self.introduction, false),
            ("sentence", &self.sentence, true),
            ("question", &self.question, false),
            ("answer", &self.answer, true),
        ] {
            match text.contains(KEY) {
                true if !wanted => return Err(InvalidTemplate::KeyGivenAway(name)),
                false if wanted => return Err(InvalidTemplate::KeyMissing(name)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Introduction, sentence, question and answer with the number in its place.
    pub fn with_key(&self, key: u64) -> [String; 4] {
        let key = key.to_string();
        [&self.introduction, &self.sentence, &self.question, &self.answer].map(|text| text.replace(KEY, &key))
    }
}

/// The number of exactly `digits` digits that `seed` gives; its first digit is not 0.
///
/// # Errors
/// [`InvalidTemplate::Digits`] outside of 1 to [`MAX_KEY_DIGITS`].
pub fn key(seed: u64, digits: u32) -> Result<u64, InvalidTemplate> {
    if !(1..=MAX_KEY_DIGITS).contains(&digits) {
        return Err(InvalidTemplate::Digits(digits));
    }
    let lowest = 10_u64.pow(digits - 1);
    Ok(ChaCha8Rng::seed_from_u64(seed).random_range(lowest..lowest * 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_the_digits_asked_for_and_come_from_the_seed() {
        for digits in 1..=MAX_KEY_DIGITS {
            let first = key(7, digits).unwrap();
            assert_eq!(first.to_string().len(), digits as usize);
            assert_eq!(first, key(7, digits).unwrap());
        }
        assert_ne!(key(7, 9), key(8, 9));
        assert_eq!(key(7, 0), Err(InvalidTemplate::Digits(0)));
        assert_eq!(key(7, 19), Err(InvalidTemplate::Digits(19)));
    }

    #[test]
    fn a_question_that_holds_its_answer_is_refused() {
        assert_eq!(Template::passkey().check(), Ok(()));
        assert_eq!(Template::needle().check(), Ok(()));
        let told = Template { question: "Is it {key}?".into(), ..Template::needle() };
        assert_eq!(told.check(), Err(InvalidTemplate::KeyGivenAway("question")));
        let lost = Template { sentence: "No number here.".into(), ..Template::needle() };
        assert_eq!(lost.check(), Err(InvalidTemplate::KeyMissing("sentence")));
    }
}
