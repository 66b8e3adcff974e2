//! What becomes of units when leases come, go and are forgotten.

use super::*;
use ropewalk_shared::outcome::Loss;
use ropewalk_shared::rope::Rescale;
use ropewalk_shared::work::Measure;

const LOSS: Outcome = Outcome::Loss(Loss { nll_sum: 12.5, tokens: 5 });
const SECOND: Duration = Duration::from_secs(1);

fn unit(lease: u64, seed: u8) -> Unit {
    Unit {
        lease: LeaseId(lease),
        job: "job-0123456789".parse().unwrap(),
        model_name: "m".into(),
        model_fingerprint: [1; 32].into(),
        sample: [seed; 32].into(),
        tokens: 6,
        rescale: Rescale::with_factors(vec![1.0, 2.0]),
        measure: Measure::Loss,
        attempt: 1,
    }
}

fn held(units: impl IntoIterator<Item = Unit>) -> Held {
    let mut held = Held::default();
    units.into_iter().for_each(|unit| held.add(unit));
    held
}

fn leases(held: &Held) -> Vec<u64> {
    held.leases().map(|lease| lease.0).collect()
}

fn kind(report: &UnitReport) -> Option<FailureKind> {
    match &report.outcome {
        UnitOutcome::Failure(failure) => Some(failure.kind),
        UnitOutcome::Loss { .. } | UnitOutcome::Gradient { .. } | UnitOutcome::Stopped { .. } => None,
    }
}

#[test]
fn a_unit_is_reported_until_it_is_acknowledged() {
    let mut held = held([unit(7, 1)]);
    assert!(held.assign(1).is_some());
    held.finished(1, LOSS, SECOND);
    let (numbers, reports) = held.reports(10);
    assert_eq!((reports[0].lease, reports[0].sample), (LeaseId(7), [1; 32].into()));
    assert!(!held.has_reports(), "it is on its way");
    held.not_acknowledged(&numbers);
    assert_eq!(held.reports(10).1, reports);
    assert_eq!(leases(&held), [7], "renewed until it has arrived");
    held.acknowledged(&numbers);
    assert!(held.is_empty());
}

#[test]
fn the_same_answer_to_a_repeated_request_adds_nothing() {
    let mut held = held([unit(7, 1), unit(8, 2)]);
    held.add(unit(7, 1));
    assert_eq!(held.open(), 2);
}

#[test]
fn a_running_unit_outlives_its_lease_and_adopts_the_next() {
    let mut held = held([unit(7, 1), unit(8, 2)]);
    held.assign(1);
    held.forget_leases();
    assert_eq!((held.open(), leases(&held)), (1, vec![]), "the queued one will be leased anew");
    held.add(unit(21, 1));
    held.add(unit(22, 2));
    assert_eq!((held.open(), leases(&held)), (2, vec![21, 22]));
    held.finished(1, LOSS, SECOND);
    assert_eq!(held.reports(10).1[0].lease, LeaseId(21));
}

#[test]
fn a_result_without_a_lease_is_reported_all_the_same() {
    let mut held = held([unit(7, 1)]);
    held.assign(1);
    held.forget_leases();
    held.finished(1, LOSS, SECOND);
    assert_eq!(held.reports(10).1.len(), 1);
}

#[test]
fn a_revoked_unit_ends_silently() {
    let mut held = held([unit(7, 1), unit(8, 2)]);
    let (_, cancel) = held.assign(1).unwrap();
    held.revoke(LeaseId(7));
    held.revoke(LeaseId(8));
    assert!(cancel.is_cancelled());
    assert_eq!((held.open(), leases(&held)), (1, vec![]));
    held.finished(1, Outcome::Cancelled { share: 0.0 }, SECOND);
    assert!(held.is_empty());
}

#[test]
fn what_a_revoked_unit_has_cost_is_reported() {
    let mut held = held([unit(7, 1)]);
    held.assign(1).unwrap();
    held.revoke(LeaseId(7));
    held.finished(1, Outcome::Cancelled { share: 0.25 }, SECOND);
    let (numbers, reports) = held.reports(10);
    assert_eq!(reports[0].outcome, UnitOutcome::Stopped { share: 0.25, seconds: 1.0 });
    assert_eq!((reports[0].lease, leases(&held)), (LeaseId(7), vec![]));
    held.acknowledged(&numbers);
    assert!(held.is_empty());
}

#[test]
fn a_finished_unit_whose_lease_expired_is_still_reported() {
    let mut held = held([unit(7, 1)]);
    held.assign(1);
    held.finished(1, LOSS, SECOND);
    held.revoke(LeaseId(7));
    assert_eq!(held.reports(10).1.len(), 1);
}

#[test]
fn a_stopping_worker_hands_back_what_it_did_not_evaluate() {
    let mut held = held([unit(7, 1), unit(8, 2), unit(9, 3)]);
    let (_, running) = held.assign(1).unwrap();
    held.started(1, Instant::now());
    let (_, waiting) = held.assign(2).unwrap();
    assert_eq!(held.hand_back_waiting(), 2);
    assert!(waiting.is_cancelled() && !running.is_cancelled());
    // The thread may be loading a model for the second: nobody waits for it.
    let back = Some(FailureKind::HandedBack);
    assert_eq!((held.open(), held.reports(10).1.iter().map(kind).collect::<Vec<_>>()), (1, vec![back, back]));
    // It was about to begin, after all.
    held.not_acknowledged(&[2, 3]);
    held.started(2, Instant::now());
    held.finished(2, LOSS, SECOND);
    held.finished(1, LOSS, SECOND);
    let kinds: Vec<_> = held.reports(10).1.iter().map(kind).collect();
    assert_eq!(kinds, [None, back, back]);
}

#[test]
fn a_worker_about_to_train_waits_for_its_thread() {
    let mut held = held([unit(7, 1), unit(8, 2), unit(9, 3)]);
    held.assign(1);
    held.started(1, Instant::now());
    let (_, waiting) = held.assign(2).unwrap();
    held.hand_back(usize::MAX, "the worker is about to train");
    held.cancel_waiting();
    // The thread has two of them still, and says so when it has come to them.
    assert!(waiting.is_cancelled() && held.open() == 2);
    held.finished(1, LOSS, SECOND);
    held.finished(2, Outcome::Cancelled { share: 0.0 }, Duration::ZERO);
    let back = Some(FailureKind::HandedBack);
    assert_eq!((held.open(), held.reports(10).1.iter().map(kind).collect::<Vec<_>>()), (0, vec![None, back, back]));
}

#[test]
fn surplus_goes_back_from_the_end() {
    let mut held = held((0..5).map(|seed| unit(seed + 1, seed as u8)));
    held.assign(1);
    held.hand_back(2, "others are faster");
    let (numbers, _) = held.reports(10);
    assert_eq!((numbers, held.open()), (vec![4, 5], 3));
}

#[test]
fn reports_are_bounded() {
    let mut held = held((0..5).map(|seed| unit(seed + 1, seed as u8)));
    (1..=5).for_each(|number| held.finished(number, LOSS, SECOND));
    assert_eq!(held.reports(3).0, [1, 2, 3]);
    assert_eq!(held.reports(3).0, [4, 5]);
}

#[test]
fn dropping_stops_evaluations() {
    let mut held = held([unit(7, 1)]);
    let (_, cancel) = held.assign(1).unwrap();
    drop(held);
    assert!(cancel.is_cancelled());
}
