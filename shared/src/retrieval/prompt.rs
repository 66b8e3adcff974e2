//! One retrieval prompt as token ids, of exactly the length asked for.

use super::template::{InvalidTemplate, Template};

/// What stands around the sentence that hides the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filler<'a> {
    /// These tokens again and again, the last time cut off.
    Repeated(&'a [u32]),
    /// The first tokens of a document, each at most once.
    Document(&'a [u32]),
}

/// Where the number is hidden, and in how much text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PromptSpec {
    /// Tokens of the whole prompt, first token and answer included.
    pub length: u32,
    /// Share of the filler that stands before the sentence, 0 to 1.
    pub depth: f64,
    /// The hidden number.
    pub key: u64,
    /// The token that begins a sequence, for models that have one.
    pub begin: Option<u32>,
}

/// A prompt with its answer at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// Token ids, `length` of them.
    pub tokens: Vec<u32>,
    /// Position of the first answer token; it and all after it are counted.
    pub counted_from: u32,
}

/// A prompt that cannot be built.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PromptError {
    /// The texts are no retrieval prompt.
    #[error(transparent)]
    Template(#[from] InvalidTemplate),
    /// Outside of the filler.
    #[error("depth {0} is not a share of the text: it must lie between 0 and 1")]
    Depth(f64),
    /// The texts alone are longer.
    #[error("a retrieval prompt of {length} tokens was asked for, its texts alone take {needed}; ask for a longer one")]
    TooShort {
        /// Tokens asked for.
        length: u32,
        /// Tokens of the texts without any filler.
        needed: usize,
    },
    /// The document ends too early.
    #[error("the prompt needs {needed} tokens of filler, there are {got}; use a longer document")]
    Filler {
        /// Tokens wanted.
        needed: usize,
        /// Tokens at hand.
        got: usize,
    },
    /// There is nothing to follow the question, or nothing before it.
    #[error("the {0} of the retrieval prompt has no tokens")]
    Empty(&'static str),
    /// The tokenizer refused a text.
    #[error("the retrieval prompt could not be tokenised: {0}")]
    Tokenize(String),
}

// === impl Prompt ===

impl Prompt {
    /// Builds a prompt. `tokenize` gives the ids of one text, without special tokens.
    ///
    /// # Errors
    /// [`PromptError`] when the texts, the depth, the length or the filler do not fit together.
    pub fn build(
        template: &Template,
        spec: &PromptSpec,
        filler: Filler<'_>,
        mut tokenize: impl FnMut(&str) -> Result<Vec<u32>, String>,
    ) -> Result<Self, PromptError> {
        template.check()?;
        if !(0.0..=1.0).contains(&spec.depth) {
            return Err(PromptError::Depth(spec.depth));
        }
        let mut parts: [Vec<u32>; 4] = Default::default();
        for (part, text) in parts.iter_mut().zip(template.with_key(spec.key)) {
            *part = tokenize(&text).map_err(PromptError::Tokenize)?;
        }
        let [introduction, sentence, question, answer] = parts;
        for (name, part) in [("sentence", &sentence), ("question", &question), ("answer", &answer)] {
            if part.is_empty() {
                return Err(PromptError::Empty(name));
            }
        }

        let needed =
            usize::from(spec.begin.is_some()) + introduction.len() + sentence.len() + question.len() + answer.len();
        let too_short = PromptError::TooShort { length: spec.length, needed };
        let around = (spec.length as usize).checked_sub(needed).ok_or(too_short)?;
        let filler = filler.take(around)?;
        let (before, after) = filler.split_at(((around as f64 * spec.depth).round() as usize).min(around));

        let mut tokens = Vec::with_capacity(spec.length as usize);
        tokens.extend(spec.begin);
        for part in [&introduction[..], before, &sentence, after, &question, &answer] {
            tokens.extend_from_slice(part);
        }
        // Not longer than `length`, which is a u32.
        let counted_from = (tokens.len() - answer.len()) as u32;
        Ok(Self { tokens, counted_from })
    }
}

impl Filler<'_> {
    fn take(self, count: usize) -> Result<Vec<u32>, PromptError> {
        match self {
            Self::Repeated([]) if count > 0 => Err(PromptError::Filler { needed: count, got: 0 }),
            Self::Repeated(tokens) => Ok(tokens.iter().copied().cycle().take(count).collect()),
            Self::Document(tokens) => {
                tokens.get(..count).map(<[u32]>::to_vec).ok_or(PromptError::Filler { needed: count, got: tokens.len() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One token a byte, so that a prompt can be read back.
    fn bytes(text: &str) -> Result<Vec<u32>, String> {
        Ok(text.bytes().map(u32::from).collect())
    }

    fn text(tokens: &[u32]) -> String {
        tokens.iter().map(|&token| token as u8 as char).collect()
    }

    fn template() -> Template {
        let [introduction, sentence, question, answer] = ["I:", "<{key}>", "?", " {key}"].map(str::to_owned);
        Template { introduction, sentence, question, answer }
    }

    fn spec(length: u32, depth: f64) -> PromptSpec {
        PromptSpec { length, depth, key: 42, begin: Some(u32::from(b'^')) }
    }

    #[test]
    fn the_sentence_stands_at_its_depth_and_the_answer_is_counted() {
        let filler = bytes("abc").unwrap();
        for (depth, expected) in
            [(0.0, "^I:<42>abcabcab? 42"), (0.25, "^I:ab<42>cabcab? 42"), (1.0, "^I:abcabcab<42>? 42")]
        {
            let prompt = Prompt::build(&template(), &spec(19, depth), Filler::Repeated(&filler), bytes).unwrap();
            assert_eq!(text(&prompt.tokens), expected);
            assert_eq!(text(&prompt.tokens[prompt.counted_from as usize..]), " 42");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_numbers() {
        let filler = bytes("abc").unwrap();
        let build = |spec, filler| Prompt::build(&template(), &spec, filler, bytes);
        assert_eq!(build(spec(11, 0.5), Filler::Repeated(&[])).map(|prompt| prompt.tokens.len()), Ok(11));
        assert_eq!(
            build(spec(10, 0.5), Filler::Repeated(&filler)),
            Err(PromptError::TooShort { length: 10, needed: 11 })
        );
        assert_eq!(build(spec(15, 0.5), Filler::Document(&filler)), Err(PromptError::Filler { needed: 4, got: 3 }));
        assert_eq!(build(spec(12, 0.5), Filler::Repeated(&[])), Err(PromptError::Filler { needed: 1, got: 0 }));
        assert_eq!(build(spec(15, 1.5), Filler::Repeated(&filler)), Err(PromptError::Depth(1.5)));
        assert!(matches!(build(spec(15, f64::NAN), Filler::Repeated(&filler)), Err(PromptError::Depth(_))));
    }
}
