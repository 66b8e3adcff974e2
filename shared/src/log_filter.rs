//! What `--log` may say: a level, or levels by target.

/// Levels, the quietest first.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Takes a filter of log lines as it was typed: parts between commas, each a level or `target=level`.
///
/// A word that is neither would pass for a target of which everything is logged. Filters by spans (`[…]`) are left to
/// whoever reads them.
///
/// # Errors
/// The part that is none of these, in words.
pub fn parse(text: &str) -> Result<String, String> {
    let is_level = |level: &str| LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level));
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let level_of = |part: &'_ str| part.rsplit_once('=').map_or(part.to_owned(), |(_, level)| level.to_owned());
    match parts.filter(|_| !text.contains('[')).map(level_of).find(|level| !is_level(level)) {
        Some(level) => Err(format!(
            "{level:?} is no level: give {}, or levels by target such as ropewalk_worker=debug",
            LEVELS.join(", ")
        )),
        None => Ok(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_levels_by_target_are_taken() {
        for text in
            ["info", "WARN", "warn,sled=error", "info, ropewalk_worker::evaluator=trace", "[unit{id=4}]=info", ""]
        {
            assert_eq!(parse(text).as_deref(), Ok(text));
        }
    }

    #[test]
    fn a_mistyped_level_is_refused() {
        for (text, part) in [("inof", "inof"), ("warn,ropewalk", "ropewalk"), ("ropewalk=loud", "loud"), ("x=", "")] {
            assert!(parse(text).unwrap_err().starts_with(&format!("{part:?} is no level")), "{text}");
        }
    }
}
