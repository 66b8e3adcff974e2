//! Units that go through the model together: candidates of one sample.

use super::evaluation::Assignment;
use ropewalk_shared::work::Measure;
use std::collections::VecDeque;

/// Takes the unit that waits longest, and with it up to `most` in all that ask for the loss of another candidate on the same
/// sample.
pub(super) fn take(waiting: &mut VecDeque<Assignment>, most: usize) -> Vec<Assignment> {
    let mut batch: Vec<Assignment> = waiting.pop_front().into_iter().collect();
    let mut at = 0;
    while at < waiting.len() && batch.len() < most {
        if batch.iter().all(|first| go_together(first, &waiting[at])) {
            batch.extend(waiting.remove(at));
        } else {
            at += 1;
        }
    }
    batch
}

fn go_together(one: &Assignment, other: &Assignment) -> bool {
    let of = |assignment: &Assignment| (assignment.unit.model_fingerprint, assignment.unit.sample);
    of(one) == of(other) && [one, other].iter().all(|assignment| assignment.unit.measure == Measure::Loss)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cancel::CancelFlag;
    use ropewalk_shared::fingerprint::Fingerprint;
    use ropewalk_shared::rope::Rescale;
    use ropewalk_shared::sample::Sample;
    use ropewalk_shared::work::{LeaseId, Unit};
    use std::sync::Arc;

    fn waiting(units: &[(u32, Measure)]) -> VecDeque<Assignment> {
        let unit = |(number, (first, measure)): (usize, &(u32, Measure))| {
            let sample = Sample::new(vec![*first, 2, 3]).unwrap();
            let unit = Unit {
                lease: LeaseId(number as u64),
                job: "job-0123456789".parse().unwrap(),
                model_name: "model".into(),
                model_fingerprint: Fingerprint::from([1; 32]),
                sample: sample.id(),
                tokens: 3,
                rescale: Rescale::with_factors(vec![1.0; 4]),
                measure: *measure,
                attempt: 1,
            };
            Assignment { number: number as u64, unit: Arc::new(unit), sample: sample.into(), cancel: CancelFlag::new() }
        };
        units.iter().enumerate().map(unit).collect()
    }

    #[test]
    fn losses_of_one_sample_go_together_and_nobody_waits_for_ever() {
        use Measure::{Gradient, Loss};
        let mut units = waiting(&[(1, Loss), (2, Loss), (1, Gradient), (1, Loss), (2, Gradient), (1, Loss), (2, Loss)]);
        let mut next = |most| take(&mut units, most).iter().map(|assignment| assignment.number).collect::<Vec<_>>();
        assert_eq!(next(2), [0, 3]);
        assert_eq!(next(8), [1, 6]);
        assert_eq!(next(8), [2], "a gradient is computed alone");
        assert_eq!([next(8), next(1), next(8)], [vec![4], vec![5], vec![]]);
    }
}
