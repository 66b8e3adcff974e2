//! How often trainings and plans are tried again that made no progress, and after which pause.

use std::time::Duration;

/// What was tried this often without progress has failed.
pub(super) const MAX_FRUITLESS: u32 = 6;
/// Pause after the first fruitless try; it triples with each, to nearly 7 minutes. A disk that is full is full for longer than
/// seconds.
const FIRST_PAUSE: Duration = Duration::from_secs(5);

/// The pause after so many fruitless tries; none where that is enough of them.
pub(super) fn pause_after(fruitless: u32) -> Option<Duration> {
    (fruitless < MAX_FRUITLESS).then(|| FIRST_PAUSE * 3_u32.pow(fruitless.saturating_sub(1)))
}
