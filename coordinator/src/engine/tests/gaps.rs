//! What workers do while a generation closes.

use super::rig::{Rig, evaluated, job, sample};
use ropewalk_shared::job::{JobSpec, StrategyKind};
use ropewalk_shared::work::{Unit, WorkerId};
use std::time::Duration;

/// How long a unit takes: up to three times the shortest, the same in every run.
fn duration(unit: &Unit) -> Duration {
    let digest = blake3::hash(format!("{} {}", unit.rescale.id(), unit.sample).as_bytes());
    Duration::from_millis(500 + u64::from(digest.as_bytes()[0]) * 1000 / 255)
}

/// Runs a job with so many workers; the factors, and the share of all workers' time in which they were idle.
fn run(spec: &JobSpec, workers: usize, fill_gaps: bool) -> (String, f64) {
    let mut rig = Rig::filling_gaps(fill_gaps);
    rig.launch(spec);
    let mut crew: Vec<(WorkerId, Option<(Duration, Unit)>)> =
        (0..workers).map(|_| (rig.register(u64::MAX), None)).collect();
    let mut busy = Duration::ZERO;
    loop {
        for (worker, held) in &mut crew {
            if held.is_none()
                && let Some(unit) = rig.lease(worker, 1).pop()
            {
                busy += duration(&unit);
                *held = Some((rig.time + duration(&unit), unit));
            }
        }
        let next = crew.iter_mut().filter(|(_, held)| held.is_some());
        let next = next.min_by_key(|(_, held)| held.as_ref().map(|(until, _)| *until));
        let Some((worker, Some((until, unit)))) = next.map(|(worker, held)| (worker.clone(), held.take())) else {
            let all = rig.time.as_secs_f64() * workers as f64;
            return (rig.factors(spec).unwrap(), 1.0 - busy.as_secs_f64() / all);
        };
        rig.time = until;
        rig.report(&worker, vec![evaluated(&unit)]);
    }
}

#[test]
fn workers_are_idle_half_as_long_when_gaps_are_filled() {
    let mut spec = job(5);
    spec.search.strategy = StrategyKind::Ropewalk;
    spec.search.evolution.generations = 6;
    spec.held_out = (3..10).map(|number| sample(number).id()).collect();
    for workers in [4, 8] {
        let (with_barrier, before) = run(&spec, workers, false);
        let (factors, after) = run(&spec, workers, true);
        assert_eq!(factors, with_barrier);
        assert!(after < 0.7 * before, "{workers} workers: {after} of the time, {before} before");
    }
}
