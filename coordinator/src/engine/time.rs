//! The time, which comes in as an argument.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A moment, by the clock that only goes forward and by the one on the wall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Since the coordinator started.
    pub since_start: Duration,
    /// Milliseconds since 1970.
    pub unix_ms: u64,
}

/// Where [`Now`] comes from in a running coordinator.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    start: Instant,
}

// === impl Clock ===

impl Clock {
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    pub fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { since_start: self.start.elapsed(), unix_ms: unix.as_millis() as u64 }
    }
}

// === impl Now ===

impl Now {
    /// An earlier moment on the wall clock.
    pub fn unix_ms_at(&self, since_start: Duration) -> u64 {
        let ago = self.since_start.saturating_sub(since_start);
        self.unix_ms.saturating_sub(ago.as_millis() as u64)
    }
}

/// A moment as people read it, in UTC: `2026-01-31 23:59:59 UTC`.
pub fn utc(unix_ms: u64) -> String {
    let seconds = unix_ms / 1000;
    let (day, second) = (seconds / 86_400, seconds % 86_400);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let (year, month, day) = civil(day);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// Year, month and day of a day since 1970. Years begin in March here, so that a leap day is the last of its year.
fn civil(days_since_1970: u64) -> (u64, u64, u64) {
    let days = days_since_1970 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_read_as_dates() {
        assert_eq!(utc(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(utc(951_782_400_000), "2000-02-29 00:00:00 UTC");
        assert_eq!(utc(1_767_225_599_999), "2025-12-31 23:59:59 UTC");
    }
}
