//! Numbers and times as people read them.

use crate::engine::utc;
pub(super) use crate::report::comparison::thousands;

/// A moment to the second, as `2026-01-31 23:59:59`.
pub(super) fn moment(unix_ms: u64) -> String {
    utc(unix_ms).trim_end_matches(" UTC").to_owned()
}

/// How long ago, in its largest unit.
pub(super) fn ago(now_ms: u64, then_ms: u64) -> String {
    let seconds = now_ms.saturating_sub(then_ms) / 1000;
    match seconds {
        0..60 => format!("{seconds} s ago"),
        60..3600 => format!("{} min ago", seconds / 60),
        3600..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

/// Bytes in the unit that fits.
pub(super) fn bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let power = (bytes.max(1).ilog2() / 10).min(4);
    match power {
        0 => format!("{bytes} B"),
        _ => format!("{:.1} {}", bytes as f64 / f64::from(1 << 10).powi(power as i32), units[power as usize]),
    }
}

/// A perplexity, where there is one.
pub(super) fn perplexity(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(moment(1_767_225_599_999), "2025-12-31 23:59:59");
        assert_eq!([ago(100_000, 99_000), ago(7_300_000, 0), ago(5, 9)], ["1 s ago", "2 h ago", "0 s ago"]);
        assert_eq!([bytes(0), bytes(1023), bytes(1536), bytes(5 << 30)], ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]);
        assert_eq!([thousands(999_u64), thousands(1_234_567_u64)], ["999", "1,234,567"]);
    }
}
