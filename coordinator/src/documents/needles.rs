//! Numbers hidden near the start of documents, asked for at their end: the samples of a search for needles.

use super::{DocumentTokenizer, NamedSample, Place};
use ropewalk_shared::retrieval::{Filler, InvalidTemplate, Prompt, PromptError, PromptSpec, Template, key};
use ropewalk_shared::sample::{InvalidSample, Sample};

/// Numbers for each document unless told otherwise: with the usual 5 documents the 10 samples of LongRoPE2.
pub const PER_DOCUMENT: u32 = 2;

/// Which numbers are hidden, and where.
#[derive(Clone, Debug, PartialEq)]
pub struct NeedlePlan {
    /// The texts.
    pub template: Template,
    /// Digits of each number.
    pub digits: u32,
    /// Numbers for each document, each in a sample of its own.
    pub per_document: u32,
    /// The deepest place, as a share of the filler: depths are drawn evenly from 0 to this.
    pub deepest: f64,
    /// Seed of numbers and depths.
    pub seed: u64,
}

/// A document in which no number can be hidden.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NeedleError {
    /// No prompt can be made of it.
    #[error("a needle in {place}: {source}")]
    Prompt {
        /// The document.
        place: Place,
        /// Why.
        source: PromptError,
    },
    /// The prompt is no sample.
    #[error(transparent)]
    Sample(#[from] InvalidSample),
    /// No such number.
    #[error(transparent)]
    Key(#[from] InvalidTemplate),
}

// === impl NeedlePlan ===

impl NeedlePlan {
    /// Samples as long as the documents they are made of, with only their answers counted. The same documents in the same
    /// order give the same samples; `first` numbers the first of them, so that several lists get different numbers.
    ///
    /// # Errors
    /// [`NeedleError`] names the document.
    pub fn hide(
        &self,
        documents: &[NamedSample],
        first: usize,
        tokenizer: &DocumentTokenizer,
    ) -> Result<Vec<Sample>, NeedleError> {
        let mut samples = Vec::with_capacity(documents.len() * self.per_document as usize);
        for (number, document) in documents.iter().enumerate() {
            for needle in 0..self.per_document {
                samples.push(self.hide_one(document, (first + number, needle), tokenizer)?);
            }
        }
        Ok(samples)
    }

    fn hide_one(
        &self,
        document: &NamedSample,
        (number, needle): (usize, u32),
        tokenizer: &DocumentTokenizer,
    ) -> Result<Sample, NeedleError> {
        let (key_seed, share) = self.draw(number, needle);
        let (tokens, begin) = (document.sample.tokens(), tokenizer.bos());
        let spec = PromptSpec {
            length: tokens.len() as u32,
            depth: share * self.deepest,
            key: key(key_seed, self.digits)?,
            begin,
        };
        // The prompt has a beginning of its own.
        let filler = Filler::Document(&tokens[usize::from(begin.is_some() && tokens.first().copied() == begin)..]);
        let tokenize = |text: &str| tokenizer.ids(text).map_err(|error| error.to_string());
        let prompt = Prompt::build(&self.template, &spec, filler, tokenize)
            .map_err(|source| NeedleError::Prompt { place: document.place.clone(), source })?;
        Ok(Sample::counted(prompt.tokens, prompt.counted_from)?)
    }

    /// A seed for the number, and a share from 0 to 1 for the depth.
    fn draw(&self, number: usize, needle: u32) -> (u64, f64) {
        let mut hash = blake3::Hasher::new_derive_key("ropewalk needle v1");
        hash.update(&self.seed.to_le_bytes()).update(&(number as u64).to_le_bytes()).update(&needle.to_le_bytes());
        let bytes = *hash.finalize().as_bytes();
        let word = |at: usize| bytes[at..at + 8].iter().rev().fold(0, |word: u64, byte| word << 8 | u64::from(*byte));
        (word(0), (word(8) >> 11) as f64 / (1_u64 << 53) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ropewalk_shared::model_description::ModelDescription;
    use std::path::PathBuf;

    fn lab() -> DocumentTokenizer {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("assets/lab-model");
        let config = std::fs::read_to_string(folder.join("config.json")).unwrap();
        DocumentTokenizer::open(&folder, &ModelDescription::from_config_json(&config).unwrap()).unwrap()
    }

    fn plan() -> NeedlePlan {
        NeedlePlan { template: Template::needle(), digits: 7, per_document: 3, deepest: 0.25, seed: 5 }
    }

    /// A document of a repeated letter, so that whatever else stands in it was put there.
    fn document(tokenizer: &DocumentTokenizer, tokens: usize) -> NamedSample {
        let letter = tokenizer.ids("x").unwrap()[0];
        let begin = tokenizer.bos().unwrap();
        let sample = Sample::new([&[begin][..], &vec![letter; tokens - 1]].concat()).unwrap();
        NamedSample { sample, place: Place::file("x.txt") }
    }

    #[test]
    fn numbers_stand_near_the_start_and_are_asked_for_at_the_end() {
        let (tokenizer, tokens) = (lab(), 600);
        let samples = plan().hide(&[document(&tokenizer, tokens)], 0, &tokenizer).unwrap();
        assert_eq!(samples.len(), 3);
        let question = tokenizer.ids(&Template::needle().question).unwrap();
        let introduction = tokenizer.ids(&Template::needle().introduction).unwrap().len();
        let letter = tokenizer.ids("x").unwrap()[0];
        for sample in &samples {
            let ids = sample.tokens();
            assert_eq!(ids.len(), tokens);
            assert_eq!(ids.iter().filter(|id| Some(**id) == tokenizer.bos()).count(), 1);
            let (asked, answer) = ids.split_at(sample.counted_from() as usize);
            assert!(asked.ends_with(&question) && !answer.is_empty());
            let inside = &asked[1..asked.len() - question.len()];
            let before = inside[introduction..].iter().take_while(|id| **id == letter).count();
            let filler = inside[introduction..].iter().filter(|id| **id == letter).count();
            assert!(before as f64 <= 0.25 * filler as f64 + 1.0, "{before} of {filler}");
        }
    }

    #[test]
    fn samples_depend_on_seed_document_and_number_alone() {
        let tokenizer = lab();
        let ids = |plan: &NeedlePlan, first| {
            let documents = [document(&tokenizer, 300), document(&tokenizer, 300)];
            let samples = plan.hide(&documents, first, &tokenizer).unwrap();
            samples.iter().map(Sample::id).collect::<Vec<_>>()
        };
        let (plan, other) = (plan(), NeedlePlan { seed: 6, ..plan() });
        let all: std::collections::HashSet<_> =
            [ids(&plan, 0), ids(&plan, 2), ids(&other, 0)].into_iter().flatten().collect();
        assert_eq!(all.len(), 18, "every number is its own");
        assert_eq!(ids(&plan, 0), ids(&plan, 0));
        assert_eq!(ids(&plan, 0)[3..], ids(&plan, 1)[..3], "a document keeps its numbers wherever the list begins");
    }

    #[test]
    fn a_document_that_is_too_short_is_named() {
        let tokenizer = lab();
        let error = plan().hide(&[document(&tokenizer, 30)], 0, &tokenizer).unwrap_err().to_string();
        assert!(error.contains("x.txt") && error.contains("30 tokens"), "{error}");
    }
}
