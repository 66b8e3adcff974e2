//! Until when a training may go on.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Permission to train, until its lease is nearly over. The training itself looks at it, so that it stops in time even
/// when nobody gets around to tell it: after the machine had stood still, for example.
///
/// What has ended once is not renewed.
#[derive(Debug)]
pub(super) struct Permit(Mutex<Option<Instant>>);

// === impl Permit ===

impl Permit {
    pub(super) fn until(end: Instant) -> Self {
        Self(Mutex::new(Some(end)))
    }

    /// Whether it holds.
    pub(super) fn holds(&self, now: Instant) -> bool {
        self.end().is_some_and(|end| now < end)
    }

    /// When it ends by itself; none where it was withdrawn.
    pub(super) fn ends(&self) -> Option<Instant> {
        *self.end()
    }

    /// Makes it last longer, where it holds.
    pub(super) fn renew(&self, now: Instant, until: Instant) {
        let mut end = self.end();
        *end = end.filter(|end| now < *end).map(|end| end.max(until));
    }

    /// Ends it.
    pub(super) fn withdraw(&self) {
        *self.end() = None;
    }

    fn end(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_has_ended_is_not_renewed() {
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let permit = Permit::until(at(3));
        assert!(permit.holds(at(2)) && !permit.holds(at(3)));
        permit.renew(at(2), at(6));
        // An answer to an earlier report, come late, takes nothing away.
        permit.renew(at(2), at(4));
        assert!(permit.holds(at(5)));
        permit.renew(at(6), at(9));
        assert!(!permit.holds(at(6)));
        let permit = Permit::until(at(3));
        permit.withdraw();
        permit.renew(at(1), at(9));
        assert!(!permit.holds(at(1)) && permit.ends().is_none());
    }
}
