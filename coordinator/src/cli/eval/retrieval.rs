//! `ropewalk eval --passkey` and `--needle`: how often a hidden number is found, by length and depth.

use super::choice::FactorChoice;
use super::progress::Progress;
use super::{interrupted, unless_interrupted};
use crate::cli::failure::{Failure, OrFail as _, Outcome};
use crate::cli::files::write;
use crate::cli::output::{self, note};
use crate::cli::prepare::{ModelFolder, Source};
use crate::documents::DocumentTokenizer;
use crate::report::heat_map;
use crate::report::retrieval::{AtDepth, Retrieval, depths};
use anyhow::Context as _;
use clap::{Args, ValueEnum};
use ropewalk_shared::retrieval::{Filler, GRASS, Prompt, PromptSpec, Template, key};
use ropewalk_shared::rope::Rescale;
use ropewalk_shared::sample::Sample;
use ropewalk_worker::cancel::CancelFlag;
use ropewalk_worker::evaluator::Evaluator;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Which numbers are hidden, where, and how often.
#[derive(Args, Debug)]
pub struct RetrievalArgs {
    /// Hide a pass key in the text and count exact answers, instead of measuring perplexity
    #[arg(long, group = "retrieval")]
    passkey: bool,

    /// The same with LongRoPE2's "special magic number"
    #[arg(long, group = "retrieval")]
    needle: bool,

    /// Depths of the number, evenly from the start of the text to its end
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=64), requires = "retrieval")]
    depths: u32,

    /// Prompts for each length and depth, with other numbers
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1000), requires = "retrieval")]
    trials: u32,

    /// Digits of the number [default: 5 for pass keys, 7 for needles]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=18), requires = "retrieval")]
    key_digits: Option<u32>,

    /// Decode each answer token by token, keeping keys and values, instead of judging it by one pass; gives the same
    /// answers and takes more time and memory
    #[arg(long, requires = "retrieval")]
    generate: bool,

    /// What the number is hidden in: the grass sentence of the pass key again and again, or --data or --tokens
    #[arg(long, value_enum, default_value = "grass", requires = "retrieval")]
    filler: FillerArg,

    /// Seed of the numbers
    #[arg(long, value_name = "N", default_value_t = 0, requires = "retrieval")]
    seed: u64,

    /// Write the results and a heat map for each set of factors into this folder
    #[arg(long, value_name = "DIR", requires = "retrieval")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FillerArg {
    Grass,
    Documents,
}

/// What is printed.
#[derive(Serialize)]
struct Report {
    model: String,
    kind: &'static str,
    filler: &'static str,
    key_digits: u32,
    /// Whether answers were decoded, and not judged by one pass.
    generated: bool,
    /// Whether more was asked for, and what was finished is here.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    interrupted: bool,
    results: Vec<Retrieval>,
}

/// The prompts of one length.
pub struct Prompts<'a> {
    /// The words around the number.
    pub template: &'a Template,
    /// The model's.
    pub tokenizer: &'a DocumentTokenizer,
    /// The ids of the grass sentence.
    pub grass: &'a [u32],
    /// What the number is hidden in; empty for the grass sentence.
    pub documents: Vec<Sample>,
    /// Tokens of a prompt, its answer included.
    pub length: u32,
    /// Digits of the number.
    pub digits: u32,
}

// === impl RetrievalArgs ===

impl RetrievalArgs {
    /// Whether prompts are asked for, and not perplexity.
    pub fn is_asked(&self) -> bool {
        self.passkey || self.needle
    }

