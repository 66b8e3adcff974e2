//! Retrieval prompts to train on: a number hidden anywhere, in a text of any length up to the window.

use super::reader::Reader;
use crate::retrieval::{Filler, GRASS, Prompt, PromptError, PromptSpec, Template, key};
use crate::training::{TrainSequence, TrainSpec, Window};
use rand::{Rng as _, RngExt as _};
use rand_chacha::ChaCha8Rng;

/// What prompts are made of.
#[derive(Clone, Copy)]
pub struct RetrievalTexts<'a> {
    /// Ids of a text, without special tokens.
    pub tokenize: &'a dyn Fn(&str) -> Result<Vec<u32>, String>,
    /// The token that begins a sequence, for models that have one.
    pub begin: Option<u32>,
}

/// Builds prompts of both kinds, the passkey's in the grass sentence or in documents, the needle's in documents.
pub(super) struct Prompts<'a> {
    texts: RetrievalTexts<'a>,
    templates: [(Template, u32); 2],
    grass: Vec<u32>,
    /// Shortest and longest prompt.
    lengths: (u32, u32),
    /// Prompts up to this length are short windows, where those are trained at all.
    short: u32,
    answers_only: bool,
}

/// The longest texts around the filler have some 130 tokens in the tokenizers of the supported families; of prompts
/// without room for any the first one built tells.
const LEAST_TOKENS: u32 = 192;

// === impl Prompts ===

impl<'a> Prompts<'a> {
    pub fn new(texts: RetrievalTexts<'a>, spec: &TrainSpec, original_length: u32) -> Result<Self, PromptError> {
        let grass = (texts.tokenize)(GRASS).map_err(PromptError::Tokenize)?;
        let short = if spec.mix.short_share > 0.0 { original_length } else { 0 };
        Ok(Self {
            texts,
            templates: [(Template::passkey(), 5), (Template::needle(), 7)],
            grass,
            lengths: (LEAST_TOKENS.min(spec.length), spec.length),
            short,
            answers_only: spec.mix.retrieval_answers_only,
        })
    }

    /// The prompt of a slot. Lengths are even on a logarithmic scale, so that each doubling is seen as often.
    pub fn build(&self, reader: &Reader<'_>, rng: &mut ChaCha8Rng, slot: u64) -> Result<TrainSequence, PromptError> {
        let (least, most) = (f64::from(self.lengths.0), f64::from(self.lengths.1));
        let length = (least * (most / least).powf(rng.random::<f64>())).round() as u32;
        let (template, digits) = &self.templates[usize::from(rng.random_bool(0.5))];
        let key = key(rng.next_u64(), *digits)?;
        let depth = rng.random::<f64>();
        let spec = PromptSpec { length, depth, key, begin: self.texts.begin };
        let in_grass = *digits == 5 && rng.random_bool(0.5);
        let document = if in_grass { Vec::new() } else { self.filler(reader, rng, slot, length as usize) };
        let filler = if in_grass { Filler::Repeated(&self.grass) } else { Filler::Document(&document) };
        let prompt = Prompt::build(template, &spec, filler, self.texts.tokenize)?;
        Ok(TrainSequence {
            tokens: prompt.tokens,
            documents: vec![0],
            counted_from: if self.answers_only { prompt.counted_from } else { 0 },
            window: if length <= self.short { Window::Original } else { Window::Long },
            gaps: Vec::new(),
        })
    }

    /// As many tokens of documents as a prompt of this length can need.
    fn filler(&self, reader: &Reader<'_>, rng: &mut ChaCha8Rng, slot: u64, length: usize) -> Vec<u32> {
        let (mut tokens, mut turn) = (Vec::with_capacity(length), slot);
        while tokens.len() < length {
            let cut = reader.cut(turn, rng, length - tokens.len() + 1);
            // The prompt has a beginning of its own.
            let begins = self.texts.begin.is_some() && cut.first().copied() == self.texts.begin;
            tokens.extend_from_slice(&cut[usize::from(begins)..]);
            turn = rng.random();
        }
        tokens
    }
}
