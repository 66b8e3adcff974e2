//! The comparison table: searched factors against none, PI, NTK and YaRN under the same measure.

use ropewalk_shared::baselines::Baseline;
use ropewalk_shared::factor_file::{
    FactorFile, KeptHeldOut, KeptShort, Measured, WITHOUT_PAIR_ATTENTION, WITHOUT_START_TOKENS,
};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::fmt;

/// The name of the searched factors in tables and plots.
pub const SEARCHED: &str = "searched";

/// Rows of the searched factors, whole or less something.
const OWN: [&str; 3] = [SEARCHED, WITHOUT_START_TOKENS, WITHOUT_PAIR_ATTENTION];

/// Perplexities of the searched factors and of what they are compared with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// What was minimised, by the name that the factor file gives it.
    pub kind: String,
    /// Tokens of each sample, where known.
    pub length: Option<u32>,
    /// Samples the search saw.
    pub search_samples: usize,
    /// In the order of the table; the searched factors last.
    pub rows: Vec<Row>,
    /// Short windows that had to be kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept_short: Vec<KeptShort>,
}

/// One set of factors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// `searched`, `none`, the name of a baseline, or the searched factors less what most engines have no place for:
    /// [`WITHOUT_START_TOKENS`], [`WITHOUT_PAIR_ATTENTION`].
    pub factors: String,
    /// Positions below this one keep the original angles.
    pub start_tokens: u32,
    /// What cosine and sine were multiplied by.
    pub attention_factor: f64,
    /// Perplexity on the samples the search saw; absent when the evaluation failed.
    pub search: Option<f64>,
    /// Perplexity on samples it never saw; absent when there were none.
    pub held_out: Option<f64>,
    /// Perplexity of held-out documents, where something else was minimised.
    pub held_out_text: Option<f64>,
}

// === impl Comparison ===

impl Comparison {
    /// The comparison a factor file records; `None` for one without an objective.
    pub fn of_factor_file(file: &FactorFile) -> Option<Self> {
        let objective = file.objective.as_ref()?;
        // Each method as published, then with the attention factor of the search.
        let baselines = Baseline::ALL.iter().flat_map(|b| [b.name().to_owned(), format!("{}-attention", b.name())]);
        let names: Vec<String> = std::iter::once("none".to_owned()).chain(baselines).collect();
        let known = names.iter().filter_map(|name| file.baselines.get_key_value(name));
        let others = file.baselines.iter().filter(|(name, _)| !names.contains(name));
        let row = |(name, measured): (&String, &Measured)| {
            // The one row besides the searched factors that can leave starting tokens alone.
            let start_tokens = if name == WITHOUT_PAIR_ATTENTION { file.start_tokens } else { 0 };
            Row { start_tokens, ..Row::baseline(name, measured) }
        };
        let mut rows: Vec<Row> = known.chain(others).map(row).collect();
        rows.push(Row {
            factors: SEARCHED.to_owned(),
            start_tokens: file.start_tokens,
            attention_factor: file.attention_factor,
            search: finite(objective.value),
            held_out: objective.held_out.and_then(finite),
            held_out_text: objective.held_out_text.and_then(finite),
        });
        Some(Self {
            kind: objective.kind.clone(),
            length: file.target_length,
            search_samples: objective.samples,
            rows,
            kept_short: objective.kept_short.clone(),
        })
    }

    /// The best row: by held-out perplexity where every usable row has one, else by that of the search.
    pub fn best(&self) -> Option<&Row> {
        self.rows.iter().filter(|row| self.value(row).is_some()).min_by(|a, b| self.order(a, b))
    }

    /// How far the best row lies below the searched factors, where that is these factors less something most engines have no place
    /// for: 0.1 for a perplexity 10 % lower.
    pub fn better_without(&self) -> Option<(f64, &Row)> {
        let searched = self.value(self.rows.iter().find(|row| row.factors == SEARCHED)?)?;
        let best = self.best().filter(|row| OWN.contains(&row.factors.as_str()))?;
        (best.factors != SEARCHED).then_some((1.0 - self.value(best)? / searched, best))
    }

    /// How far the searched factors lie below the best of the others: 0.1 for a perplexity 10 % lower, negative where
    /// they are worse.
    pub fn improvement(&self) -> Option<(f64, &Row)> {
        let searched = self.value(self.rows.iter().find(|row| row.factors == SEARCHED)?)?;
        let others = self.rows.iter().filter(|row| !OWN.contains(&row.factors.as_str()));
        let best = others.filter(|row| self.value(row).is_some()).min_by(|a, b| self.order(a, b))?;
        Some((1.0 - searched / self.value(best)?, best))
    }

    /// What the numbers of the table are.
    pub fn measure(&self) -> &str {
        match self.kind.split(':').next().unwrap_or_default() {
            "needle" => "Perplexity of hidden numbers",
            "mixture" => "Perplexity of text and hidden numbers together",
            _ => "Perplexity",
        }
    }

