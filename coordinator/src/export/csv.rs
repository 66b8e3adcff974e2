//! Format `csv`: one factor a line, as the LongRoPE authors' code reads and writes them.

use super::error::InvalidFactors;
use super::{DroppedStartTokens, Export, ExportError, Format, refuse_pair_attention, refuse_start_tokens};
use ropewalk_shared::factor_file::FactorFile;
use std::fmt::Write;

/// `rotary_dim / 2` lines of one number.
///
/// # Errors
/// [`ExportError::StartTokens`] unless there are none, or they were dropped; [`ExportError::PairAttention`] where pairs have
/// attention factors of their own; [`ExportError::ManyWindows`] for a table of more than one set.
pub fn export(file: &FactorFile, dropped: Option<&DroppedStartTokens>) -> Result<Export, ExportError> {
    if let [first, .., last] = &file.windows[..] {
        let (count, first, last) = (file.windows.len(), first.from_length, last.from_length);
        return Err(ExportError::ManyWindows { count, first, last, format: Format::Csv });
    }
    refuse_pair_attention(file, Format::Csv)?;
    let mut notes: Vec<String> = refuse_start_tokens(file, Format::Csv, dropped)?.into_iter().collect();
    notes.push(format!(
        "the file holds the factors alone: set the attention factor ({}) where you use it",
        file.attention_factor
    ));
    let mut content = String::new();
    for factor in &file.rescale_factors {
        // The shortest decimals that read back as the same number; writing to a string cannot fail.
        let _ = writeln!(content, "{factor:?}");
    }
    Ok(Export { content, notes, ..Export::default() })
}

/// Reads comma-separated factors: one row, one column, or the same row for every layer.
///
/// # Errors
/// [`InvalidFactors`]. With `pairs`, files with one or two numbers too many are told apart from other mistakes: some
/// programs put the number of starting tokens, or the boundaries of a piecewise search, before the factors.
pub fn parse(text: &str, pairs: Option<usize>) -> Result<Vec<f64>, InvalidFactors> {
    let mut rows: Vec<(usize, Vec<f64>)> = Vec::new();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        rows.push((at + 1, numbers(line, at + 1)?));
    }
    let Some((_, first)) = rows.first().cloned() else { return Err(InvalidFactors::Empty) };
    let factors = if rows.iter().all(|(_, row)| row.len() == 1) {
        rows.iter().flat_map(|(_, row)| row.iter().copied()).collect()
    } else {
        for (line, row) in &rows {
            if row.len() != first.len() {
                return Err(InvalidFactors::Ragged { line: *line, got: row.len(), expected: first.len() });
            }
            // By total order, so that NaN equals itself and is refused as what it is.
            if row.iter().zip(&first).any(|(a, b)| a.total_cmp(b).is_ne()) {
                return Err(InvalidFactors::LayersDiffer { line: *line });
            }
        }
        first
    };
    let meaning = match pairs.and_then(|pairs| factors.len().checked_sub(pairs)) {
        Some(1) => "a number of starting tokens",
        Some(2) => "the two boundaries of a piecewise search",
        _ => return Ok(factors),
    };
    let pairs = pairs.unwrap_or_default();
    let extra: Vec<String> = factors[..factors.len() - pairs].iter().map(f64::to_string).collect();
    Err(InvalidFactors::Leading { got: factors.len(), pairs, extra: extra.join(", "), meaning })
}

fn numbers(line: &str, at: usize) -> Result<Vec<f64>, InvalidFactors> {
    // A comma at the end of a line separates nothing.
    let line = line.trim().trim_start_matches('\u{feff}');
    let line = line.strip_suffix(',').unwrap_or(line);
    let number = |text: &str| {
        let not_a_number = || InvalidFactors::NotANumber { line: at, text: text.trim().chars().take(40).collect() };
        text.trim().parse::<f64>().map_err(|_| not_a_number())
    };
    line.split(',').map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_columns_and_equal_layers_say_the_same() {
        for text in ["1,1.5,2", "1\n1.5\n2\n", "1.0, 1.5, 2.0\r\n", "1,1.5,2\n1,1.5,2\n1,1.5,2,\n\n"] {
            assert_eq!(parse(text, Some(3)).unwrap(), [1.0, 1.5, 2.0], "{text:?}");
        }
    }

    #[test]
    fn leading_numbers_are_named() {
        let error = parse("4\n1\n1.5\n2\n", Some(3)).unwrap_err().to_string();
        assert!(error.contains("4 numbers") && error.contains("leading 4 look like a number of starting"), "{error}");
        let error = parse("12\n40\n1\n1.5\n2\n", Some(3)).unwrap_err().to_string();
        assert!(error.contains("leading 12, 40 look like the two boundaries"), "{error}");
    }

    #[test]
    fn what_is_no_table_of_factors_is_refused() {
        for (text, expected) in [
            ("", "empty"),
            ("\n \n", "empty"),
            ("1,2\n1,2,3", "line 2 has 3 numbers, the lines before have 2"),
            ("1,2\n1,2.5", "line 2 differs"),
            ("lambda\n1\n2", "line 1: \"lambda\" is no number"),
            ("1,,2", "line 1: \"\" is no number"),
        ] {
            let error = parse(text, Some(2)).unwrap_err().to_string();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }
}
