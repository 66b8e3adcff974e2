//! Reading factors: a factor file, the three numbers of one, or CSV.

use super::csv;
use super::error::{InvalidFactors, ReadFactorsError};
use ropewalk_shared::factor_file::{FactorFile, MAX_BYTES};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Fields of a factor file.
const FIELDS: [&str; 15] = [
    "schema",
    "model",
    "original_length",
    "target_length",
    "extension_ratio",
    "rescale_factors",
    "start_tokens",
    "attention_factor",
    "pair_attention",
    "windows",
    "objective",
    "baselines",
    "search",
    "created_by",
    // What an export without starting tokens adds, for people.
    "dropped_start_tokens",
];

/// Factors that were read.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadFactors {
    /// What the file says; nothing but the factors for CSV.
    pub file: FactorFile,
    /// What the user should know of it.
    pub notices: Vec<String>,
}

/// Reads factors from a file and checks them, against a model's number of rotary pairs where that is known.
///
/// # Errors
/// [`ReadFactorsError`] names the file and what is wrong with it.
pub fn read_factors(path: &Path, pairs: Option<usize>) -> Result<ReadFactors, ReadFactorsError> {
    let io = |source| ReadFactorsError::Io { path: path.to_owned(), source };
    let mut content = Vec::new();
    // One byte more than is accepted, so that a file that is too large is seen to be.
    File::open(path).map_err(io)?.take(MAX_BYTES as u64 + 1).read_to_end(&mut content).map_err(io)?;
    parse_factors(&content, pairs).map_err(|reason| ReadFactorsError::Content { path: path.to_owned(), reason })
}

/// Reads factors from a file's content. What begins with `{` is JSON, all else CSV.
///
/// # Errors
/// [`InvalidFactors`] says what is wrong.
pub fn parse_factors(content: &[u8], pairs: Option<usize>) -> Result<ReadFactors, InvalidFactors> {
    let text = std::str::from_utf8(content).map_err(|_| InvalidFactors::NotText)?;
    let text = text.trim_start_matches('\u{feff}');
    let file = if text.trim_start().starts_with('{') || content.len() > MAX_BYTES {
        FactorFile::from_json(text)?
    } else {
        FactorFile::from_rescale(ropewalk_shared::rope::Rescale::with_factors(csv::parse(text, pairs)?))
    };
    file.rescale().check(pairs.unwrap_or(file.rescale_factors.len()))?;
    let mut notices = notices(&file);
    notices.extend(unknown(text));
    Ok(ReadFactors { file, notices })
}

/// Fields that were not read: what is misspelt would have no effect without a word.
fn unknown(text: &str) -> Option<String> {
    let object = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text).ok()?;
    let unknown = object.keys().filter(|key| !FIELDS.contains(&key.as_str())).take(8);
    let unknown: Vec<String> = unknown.map(|key| format!("{key:?}")).collect();
    (!unknown.is_empty()).then(|| format!("{} is no field of a factor file, and is not read", unknown.join(", ")))
}

fn notices(file: &FactorFile) -> Vec<String> {
    let mut notices = Vec::new();
    let falls: Vec<String> = (1..file.rescale_factors.len())
        .filter(|&pair| file.rescale_factors[pair] < file.rescale_factors[pair - 1])
        .map(|pair| pair.to_string())
        .collect();
    if !falls.is_empty() {
        let shown = falls.iter().take(8).cloned().collect::<Vec<_>>().join(", ");
        let more = if falls.len() > 8 { ", …" } else { "" };
        notices.push(format!(
            "the factors are not monotone: {} smaller than the one before (pair {shown}{more}); they are used as they \
             are, and raised to be monotone where a search starts from them",
            if falls.len() == 1 { "one is".to_owned() } else { format!("{} are", falls.len()) },
        ));
    }
    if let Some(pair) = file.rescale_factors.iter().position(|&factor| factor < 1.0) {
        notices.push(format!("factor {pair} is below 1: it makes its pair turn faster than in the original model"));
    }
    notices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_reads_alike() {
        for text in [r#"{"rescale_factors": [1.0, 2.5]}"#, "1,2.5", "1\n2.5\n"] {
            let read = parse_factors(text.as_bytes(), Some(2)).unwrap();
            assert_eq!(read.file.rescale_factors, [1.0, 2.5]);
            assert!(read.notices.is_empty());
        }
        let full = r#" {"rescale_factors": [1.0, 2.5], "start_tokens": 4, "attention_factor": 1.1}"#;
        let file = parse_factors(full.as_bytes(), None).unwrap().file;
        assert_eq!((file.start_tokens, file.attention_factor), (4, 1.1));
    }

    #[test]
    fn what_is_not_read_is_said() {
        let read =
            parse_factors(br#"{"rescale_factors": [1.0], "atention_factor": 3, "created_by": "me"}"#, None).unwrap();
        assert_eq!(read.notices, ["\"atention_factor\" is no field of a factor file, and is not read"]);
    }

    #[test]
    fn factors_that_fall_are_accepted_with_a_notice() {
        let read = parse_factors(b"1,3,2.5,4", Some(4)).unwrap();
        assert_eq!(read.file.rescale_factors, [1.0, 3.0, 2.5, 4.0]);
        assert!(read.notices[0].contains("not monotone") && read.notices[0].contains("pair 2"), "{:?}", read.notices);
    }

    #[test]
    fn what_a_model_cannot_use_is_refused() {
        for (text, expected) in [
            ("1,2,3", "3 rescale factors given, the model needs 8"),
            (r#"{"rescale_factors": [1.0]}"#, "1 rescale factors given, the model needs 8"),
            ("1,1,1,1,1,1,1,0", "rescale factor 7 is 0"),
            ("1,1,-1,1,1,1,1,1", "rescale factor 2 is -1"),
            ("1,1,inf,1,1,1,1,1", "rescale factor 2 is inf"),
            ("1,1,nan,1,1,1,1,1", "rescale factor 2 is NaN"),
            (r#"{"schema": "ropewalk.factors/v2", "rescale_factors": [1.0]}"#, "ropewalk.factors/v2"),
            ("{", "not a factor file"),
            ("", "empty"),
        ] {
            let error = parse_factors(text.as_bytes(), Some(8)).unwrap_err().to_string();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
        assert!(matches!(parse_factors(b"\xff\xfe1", None), Err(InvalidFactors::NotText)));
        assert!(parse_factors(&vec![b'1'; MAX_BYTES + 1], None).is_err());
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = read_factors(Path::new("no/such/factors.json"), None).unwrap_err().to_string();
        assert!(error.contains("no/such/factors.json"), "{error}");
    }
}