    /// Answers the prompts of every length under every set of factors, and prints and writes what came out.
    pub fn run(
        &self,
        folder: &ModelFolder,
        source: Option<&Source<'_>>,
        evaluator: &Evaluator,
        (choices, lengths, target): (&[FactorChoice], &[u32], Option<u32>),
        (cancel, json): (&CancelFlag, bool),
    ) -> Outcome {
        let (kind, template, usual) =
            if self.needle { ("needle", Template::needle(), 7) } else { ("passkey", Template::passkey(), 5) };
        let digits = self.key_digits.unwrap_or(usual);
        let documents = match (self.filler, source) {
            (FillerArg::Grass, None) => None,
            (FillerArg::Documents, Some(source)) => Some(source),
            (FillerArg::Grass, Some(_)) => {
                return Err(Failure::input_message(
                    "documents are given, and the number is hidden in the grass sentence: add --filler documents",
                ));
            }
            (FillerArg::Documents, None) => {
                return Err(Failure::input_message("--filler documents needs --data or --tokens"));
            }
        };
        let tokenizer = DocumentTokenizer::open(&folder.path, &folder.description).or_input()?;
        let grass = tokenizer.ids(GRASS).or_input()?;

        let filler = if documents.is_some() { "documents" } else { "grass" };
        let (model, generated) = (folder.name.clone(), self.generate);
        let (key_digits, results) = (digits, Vec::new());
        let mut report = Report { model, kind, filler, key_digits, generated, interrupted: false, results };
        // Of all lengths first: nothing is measured in vain.
        let wanted = (self.depths * self.trials) as usize;
        let drawn = lengths.iter().map(|&length| {
            let documents = documents.map(|source| source.first(length, wanted)).transpose()?;
            Ok((length, documents.unwrap_or_default()))
        });
        let asked = lengths.len() * choices.len();
        let mut progress = Progress::of(asked);
        'lengths: for (length, documents) in drawn.collect::<Result<Vec<_>, Failure>>()? {
            let (template, tokenizer, grass) = (&template, &tokenizer, &grass[..]);
            let prompts = Prompts { template, tokenizer, grass, documents, length, digits };
            for choice in choices {
                let rescale = choice.at(&folder.description, length, target);
                let answered = self.answer(evaluator, &prompts, (choice.name(), &rescale), (&mut progress, cancel));
                let Some(result) = unless_interrupted(answered)? else { break 'lengths };
                report.results.push(result);
            }
        }
        progress.end();
        report.interrupted = report.results.len() < asked;
        if let Some(out) = self.out.as_ref().filter(|_| !report.results.is_empty()) {
            self.write(out, &report, choices)?;
        }
        if json {
            output::json(&report)?
        } else if !report.results.is_empty() {
            output::line(table(&report))?
        }
        if report.interrupted {
            return Err(interrupted(report.results.len(), asked));
        }
        let lost = report.results.iter().find(|result| !result.answer_nll.is_finite());
        lost.map_or(Ok(()), |lost| {
            Err(Failure::work_message(format!(
                "the loss of answers is no finite number under {} at {}: look for NaN in the weights, or for factors that are far off",
                lost.factors, lost.length
            )))
        })
    }

    fn answer(
        &self,
        evaluator: &Evaluator,
        prompts: &Prompts<'_>,
        (name, rescale): (&str, &Rescale),
        (progress, cancel): (&mut Progress, &CancelFlag),
    ) -> Result<Retrieval, Failure> {
        let depths = depths(self.depths);
        progress.begin((name, prompts.length), (depths.len() * self.trials as usize, "prompts"));
        let start = Instant::now();
        let (mut nll, mut results) = (0.0, Vec::new());
        for (row, &depth) in depths.iter().enumerate() {
            let mut at = AtDepth { depth, prompts: 0, exact: 0 };
            for trial in 0..self.trials as usize {
                let index = row * self.trials as usize + trial;
                let prompt = prompts.build(self.seed, depth, index)?;
                let (tokens, from) = (&prompt.tokens, prompt.counted_from as usize);
                let mut tell = |share: f32| progress.at(index, share);
                let answer = evaluator.evaluate_counted(rescale, tokens, from, cancel, &mut tell).or_work()?;
                nll += answer.loss.nll_sum;
                at.prompts += 1;
                at.exact += u64::from(match self.generate {
                    false => answer.is_exact(),
                    true => self.decode(evaluator, rescale, &prompt, cancel)?,
                });
            }
            results.push(at);
        }
        progress.end();
        let seconds = start.elapsed().as_secs_f64();
        Ok(Retrieval::of_depths(prompts.length, name, rescale, results, (nll, seconds)))
    }