    fn judged_by_held_out(&self) -> bool {
        self.rows.iter().any(|row| row.held_out.is_some())
            && self.rows.iter().all(|row| row.held_out.is_some() || row.search.is_none())
    }

    fn value(&self, row: &Row) -> Option<f64> {
        if self.judged_by_held_out() { row.held_out } else { row.search }
    }

    fn order(&self, a: &Row, b: &Row) -> Ordering {
        let value = |row| self.value(row).unwrap_or(f64::INFINITY);
        value(a).total_cmp(&value(b))
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has_held_out = self.rows.iter().any(|row| row.held_out.is_some());
        let has_text = self.rows.iter().any(|row| row.held_out_text.is_some());
        let header = ["", "factors", "start tokens", "attention", "search", "held-out", "held-out text"];
        let mut table = vec![header.map(str::to_owned)];
        let best = self.best().map(|best| best.factors.as_str());
        for row in &self.rows {
            table.push([
                if Some(row.factors.as_str()) == best { "*" } else { "" }.to_owned(),
                row.factors.clone(),
                row.start_tokens.to_string(),
                format!("{:.4}", row.attention_factor),
                perplexity(row.search),
                perplexity(row.held_out),
                perplexity(row.held_out_text),
            ]);
        }
        match self.length {
            Some(length) => writeln!(f, "{} at {} tokens, lower is better", self.measure(), thousands(length))?,
            None => writeln!(f, "{}, lower is better", self.measure())?,
        }
        let columns = match (has_held_out, has_text) {
            (_, true) => 7,
            (true, false) => 6,
            (false, false) => 5,
        };
        let width = |column: usize| table.iter().map(|row| row[column].len()).max().unwrap_or(0);
        for (at, row) in table.iter().enumerate() {
            let cells: Vec<String> = (0..columns)
                .map(|column| match (column, width(column)) {
                    // Names to the left, numbers to the right.
                    (0, _) => format!("{:1}", row[0]),
                    (1, width) => format!("{:width$}", row[1]),
                    (_, width) => format!("{:>width$}", row[column]),
                })
                .collect();
            writeln!(f, "{}", cells.join("  ").trim_end())?;
            if at == 0 {
                let rules: Vec<String> = (1..columns).map(|column| "-".repeat(width(column))).collect();
                writeln!(f, "   {}", rules.join("  "))?;
            }
        }
        let judge = if self.judged_by_held_out() { "on held-out samples" } else { "on the samples of the search" };
        if let Some((share, other)) = self.improvement() {
            let direction = if share >= 0.0 { "below" } else { "ABOVE" };
            let percent = 100.0 * share.abs();
            writeln!(f, "* best {judge}; searched is {percent:.1} % {direction} the best other ({})", other.factors)?;
        }
        // Less than what is shown of it is none.
        if let Some((share, Row { factors, .. })) = self.better_without().filter(|(share, _)| *share >= 5e-5) {
            let hint = if factors == WITHOUT_START_TOKENS { " (`ropewalk export --drop-start-tokens`)" } else { "" };
            writeln!(f, "{factors}{hint} is {:.2} % below searched", 100.0 * share)?;
        }
        for KeptShort { length, percent, value, shipped, held_out } in &self.kept_short {
            let length = thousands(*length);
            write!(f, "At {length} tokens: {value:.3}, as shipped {shipped:.3}, allowed {percent} % above")?;
            match held_out {
                Some(KeptHeldOut { value, shipped }) => {
                    let above = 100.0 * (value / shipped - 1.0);
                    writeln!(f, "; held-out {value:.3}, as shipped {shipped:.3} ({above:+.1} %)")?;
                }
                None => writeln!(f)?,
            }
        }
        Ok(())
    }
}

impl Row {
    fn baseline(name: &str, measured: &Measured) -> Self {
        Self {
            factors: name.to_owned(),
            start_tokens: 0,
            attention_factor: measured.attention_factor,
            search: finite(measured.value),
            held_out: measured.held_out.and_then(finite),
            held_out_text: measured.held_out_text.and_then(finite),
        }
    }
}

fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

/// A perplexity with the digits that mean something.
pub(crate) fn perplexity(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value < 1e4 => format!("{value:.3}"),
        Some(value) if value < 1e7 => format!("{value:.0}"),
        Some(value) => format!("{value:.2e}"),
    }
}

