//! Checks of single fields, and the error that names the field.

/// A message that cannot be accepted: which field, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("field {field}: {problem}")]
pub struct InvalidField {
    /// Name of the field in the message.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: FieldProblem,
}

/// What can be wrong with a field.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FieldProblem {
    /// Not set.
    #[error("is missing")]
    Missing,
    /// An enum's zero, or a number that this version has no name for.
    #[error("{0} is not a known choice")]
    Unknown(i32),
    /// A digest of another length.
    #[error("has {got} bytes, expected {expected}")]
    Bytes {
        /// Bytes given.
        got: usize,
        /// Bytes of the digest.
        expected: usize,
    },
    /// A list, text or number beyond its bound.
    #[error("is {got}, at most {most} are accepted")]
    TooLarge {
        /// What was given: entries, bytes or the number itself.
        got: u64,
        /// The bound.
        most: u64,
    },
    /// Anything else, in the words of the domain's own check.
    #[error("{0}")]
    Value(String),
}

// === checks ===

pub(super) fn invalid(field: &'static str, problem: FieldProblem) -> InvalidField {
    InvalidField { field, problem }
}

/// For `map_err` on the domain's own checks.
pub(super) fn value<E: std::fmt::Display>(field: &'static str) -> impl Fn(E) -> InvalidField {
    move |error| invalid(field, FieldProblem::Value(error.to_string()))
}

pub(super) fn present<T>(field: &'static str, option: Option<T>) -> Result<T, InvalidField> {
    option.ok_or(invalid(field, FieldProblem::Missing))
}

pub(super) fn digest<const N: usize>(field: &'static str, bytes: &[u8]) -> Result<[u8; N], InvalidField> {
    bytes.try_into().map_err(|_| invalid(field, FieldProblem::Bytes { got: bytes.len(), expected: N }))
}

/// A list of digests.
pub(super) fn digests<T: From<[u8; 32]>>(
    field: &'static str,
    list: &[Vec<u8>],
    most: usize,
) -> Result<Vec<T>, InvalidField> {
    at_most(field, list.len() as u64, most as u64)?;
    list.iter().map(|bytes| digest::<32>(field, bytes).map(T::from)).collect()
}

pub(super) fn at_most(field: &'static str, got: u64, most: u64) -> Result<(), InvalidField> {
    if got <= most { Ok(()) } else { Err(invalid(field, FieldProblem::TooLarge { got, most })) }
}

/// A line for people: bounded, and without characters that would upset a terminal.
pub(super) fn line(field: &'static str, text: String, most: usize) -> Result<String, InvalidField> {
    at_most(field, text.len() as u64, most as u64)?;
    if text.chars().any(char::is_control) {
        return Err(invalid(field, FieldProblem::Value("has control characters".into())));
    }
    Ok(text)
}

/// A number of seconds and the like: finite and not negative.
pub(super) fn amount(field: &'static str, number: f64) -> Result<f64, InvalidField> {
    if number.is_finite() && number >= 0.0 {
        Ok(number)
    } else {
        Err(invalid(field, FieldProblem::Value(format!("{number} must be finite and not negative"))))
    }
}
