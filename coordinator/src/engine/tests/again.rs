//! What is over: the factors that it hands over, and that it goes on when it is launched again.

use super::rig::{Rig, evaluated, failed, gradient_job, job, racing_job};
use ropewalk_shared::job::JobSpec;
use ropewalk_shared::outcome::FailureKind;
use ropewalk_shared::status::JobState;
use ropewalk_shared::work::Unit;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::Duration;

/// A search with so many results, in the order in which they were leased.
fn under_way(spec: &JobSpec, results: usize) -> Rig {
    let mut rig = Rig::new();
    rig.launch(spec);
    let worker = rig.register(u64::MAX);
    for _ in 0..results {
        let unit = rig.lease(&worker, 1).remove(0);
        rig.report(&worker, vec![evaluated(&unit)]);
    }
    rig
}

fn cancel(rig: &mut Rig, spec: &JobSpec) {
    rig.core.cancel(spec.id().as_str(), rig.now()).unwrap();
}

#[test]
fn a_cancelled_search_hands_over_the_best_that_its_status_shows() {
    let searches = [(job(1), [2, 12, 35]), (gradient_job(1), [2, 12, 35]), (racing_job(1), [35, 195, 230])];
    for (spec, results) in searches {
        for results in results {
            let mut rig = under_way(&spec, results);
            let before = rig.best(&spec);
            cancel(&mut rig, &spec);
            rig.commit();
            let shown = rig.status(&spec).best_perplexity;
            assert_eq!((rig.best(&spec), before), (shown, shown), "after {results} results");
            rig.kill();
            assert_eq!(rig.best(&spec), shown, "after {results} results and a restart");
        }
    }
    // A whole candidate of the first generation, and none.
    for (results, known) in [(2, false), (3, true)] {
        let (mut rig, spec) = (under_way(&job(1), results), job(1));
        cancel(&mut rig, &spec);
        rig.commit();
        assert_eq!((rig.status(&spec).generation, rig.best(&spec).is_some()), (0, known));
    }
}

/// The workers were at fault, as with a GPU that fails: nothing of it decides once somebody has mended them.
#[test]
fn a_search_in_which_every_candidate_failed_begins_anew_with_the_results_that_it_has() {
    for time_budget_seconds in [None, Some(60)] {
        let mut spec = job(1);
        spec.search.time_budget_seconds = time_budget_seconds;
        let mut rig = Rig::new();
        rig.launch(&spec);
        let expected = rig.work_to_the_end(&spec);

        let mut rig = Rig::new();
        rig.launch(&spec);
        (0..7).for_each(|_| rig.pass(Duration::from_secs(10)));
        let known = RefCell::new(BTreeSet::new());
        rig.work_with(50, |unit| {
            if unit.sample != spec.samples[0] {
                return failed(unit, FailureKind::Evaluation);
            }
            known.borrow_mut().insert((unit.rescale.id(), unit.sample));
            evaluated(unit)
        });
        let status = rig.status(&spec);
        assert_eq!((status.state, status.best), (JobState::Failed, None));
        assert!(status.reason.unwrap().contains("on purpose"));
        rig.kill();

        assert!(!rig.core.launch(spec.clone(), rig.now()).unwrap().created);
        rig.commit();
        let again = rig.status(&spec);
        assert_eq!((again.state, again.generation, again.passes), (JobState::Running, 0, status.passes));
        rig.kill();
        rig.work_with(7, |unit| {
            assert!(!known.borrow().contains(&(unit.rescale.id(), unit.sample)), "evaluated twice");
            evaluated(unit)
        });
        assert_eq!(rig.factors(&spec), Some(expected), "as if nothing had happened");
    }
}

/// Who fails again does so for the reason of the day.
#[test]
fn a_search_that_fails_again_tells_the_reason_again() {
    let (mut rig, spec) = (Rig::new(), job(1));
    rig.launch(&spec);
    let fails = |unit: &Unit| failed(unit, FailureKind::Evaluation);
    rig.work_with(50, fails);
    let reason = rig.status(&spec).reason;
    for _ in 0..2 {
        rig.core.launch(spec.clone(), rig.now()).unwrap();
        rig.commit();
        assert_eq!(rig.status(&spec).state, JobState::Running);
        // The worker of the last time asks for nothing any more: no unit that fails is left to it.
        rig.pass(Duration::from_secs(11));
        rig.work_with(50, fails);
        assert_eq!((rig.status(&spec).state, rig.status(&spec).reason), (JobState::Failed, reason.clone()));
    }
}

/// Both commands may wait while the engine is busy, and are carried out in one round.
#[test]
fn a_launch_right_after_a_cancellation_counts() {
    let spec = job(1);
    let mut rig = under_way(&spec, 35);
    let passes = rig.status(&spec).passes;
    cancel(&mut rig, &spec);
    assert!(!rig.core.launch(spec.clone(), rig.now()).unwrap().created);
    rig.commit();
    assert_eq!((rig.status(&spec).state, rig.status(&spec).passes), (JobState::Running, passes));
    rig.kill();
    let factors = rig.work_to_the_end(&spec);
    let mut undisturbed = Rig::new();
    undisturbed.launch(&spec);
    assert_eq!(factors, undisturbed.work_to_the_end(&spec));
}
