//! What a plan was worth: perplexity by length and factor set, and retrieval before and after.

use super::comparison::{perplexity, thousands};
use super::{LengthCurve, Retrieval};
use serde::Serialize;
use std::fmt::Write as _;

/// The form of `report.json`.
pub const SCHEMA: &str = "ropewalk.report/v1";
/// The model that the plan began with, as it is shipped.
pub const ORIGINAL: &str = "original";
/// The plan's factors, of a table those of the window that a length lies in.
pub const EXTENDED: &str = "extended";
/// The factors of the longest window at every length.
pub const LONG: &str = "long";

/// Everything that an evaluation measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExtensionReport {
    /// [`SCHEMA`].
    pub schema: String,
    /// The plan.
    pub plan: String,
    /// The model that it extended.
    pub model: String,
    /// That model's window, in tokens.
    pub original_length: u32,
    /// Documents that no search saw.
    pub documents: usize,
    /// Lengths ascending, and for each all factor sets in one order.
    pub perplexity: Vec<PerplexityAt>,
    /// Pass keys before and after; empty where they were not asked for.
    pub retrieval: Vec<RetrievalRun>,
}

/// The perplexity of one set of factors at one length.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PerplexityAt {
    /// Tokens of each document.
    pub length: u32,
    /// Name of the factors.
    pub factors: String,
    /// Name of the model's folder.
    pub model: String,
    /// What multiplies cosine and sine.
    pub attention_factor: f64,
    /// Positions that keep the original angles.
    pub start_tokens: u32,
    /// Of all documents.
    pub perplexity: f64,
    /// Mean loss of each document, in nats a token.
    pub losses: Vec<f64>,
}

/// Retrieval with one model and set of factors.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RetrievalRun {
    /// [`ORIGINAL`] before, [`EXTENDED`] after.
    pub factors: String,
    /// Name of the model's folder.
    pub model: String,
    /// By length.
    pub results: Vec<Retrieval>,
}

// === impl ExtensionReport ===

impl ExtensionReport {
    /// The tables in Markdown.
    pub fn markdown(&self) -> String {
        let mut text = format!(
            "# {}: {}, {} tokens and on\n\nPerplexity of {} documents that no search saw, lower is better; the best of a \
             length in bold.\n`{ORIGINAL}` is the model as it was, all others the fine-tuned one.\n\n",
            self.plan,
            self.model,
            thousands(self.original_length),
            self.documents,
        );
        let names: Vec<&str> = self.first_of_each_length().iter().map(|at| at.factors.as_str()).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| tokens | {} |", names.join(" | "));
        let _ = writeln!(text, "| ---: |{}", " ---: |".repeat(names.len()));
        for row in self.perplexity.chunks(names.len().max(1)) {
            let best = row.iter().map(|at| at.perplexity).fold(f64::INFINITY, f64::min);
            let cell = |at: &PerplexityAt| match perplexity(at.perplexity.is_finite().then_some(at.perplexity)) {
                shown if at.perplexity == best => format!("**{shown}**"),
                shown => shown,
            };
            let cells: Vec<String> = row.iter().map(cell).collect();
            let _ = writeln!(text, "| {} | {} |", thousands(row[0].length), cells.join(" | "));
        }
        if !self.retrieval.is_empty() {
            text.push_str("\nPass keys found exactly by greedy decoding:\n\n| tokens |");
            for run in &self.retrieval {
                let _ = write!(text, " {} |", run.factors);
            }
            let _ = writeln!(text, "\n| ---: |{}", " ---: |".repeat(self.retrieval.len()));
            let lengths = self.retrieval[0].results.len();
            for index in 0..lengths {
                let results = || self.retrieval.iter().filter_map(|run| run.results.get(index));
                let cells: Vec<String> =
                    results().map(|at| format!("{:.0} % of {}", at.accuracy * 100.0, at.prompts)).collect();
                let length = results().next().map_or(0, |at| at.length);
                let _ = writeln!(text, "| {} | {} |", thousands(length), cells.join(" | "));
            }
        }
        text
    }

    /// Perplexity over length, a curve for each set, the plan's own last.
    pub fn curves(&self) -> Vec<LengthCurve> {
        let names = self.first_of_each_length().iter().map(|at| at.factors.clone());
        let points = |name: &str| {
            let of = self.perplexity.iter().filter(|at| at.factors == name);
            of.map(|at| (at.length, at.perplexity)).collect()
        };
        names.map(|name| LengthCurve { points: points(&name), name }).collect()
    }

    /// The perplexity of a set at a length.
    pub fn at(&self, length: u32, factors: &str) -> Option<f64> {
        self.perplexity.iter().find(|at| at.length == length && at.factors == factors).map(|at| at.perplexity)
    }

    fn first_of_each_length(&self) -> &[PerplexityAt] {
        let first = self.perplexity.first().map_or(0, |at| at.length);
        let end = self.perplexity.iter().position(|at| at.length != first).unwrap_or(self.perplexity.len());
        &self.perplexity[..end]
    }
}

#[cfg(test)]
mod tests {
    use super::super::retrieval::AtDepth;
    use super::*;

    #[test]
    fn the_tables_read_well() {
        let at = |length, factors: &str, perplexity: f64| PerplexityAt {
            length,
            factors: factors.to_owned(),
            model: "m".into(),
            attention_factor: 1.0,
            start_tokens: 0,
            perplexity,
            losses: vec![perplexity.ln()],
        };
        let result = Retrieval {
            length: 2048,
            factors: EXTENDED.into(),
            attention_factor: 1.0,
            start_tokens: 0,
            prompts: 4,
            exact: 3,
            accuracy: 0.75,
            answer_nll: 0.1,
            seconds: 1.0,
            depths: vec![AtDepth { depth: 0.0, prompts: 4, exact: 3 }],
        };
        let report = ExtensionReport {
            schema: SCHEMA.into(),
            plan: "lab".into(),
            model: "lab-model".into(),
            original_length: 256,
            documents: 5,
            perplexity: vec![
                at(256, ORIGINAL, 19.41),
                at(256, EXTENDED, 19.5),
                at(2048, ORIGINAL, f64::INFINITY),
                at(2048, EXTENDED, 13.25),
            ],
            retrieval: vec![RetrievalRun { factors: EXTENDED.into(), model: "m".into(), results: vec![result] }],
        };
        let text = report.markdown();
        for line in [
            "| tokens | original | extended |",
            "| 256 | **19.410** | 19.500 |",
            "| 2,048 | - | **13.250** |",
            "| 2,048 | 75 % of 4 |",
        ] {
            assert!(text.contains(&format!("{line}\n")), "{line} in\n{text}");
        }
        assert_eq!(report.at(2048, EXTENDED), Some(13.25));
        let curves = report.curves();
        assert_eq!(curves[1], LengthCurve { name: EXTENDED.into(), points: vec![(256, 19.5), (2048, 13.25)] });
        assert_eq!(report.at(512, EXTENDED), None);
    }
}
