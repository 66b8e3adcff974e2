//! Lengths and times as people write them, on the command line and in plans.

use ropewalk_shared::job::{InvalidShortWindow, ShortWindow};

/// A length in tokens: a number, `k` for 1,024 of them (`8k`) and `m` for 1,048,576.
///
/// # Errors
/// What could be written instead.
pub fn tokens(text: &str) -> Result<u32, String> {
    let number = scaled(text, &[('k', 1 << 10), ('m', 1 << 20)]).filter(|&n| n > 0);
    let number = number.ok_or_else(|| format!("{text:?} is no length: give tokens, for example 8192, 8k or 2m"))?;
    u32::try_from(number).map_err(|_| format!("{text:?} is more than the {} tokens that a length can have", u32::MAX))
}

/// A short window to keep, `LENGTH:PERCENT`, with the units of lengths.
///
/// # Errors
/// What could be written instead.
pub fn short_window(text: &str) -> Result<ShortWindow, String> {
    let in_tokens =
        text.split_once(':').and_then(|(length, percent)| Some(format!("{}:{percent}", tokens(length).ok()?)));
    in_tokens.as_deref().unwrap_or(text).parse().map_err(|error: InvalidShortWindow| error.to_string())
}

/// A time: a number of seconds, or with s, m or h behind it.
///
/// # Errors
/// What could be written instead.
pub fn seconds(text: &str) -> Result<u64, String> {
    scaled(text, &[('s', 1), ('m', 60), ('h', 3600)])
        .ok_or_else(|| format!("{text:?} is no time: give seconds, or for example 90m or 12h"))
}

fn scaled(text: &str, units: &[(char, u64)]) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let unit = units.iter().find(|(letter, _)| lower.ends_with(*letter));
    let (digits, scale) = match unit {
        Some((letter, scale)) => (lower.strip_suffix(*letter)?, *scale),
        None => (lower.as_str(), 1),
    };
    digits.parse::<u64>().ok()?.checked_mul(scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_times_take_units() {
        assert_eq!(tokens("2048"), Ok(2048));
        assert_eq!(tokens("8k"), Ok(8192));
        assert_eq!(short_window("1k:2").unwrap().to_string(), "1024:2");
        assert!(["1k", "k:2", "1k:-1", ":", "1kk:2"].iter().all(|text| short_window(text).is_err()));
        assert_eq!(tokens("2M"), Ok(2_097_152));
        for bad in ["", "k", "-1", "8kk", "0", "99999999999", "18446744073709551615k"] {
            assert!(tokens(bad).is_err(), "{bad}");
        }
        assert_eq!(seconds("90m"), Ok(5400));
        assert_eq!(seconds("30"), Ok(30));
        assert!(seconds("soon").is_err());
    }
}