/// A number with commas between thousands.
pub(crate) fn thousands(number: impl Into<u64>) -> String {
    let digits = number.into().to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use ropewalk_shared::factor_file::Objective;
    use ropewalk_shared::rope::Rescale;

    fn file() -> FactorFile {
        let mut file = FactorFile::from_rescale(Rescale {
            factors: vec![1.0],
            start_tokens: 4,
            attention_factor: 1.1726,
            pair_attention: Vec::new(),
        });
        file.target_length = Some(2048);
        file.objective = Some(Objective {
            kind: "perplexity".into(),
            value: 14.5,
            samples: 5,
            held_out: Some(15.25),
            held_out_text: None,
            kept_short: Vec::new(),
        });
        let measured = |value, held_out| Measured { value, held_out, attention_factor: 1.0, held_out_text: None };
        for (name, value, held_out) in [
            ("yarn-factors", 20.1, Some(21.0)),
            ("yarn", 16.25, Some(16.5)),
            ("none", 75.094, Some(74.9)),
            ("pi", 12_345.6, Some(1e9)),
            ("ntk", f64::INFINITY, None),
        ] {
            file.baselines.insert(name.into(), measured(value, held_out));
        }
        file
    }

    #[test]
    fn the_table_is_aligned_and_marks_the_best() {
        let text = Comparison::of_factor_file(&file()).unwrap().to_string();
        let expected = "\
Perplexity at 2,048 tokens, lower is better
   factors       start tokens  attention  search  held-out
   ------------  ------------  ---------  ------  --------
   none                     0     1.0000  75.094    74.900
   pi                       0     1.0000   12346    1.00e9
   ntk                      0     1.0000       -         -
   yarn                     0     1.0000  16.250    16.500
   yarn-factors             0     1.0000  20.100    21.000
*  searched                 4     1.1726  14.500    15.250
* best on held-out samples; searched is 7.6 % below the best other (yarn)
";
        assert_eq!(text, expected, "\n{text}");
    }

    #[test]
    fn text_stands_beside_what_was_minimised() {
        let mut file = file();
        let objective = file.objective.as_mut().unwrap();
        (objective.kind, objective.held_out_text) = ("needle".into(), Some(20.5));
        let text = Comparison::of_factor_file(&file).unwrap().to_string();
        assert!(text.starts_with("Perplexity of hidden numbers at 2,048 tokens"), "{text}");
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].ends_with("held-out  held-out text") && lines[8].ends_with("15.250         20.500"), "{text}");
        assert!(lines[3].ends_with("74.900              -"), "{text}");
    }

    #[test]
    fn short_windows_that_had_to_be_kept_are_told() {
        let mut file = file();
        let kept = KeptShort { length: 1024, percent: 2.5, value: 20.25, shipped: 20.0, held_out: None };
        let held_out = Some(KeptHeldOut { value: 24.6, shipped: 24.0 });
        file.objective.as_mut().unwrap().kept_short = vec![kept, KeptShort { length: 2000, held_out, ..kept }];
        let text = Comparison::of_factor_file(&file).unwrap().to_string();
        let expected = "\
At 1,024 tokens: 20.250, as shipped 20.000, allowed 2.5 % above
At 2,000 tokens: 20.250, as shipped 20.000, allowed 2.5 % above; held-out 24.600, as shipped 24.000 (+2.5 %)
";
        assert!(text.ends_with(expected), "{text}");
    }

    #[test]
    fn a_search_that_lost_is_said_to_have_lost() {
        let mut file = file();
        file.objective.as_mut().unwrap().held_out = Some(18.0);
        let comparison = Comparison::of_factor_file(&file).unwrap();
        assert_eq!(comparison.best().unwrap().factors, "yarn");
        assert!(comparison.to_string().contains("searched is 9.1 % ABOVE the best other (yarn)"), "{comparison}");
    }

    #[test]
    fn the_searched_factors_may_be_better_without_their_starting_tokens() {
        let mut file = file();
        let without = Measured { value: 14.75, held_out: Some(15.0), attention_factor: 1.1726, held_out_text: None };
        file.baselines.insert(WITHOUT_START_TOKENS.into(), without);
        let text = Comparison::of_factor_file(&file).unwrap().to_string();
        // 15 of 15.25 is 1.64 % less.
        let end = "\
* best on held-out samples; searched is 7.6 % below the best other (yarn)
without-start-tokens (`ropewalk export --drop-start-tokens`) is 1.64 % below searched
";
        assert!(text.ends_with(end) && text.contains("*  without-start-tokens"), "{text}");
        for held_out in [15.5, 15.2499] {
            file.baselines.get_mut(WITHOUT_START_TOKENS).unwrap().held_out = Some(held_out);
            let text = Comparison::of_factor_file(&file).unwrap().to_string();
            assert!(text.ends_with("other (yarn)\n"), "{text}");
        }
    }

    #[test]
    fn without_held_out_samples_the_search_decides() {
        let mut file = file();
        file.objective.as_mut().unwrap().held_out = None;
        file.baselines.values_mut().for_each(|measured| measured.held_out = None);
        let comparison = Comparison::of_factor_file(&file).unwrap();
        assert_eq!(comparison.best().unwrap().factors, SEARCHED);
        let text = comparison.to_string();
        assert!(!text.contains("held-out") && text.contains("on the samples of the search"), "{text}");
        file.objective = None;
        assert_eq!(Comparison::of_factor_file(&file), None);
    }
}
