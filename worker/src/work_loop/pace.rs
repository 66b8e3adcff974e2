//! How many units to hold: enough that the device never waits for the network, too few to keep them from others.

use std::time::Duration;

/// Work to hold, in time of this worker.
const TARGET: Duration = Duration::from_millis(500);
/// With so little left, the next unit is asked for: more than a round trip to the coordinator.
const LEAD: Duration = Duration::from_millis(250);
/// Most units held, however short they are.
const MOST: usize = 64;
/// Weight of the newest measurement in the average.
const WEIGHT: f64 = 0.25;

/// Follows how long units take.
#[derive(Clone, Debug, Default)]
pub(super) struct Pace {
    /// Seconds a unit takes, averaged; absent before the first.
    unit_seconds: Option<f64>,
    /// Units that run at a time, if more than one.
    together: Option<usize>,
}

// === impl Pace ===

impl Pace {
    /// A unit took this long.
    pub(super) fn record(&mut self, took: Duration) {
        let took = took.as_secs_f64();
        self.unit_seconds = Some(self.unit_seconds.map_or(took, |average| average + WEIGHT * (took - average)));
    }

    /// So many units can run at a time, of which each counts its part of the time.
    pub(super) fn run_together(&mut self, units: usize) {
        self.together = Some(units.clamp(1, MOST)).filter(|units| *units > 1);
    }

    /// Units that run at a time.
    pub(super) fn together(&self) -> usize {
        self.together.unwrap_or(1)
    }

    /// How many units to ask for with `held` in hand, the first of them running for `running`.
    pub(super) fn wanted(&self, held: usize, running: Duration) -> usize {
        if held == 0 {
            return self.target(running);
        }
        match self.target(running) {
            // Long units: the next is fetched shortly before it is needed, so that it can go elsewhere until then.
            1 => usize::from(held == 1 && self.left(running).is_some_and(|left| left <= LEAD)),
            // Short units: by the half dozen and not one by one.
            target if held <= target / 2 => target - held,
            _ => 0,
        }
    }

    /// How many of the held units to hand back, because they turned out to be longer than those before.
    pub(super) fn surplus(&self, held: usize, running: Duration) -> usize {
        // Twice the target and one in reserve, so that noise in the measurement moves nothing back and forth.
        held.saturating_sub(2 * self.target(running) + 1)
    }

    /// After how long [`Self::wanted`] may change its mind although nothing happened.
    pub(super) fn changes_in(&self, held: usize, running: Duration) -> Option<Duration> {
        if held != 1 || self.target(running) != 1 {
            return None;
        }
        self.left(running).and_then(|left| left.checked_sub(LEAD)).filter(|pause| !pause.is_zero())
    }

    /// Units that make up the work to hold. One before anything is known: the first might take minutes.
    fn target(&self, running: Duration) -> usize {
        // A unit that is overdue says more than the average of those before it.
        let seconds = self.unit_seconds.map(|average| average.max(running.as_secs_f64()));
        seconds.map_or(1, |seconds| ((TARGET.as_secs_f64() / seconds) as usize).clamp(self.together(), MOST))
    }

    /// What the running unit probably still takes.
    fn left(&self, running: Duration) -> Option<Duration> {
        // Bounded, because a duration cannot hold every f64.
        self.unit_seconds.map(|seconds| Duration::from_secs_f64(seconds.min(1e6)).saturating_sub(running))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(unit: Duration) -> Pace {
        let mut pace = Pace::default();
        pace.record(unit);
        pace
    }

    const NOT_YET: Duration = Duration::ZERO;

    #[test]
    fn nothing_is_hoarded_before_the_first_measurement() {
        let pace = Pace::default();
        assert_eq!(pace.wanted(0, NOT_YET), 1);
        assert_eq!(pace.wanted(1, Duration::from_secs(3600)), 0);
        assert_eq!(pace.changes_in(1, NOT_YET), None);
    }

    #[test]
    fn short_units_come_in_batches() {
        let pace = pace(Duration::from_millis(1));
        assert_eq!(pace.wanted(0, NOT_YET), MOST);
        assert_eq!(pace.wanted(MOST / 2 + 1, NOT_YET), 0);
        assert_eq!(pace.wanted(MOST / 2, NOT_YET), MOST / 2);
        assert_eq!(self::pace(Duration::ZERO).wanted(0, NOT_YET), MOST);
    }

    #[test]
    fn long_units_are_fetched_when_they_are_needed() {
        let pace = pace(Duration::from_secs(30));
        assert_eq!(pace.wanted(0, NOT_YET), 1);
        assert_eq!(pace.wanted(1, Duration::from_secs(10)), 0);
        assert_eq!(pace.changes_in(1, Duration::from_secs(10)), Some(Duration::from_millis(19_750)));
        assert_eq!(pace.wanted(1, Duration::from_millis(29_800)), 1);
        assert_eq!(pace.wanted(1, Duration::from_secs(40)), 1, "overdue");
        assert_eq!(pace.wanted(2, Duration::from_secs(40)), 0);
    }

    #[test]
    fn what_runs_together_is_leased_together() {
        let mut pace = pace(Duration::from_secs(30));
        pace.run_together(8);
        assert_eq!((pace.wanted(0, NOT_YET), pace.wanted(8, Duration::from_secs(200))), (8, 0));
        assert_eq!(pace.surplus(16, Duration::from_secs(200)), 0);
        pace.run_together(1);
        assert_eq!(pace.wanted(0, NOT_YET), 1);
    }

    #[test]
    fn units_that_turn_out_long_go_back() {
        let pace = pace(Duration::from_millis(10));
        assert_eq!(pace.target(NOT_YET), 50);
        assert_eq!(pace.surplus(64, Duration::from_millis(20)), 13);
        assert_eq!(pace.surplus(64, Duration::from_secs(2)), 61);
        assert_eq!(pace.surplus(3, Duration::from_secs(200)), 0);
    }

    #[test]
    fn odd_measurements_do_no_harm() {
        for unit in [Duration::ZERO, Duration::MAX] {
            let pace = pace(unit);
            assert!((1..=MOST).contains(&pace.wanted(0, Duration::MAX)));
            assert!(pace.wanted(1, NOT_YET) <= MOST);
        }
    }
}
