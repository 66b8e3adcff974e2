//! Retrieval prompts: a number hidden at some depth of a long text, asked for at its end.
//!
//! Two texts are known: the passkey prompt of LongRoPE's evaluation and the "special magic number" needle of LongRoPE2.
//! A prompt is built from token ids, part by part, so it has exactly the length asked for. Its answer is counted by one
//! forward pass: greedy decoding gives the exact answer if and only if, under teacher forcing, every answer token is the
//! arg max of its position.

mod prompt;
mod template;

pub use prompt::{Filler, Prompt, PromptError, PromptSpec};
pub use template::{GRASS, InvalidTemplate, MAX_KEY_DIGITS, Template, key};
