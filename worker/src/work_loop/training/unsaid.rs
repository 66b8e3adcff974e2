//! What was trained and is not yet known to the coordinator.

use ropewalk_shared::training::{MAX_STEPS_PER_REPORT, StepRecord, TrainingEnd};
use std::collections::VecDeque;

/// Steps, and how it ended, until they are acknowledged.
#[derive(Debug, Default)]
pub(super) struct Unsaid {
    steps: VecDeque<StepRecord>,
    /// The last step that was taken in.
    last: u32,
    checkpoint: u32,
    end: Option<TrainingEnd>,
    settled: bool,
}

/// What one report says.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Said {
    pub(super) steps: Vec<StepRecord>,
    pub(super) checkpoint: u32,
    pub(super) end: Option<TrainingEnd>,
}

// === impl Unsaid ===

impl Unsaid {
    /// Takes in steps that follow each other; those that it had already are passed over.
    pub(super) fn add(&mut self, steps: &[StepRecord]) {
        for step in steps {
            if step.step > self.last {
                self.last = step.step;
                self.steps.push_back(*step);
            }
        }
    }

    /// A checkpoint was taken.
    pub(super) fn checkpoint(&mut self, step: u32) {
        self.checkpoint = self.checkpoint.max(step);
    }

    /// It is over; what comes later is no part of it.
    pub(super) fn end(&mut self, end: TrainingEnd) {
        self.end.get_or_insert(end);
    }

    /// Whether there is something that should be said soon.
    pub(super) fn is_urgent(&self) -> bool {
        !self.steps.is_empty() || (self.end.is_some() && !self.settled)
    }

    /// Whether the end is known.
    pub(super) fn is_settled(&self) -> bool {
        self.settled
    }

    /// What the next report says: the first steps, and the end once no step is left.
    pub(super) fn next(&self) -> Said {
        let all = self.steps.len() <= MAX_STEPS_PER_REPORT;
        Said {
            steps: self.steps.iter().take(MAX_STEPS_PER_REPORT).copied().collect(),
            checkpoint: self.checkpoint,
            end: self.end.clone().filter(|_| all),
        }
    }

    /// This arrived.
    pub(super) fn acknowledged(&mut self, said: &Said) {
        let until = said.steps.last().map_or(0, |step| step.step);
        while self.steps.front().is_some_and(|step| step.step <= until) {
            self.steps.pop_front();
        }
        self.settled |= said.end.is_some();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ropewalk_shared::fingerprint::Fingerprint;

    fn steps(range: std::ops::RangeInclusive<u32>) -> Vec<StepRecord> {
        let step = |step| StepRecord {
            step,
            loss: f64::from(step),
            long: None,
            short: None,
            gradient_norm: 1.0,
            learning_rate: 1e-3,
            tokens: 7,
        };
        range.map(step).collect()
    }

    #[test]
    fn everything_is_said_in_order_and_until_it_arrives() {
        let mut unsaid = Unsaid::default();
        assert!(!unsaid.is_urgent());
        unsaid.add(&steps(1..=2));
        unsaid.checkpoint(2);
        let first = unsaid.next();
        assert_eq!((&first.steps, first.checkpoint), (&steps(1..=2), 2));
        // Steps that come while the report is out wait for the next; nothing is said twice once it arrived.
        unsaid.add(&steps(1..=4));
        assert_eq!(unsaid.next().steps, steps(1..=4));
        unsaid.acknowledged(&first);
        assert_eq!(unsaid.next().steps, steps(3..=4));
        unsaid.acknowledged(&unsaid.next());
        assert!(!unsaid.is_urgent() && !unsaid.is_settled());
    }

    #[test]
    fn the_end_comes_last() {
        let (mut unsaid, most) = (Unsaid::default(), MAX_STEPS_PER_REPORT as u32);
        let end = TrainingEnd::Trained(Fingerprint::from([3; 32]));
        unsaid.add(&steps(1..=most + 1));
        unsaid.end(end.clone());
        let first = unsaid.next();
        assert_eq!((first.steps.len(), &first.end), (MAX_STEPS_PER_REPORT, &None));
        unsaid.acknowledged(&first);
        let last = unsaid.next();
        assert_eq!((&last.steps, &last.end), (&steps(most + 1..=most + 1), &Some(end)));
        assert!(unsaid.is_urgent() && !unsaid.is_settled());
        unsaid.acknowledged(&last);
        assert!(!unsaid.is_urgent() && unsaid.is_settled());
    }
}
