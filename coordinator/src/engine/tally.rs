//! What the engine has done since it started, counted as it does it.

use ropewalk_shared::outcome::FailureKind;
use ropewalk_shared::work::{UnitOutcome, UnitReport, Verdict};
use std::collections::HashMap;

/// Counts that only rise, from 0 at the start of the process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Workers that registered.
    pub registered: u64,
    /// Units that were leased.
    pub leased: u64,
    /// Leases that were not renewed in time.
    pub expired: u64,
    /// Results by what became of them.
    pub results: HashMap<Verdict, u64>,
    /// Counted tokens of the results that were accepted.
    pub tokens: u64,
    /// Evaluations that workers stopped because nobody wanted them any more.
    pub stopped: u64,
    /// Failures that workers reported, by kind.
    pub failures: HashMap<FailureKind, u64>,
    /// Candidates that were given up.
    pub candidates_failed: u64,
    /// When the last result was accepted, in milliseconds since 1970; absent before the first.
    pub last_result_ms: Option<u64>,
}

// === impl Tally ===

impl Tally {
    /// Counts a report with what became of it.
    pub(super) fn report(&mut self, report: &UnitReport, verdict: Verdict, unix_ms: u64) {
        let loss = match &report.outcome {
            UnitOutcome::Loss { loss, .. } | UnitOutcome::Gradient { loss, .. } => loss,
            UnitOutcome::Stopped { .. } => return self.stopped += 1,
            // One that was reported before, or by nobody who held the unit, is no failure.
            UnitOutcome::Failure(_) if verdict != Verdict::Accepted => return,
            UnitOutcome::Failure(failure) => return *self.failures.entry(failure.kind).or_default() += 1,
        };
        *self.results.entry(verdict).or_default() += 1;
        if verdict == Verdict::Accepted {
            self.tokens = self.tokens.saturating_add(loss.tokens);
            self.last_result_ms = Some(unix_ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ropewalk_shared::outcome::{Loss, UnitFailure};
    use ropewalk_shared::rope::Rescale;
    use ropewalk_shared::sample::SampleId;
    use ropewalk_shared::work::LeaseId;

    #[test]
    fn results_count_by_verdict_and_failures_once() {
        let report = |outcome| UnitReport {
            lease: LeaseId(1),
            job: "job-0123456789".parse().unwrap(),
            rescale: Rescale::identity(2),
            sample: SampleId::from([0; 32]),
            outcome,
        };
        let loss = report(UnitOutcome::Loss { loss: Loss { nll_sum: 10.0, tokens: 7 }, seconds: 0.5 });
        let kind = FailureKind::TooLarge;
        let failure = report(UnitOutcome::Failure(UnitFailure { kind, reason: "no room".into() }));
        let mut tally = Tally::default();
        tally.report(&loss, Verdict::Accepted, 40);
        tally.report(&loss, Verdict::Duplicate, 50);
        tally.report(&failure, Verdict::Accepted, 60);
        tally.report(&failure, Verdict::Duplicate, 70);
        tally.report(&report(UnitOutcome::Stopped { share: 0.5, seconds: 1.0 }), Verdict::NotWanted, 80);
        assert_eq!(tally.results, HashMap::from([(Verdict::Accepted, 1), (Verdict::Duplicate, 1)]));
        assert_eq!((tally.tokens, tally.last_result_ms, tally.stopped), (7, Some(40), 1));
        assert_eq!(tally.failures, HashMap::from([(kind, 1)]));
    }
}
