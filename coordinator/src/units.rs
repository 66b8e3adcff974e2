//! Lengths and times as people write them, on the command line and in plans.

/// A length in tokens: a number, `k` for 1,024 of them (`8k`) and `m` for 1,048,576.
///
/// # Errors
/// What could be written instead.
pub fn tokens(text: &str) -> Result<u32, String> {
    scaled(text, &[('k', 1 << 10), ('m', 1 << 20)])
        .and_then(|n| u32::try_from(n).ok())
        .filter(|&n| n > 0)
        .ok_or_else(|| format!("{text:?} is no length: give tokens, for example 8192, 8k or 2m"))
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
        assert_eq!(tokens("2M"), Ok(2_097_152));
        for bad in ["", "k", "-1", "8kk", "0", "99999999999", "18446744073709551615k"] {
            assert!(tokens(bad).is_err(), "{bad}");
        }
        assert_eq!(seconds("90m"), Ok(5400));
        assert_eq!(seconds("30"), Ok(30));
        assert!(seconds("soon").is_err());
    }
}
