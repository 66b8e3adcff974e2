//! What is over: the factors that it hands over.

use super::rig::{Rig, evaluated, gradient_job, job, racing_job};
use ropewalk_shared::job::JobSpec;

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