    /// Whether decoding gives the answer.
    fn decode(
        &self,
        evaluator: &Evaluator,
        rescale: &Rescale,
        prompt: &Prompt,
        cancel: &CancelFlag,
    ) -> Result<bool, Failure> {
        let (asked, answer) = prompt.tokens.split_at(prompt.counted_from as usize);
        let decoded = evaluator.decode(rescale, (asked, answer.len()), cancel, &mut |_| {}).or_work()?;
        Ok(decoded == answer)
    }

    fn write(&self, out: &Path, report: &Report, choices: &[FactorChoice]) -> Outcome {
        std::fs::create_dir_all(out).with_context(|| format!("--out {}", out.display())).or_input()?;
        write(&out.join(format!("{}.json", report.kind)), &(serde_json::to_string_pretty(report).or_work()? + "\n"))?;
        for (index, choice) in choices.iter().enumerate() {
            // Results stand in the order of lengths, and for each of them in that of the factors.
            let of: Vec<&Retrieval> = report.results.iter().skip(index).step_by(choices.len()).collect();
            if of.is_empty() {
                continue;
            }
            let title = format!("Exact answers ({}), factors: {}", report.kind, choice.name());
            let name = file_name(report.kind, index, choice.name());
            write(&out.join(name), &heat_map(&title, &of).or_work()?)?;
        }
        note(format!("results and heat maps written to {}", out.display()));
        Ok(())
    }
}

impl Prompts<'_> {
    /// The prompt of this index; the same for every set of factors.
    pub fn build(&self, seed: u64, depth: f64, index: usize) -> Result<Prompt, Failure> {
        let slot = (u64::from(self.length) << 32) | index as u64;
        let key = key(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(slot), self.digits).or_input()?;
        let begin = self.tokenizer.bos();
        let filler = match self.documents.get(index % self.documents.len().max(1)) {
            None => Filler::Repeated(self.grass),
            Some(document) => {
                let tokens = document.tokens();
                // The prompt has a beginning of its own.
                Filler::Document(&tokens[usize::from(begin.is_some() && tokens.first().copied() == begin)..])
            }
        };
        let spec = PromptSpec { length: self.length, depth, key, begin };
        let tokenize = |text: &str| self.tokenizer.ids(text).map_err(|error| error.to_string());
        Prompt::build(self.template, &spec, filler, tokenize).or_input()
    }
}

/// `passkey-0-yarn.svg`: names of factor files may hold anything, and two of them may be equal.
fn file_name(kind: &str, index: usize, factors: &str) -> String {
    let plain = |c: char| match c {
        c if c.is_ascii_alphanumeric() || "-_.".contains(c) => c,
        c if std::path::is_separator(c) => '-',
        _ => '_',
    };
    let plain: String = factors.chars().map(plain).take(60).collect();
    format!("{kind}-{index}-{plain}.svg")
}

fn table(report: &Report) -> String {
    let depths = report.results.first().map_or(&[][..], |first| &first.depths);
    let depths: Vec<String> = depths.iter().map(|at| format!("depth {:.0} %", at.depth * 100.0)).collect();
    let mut header = vec!["factors", "length", "prompts", "exact", "answer loss (nats)"];
    header.extend(depths.iter().map(String::as_str));
    let percent = |share: f64| format!("{:.0} %", share * 100.0);
    let rows = report.results.iter().map(|result| {
        let of = [
            result.factors.clone(),
            result.length.to_string(),
            result.prompts.to_string(),
            percent(result.accuracy),
            format!("{:.3}", result.answer_nll),
        ];
        of.into_iter().chain(result.depths.iter().map(|at| percent(at.accuracy()))).collect()
    });
    output::columns(&header, &rows.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_are_plain_and_differ() {
        assert_eq!(file_name("passkey", 0, "yarn"), "passkey-0-yarn.svg");
        assert_eq!(file_name("needle", 1, "../ä b.json"), "needle-1-..-__b.json.svg");
        assert_ne!(file_name("needle", 1, "f.json"), file_name("needle", 2, "f.json"));
    }
}
