//! What `ropewalk eval` prints for people.

use super::{Measurement, Report};
use crate::cli::output;
use crate::report::comparison::{perplexity, thousands};

/// Perplexities by length and set of factors where there are several of both, else every measurement with its speed.
pub fn table(report: &Report) -> String {
    let mut text = by_length(&report.results).unwrap_or_else(|| one_by_one(&report.results));
    for result in &report.results {
        if let Some(slope) = &result.gradient {
            let (name, length) = (&result.factors, result.length);
            text += &format!("\n\nd loss / d ln factor of {name} at {length}, by rotary pair:\n{}", slope.describe());
        }
    }
    text
}

fn one_by_one(results: &[Measurement]) -> String {
    let header =
        ["factors", "length", "documents", "attention factor", "loss (nats)", "perplexity", "tokens/s", "peak MiB"];
    let rows = results.iter().map(|result| {
        vec![
            result.factors.clone(),
            result.length.to_string(),
            result.documents.to_string(),
            format!("{:.4}", result.attention_factor),
            format!("{:.5}", result.nll),
            format!("{:.3}", result.perplexity),
            format!("{:.0}", result.tokens_per_second),
            result.peak_rss_mib.map_or_else(|| "-".to_owned(), |mib| format!("{mib:.0}")),
        ]
    });
    output::columns(&header, &rows.collect::<Vec<_>>())
}

/// A row for each length, a column for each set; none with a single length or a single set.
fn by_length(results: &[Measurement]) -> Option<String> {
    let first = results.first()?;
    // Results stand in the order of lengths, and for each of them in that of the sets.
    let sets = results.iter().take_while(|result| result.length == first.length).count();
    if sets < 2 || sets == results.len() {
        return None;
    }
    let mut header = vec!["length", "documents"];
    header.extend(results[..sets].iter().map(|result| result.factors.as_str()));
    let rows = results.chunks(sets).map(|row| {
        let start = [thousands(row[0].length), row[0].documents.to_string()];
        // An interruption leaves the last row unfinished.
        let cells = row.iter().map(cell).chain(std::iter::repeat("-".to_owned()));
        start.into_iter().chain(cells.take(sets)).collect()
    });
    Some(format!("Perplexity by length, lower is better\n{}", output::columns(&header, &rows.collect::<Vec<_>>())))
}

/// The perplexity; of a factor table with the window whose set it is.
fn cell(result: &Measurement) -> String {
    let value = perplexity(Some(result.perplexity).filter(|value| value.is_finite()));
    match result.window_from {
        Some(from) => format!("{value} (set from {})", thousands(from)),
        None => value,
    }
}
