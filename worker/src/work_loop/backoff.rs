//! Waiting longer and longer between attempts, and never in step with other workers.

use std::time::Duration;

/// Pause before the second attempt, jitter aside.
const FIRST: Duration = Duration::from_millis(200);
/// Longest pause: how long a coordinator that is back may wait for its workers.
const LONGEST: Duration = Duration::from_secs(5);

/// The pauses between attempts: each twice the one before, up to a bound, less up to half of it at random.
///
/// The random part keeps a cluster of workers from knocking at the same moment when their coordinator comes back.
#[derive(Clone, Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

// === impl Backoff ===

impl Backoff {
    /// The pause after one more failure; `jitter` is uniform in 0..1.
    pub(super) fn next(&mut self, jitter: f64) -> Duration {
        // 2^16 times the first pause is far above the longest.
        let full = FIRST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        full.mul_f64(1.0 - 0.5 * jitter.clamp(0.0, 1.0))
    }

    /// Something worked: the next failure is a first one.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u128> = (0..7).map(|_| backoff.next(0.0).as_millis()).collect();
        assert_eq!(pauses, [200, 400, 800, 1600, 3200, 5000, 5000]);
        backoff.reset();
        assert_eq!(backoff.next(0.0), FIRST);
    }

    #[test]
    fn jitter_takes_away_at_most_half() {
        let mut backoff = Backoff { failures: u32::MAX };
        for jitter in [0.0, 0.3, 0.999, 7.0, -1.0] {
            let pause = backoff.next(jitter);
            assert!((LONGEST / 2..=LONGEST).contains(&pause), "{pause:?}");
        }
    }
}
