//! Trainings that this worker does not ask for, for a while.

use ropewalk_shared::job::JobId;
use ropewalk_shared::training::{MAX_DECLINED, TrainingFailureKind};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// For a training that is not for this worker: model, folder or memory may still come.
const NOT_FOR_US: Duration = Duration::from_secs(600);
/// For one that failed here, or that another process is at: others come first.
const FAILED: Duration = Duration::from_secs(10);

/// Jobs, each until when it is declined.
#[derive(Debug, Default)]
pub(super) struct Declined(BTreeMap<JobId, Instant>);

// === impl Declined ===

impl Declined {
    /// Declines a job that failed in this way.
    pub(super) fn failed(&mut self, job: JobId, kind: TrainingFailureKind, now: Instant) {
        let pause = match kind {
            TrainingFailureKind::NotHere | TrainingFailureKind::TooLarge => NOT_FOR_US,
            TrainingFailureKind::Busy | TrainingFailureKind::Training => FAILED,
            // Nobody leases it again, or it is this worker that stops.
            TrainingFailureKind::Diverged | TrainingFailureKind::Invalid | TrainingFailureKind::HandedBack => return,
        };
        self.0.insert(job, now + pause);
    }

    /// Declines a job about which the coordinator takes no report.
    pub(super) fn refused(&mut self, job: JobId, now: Instant) {
        self.0.insert(job, now + NOT_FOR_US);
    }

    /// The jobs that are declined now.
    pub(super) fn jobs(&mut self, now: Instant) -> Vec<JobId> {
        self.0.retain(|_, until| now < *until);
        self.0.keys().take(MAX_DECLINED).cloned().collect()
    }

    /// When the first of them may be asked for again.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.0.values().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_declined_for_a_while() {
        let (mut declined, now) = (Declined::default(), Instant::now());
        let job = |name: &str| format!("{name}-0123456789").parse::<JobId>().unwrap();
        declined.failed(job("missing"), TrainingFailureKind::NotHere, now);
        declined.failed(job("busy"), TrainingFailureKind::Busy, now);
        declined.failed(job("back"), TrainingFailureKind::HandedBack, now);
        assert_eq!(declined.jobs(now), [job("busy"), job("missing")]);
        assert_eq!(declined.next_end(), Some(now + FAILED));
        assert_eq!(declined.jobs(now + FAILED), [job("missing")]);
        assert!(declined.jobs(now + NOT_FOR_US).is_empty());
    }
}
