//! Names of jobs, models, plans and folders: safe in paths, keys and terminals.

/// Most characters of the name of a job, whose id has ten digits and a dash more.
pub const MOST_OF_JOB: usize = 60;
/// Most characters of the name of a folder that workers look for below their roots.
pub const MOST_OF_FOLDER: usize = 200;

/// A name that cannot be used; says what names look like, to come after the name itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to {most} letters, digits, '-', '_' or '.', the first a letter or digit")]
pub struct NotPlain {
    most: usize,
}

/// Checks that a name has at most `most` characters, all of them letters, digits, `-`, `_` or `.`, the first a letter or digit.
///
/// # Errors
/// [`NotPlain`] where it has others.
pub fn check(name: &str, most: usize) -> Result<(), NotPlain> {
    let mut chars = name.chars();
    let is_plain = chars.next().is_some_and(|c| c.is_ascii_alphanumeric())
        && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if is_plain && name.len() <= most { Ok(()) } else { Err(NotPlain { most }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_safe_anywhere() {
        for name in ["a", "Llama-2_7b.hf", "0", "a.."] {
            assert_eq!(check(name, 14), Ok(()), "{name}");
        }
        for name in
            ["", ".", "..", "-a", "_", "a/b", "a b", "a\n", "\u{1b}[2J", "\u{e9}t\u{e9}", "a\\b", "fifteen-letters"]
        {
            assert_eq!(check(name, 14), Err(NotPlain { most: 14 }), "{name}");
        }
    }
}
