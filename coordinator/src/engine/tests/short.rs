//! Short windows that must not get worse by more than their limits.

use super::rig::{Rig, evaluated, failed, job, racing_curve_job, report_of};
use ropewalk_shared::factor_file::FactorFile;
use ropewalk_shared::job::{JobSpec, ShortWindow};
use ropewalk_shared::outcome::{FailureKind, Loss};
use ropewalk_shared::rope::Rescale;
use ropewalk_shared::sample::Sample;
use ropewalk_shared::status::JobState;
use ropewalk_shared::work::{Unit, UnitOutcome, UnitReport};
use std::ops::Range;

const SHORT: u32 = 12;
const PERCENT: f64 = 15.0;

fn short_sample(number: u32) -> Sample {
    Sample::new((0..SHORT).map(|token| token * 5 + number).collect()).unwrap()
}

/// What a stretch costs at the short window: nothing for the model as shipped.
fn short_mean(rescale: &Rescale) -> f64 {
    1.0 + 0.05 * rescale.factors.iter().map(|factor| factor.ln()).sum::<f64>()
}

/// Held-out documents are easier by half a nat, whatever the factors.
fn is_held_out(unit: &Unit) -> bool {
    (2..5).any(|number| short_sample(number).id() == unit.sample)
}

fn work(unit: &Unit) -> UnitReport {
    if unit.tokens != SHORT {
        return evaluated(unit);
    }
    let tokens = u64::from(SHORT) - 1;
    let mean = short_mean(&unit.rescale) - if is_held_out(unit) { 0.5 } else { 0.0 };
    let loss = Loss { nll_sum: mean * tokens as f64, tokens };
    report_of(unit, UnitOutcome::Loss { loss, seconds: 0.01 })
}

fn keeping(mut spec: JobSpec, percent: f64) -> JobSpec {
    let ids = |numbers: Range<u32>| numbers.map(|number| short_sample(number).id()).collect();
    spec.search.keep_short = vec![ShortWindow { length: SHORT, percent, samples: ids(0..2), held_out: ids(2..5) }];
    spec
}

/// A coordinator that has the short samples, and this job.
fn launched(spec: &JobSpec) -> Rig {
    let mut rig = Rig::new();
    for sample in (0..5).map(short_sample) {
        rig.core.store().put_sample(sample.id(), &sample).unwrap();
    }
    rig.launch(spec);
    rig
}

/// Runs a job to its end with one worker that takes so many units at a time, and a coordinator killed every so often.
fn run(spec: &JobSpec, at_once: u32, kill_every: usize) -> (Rig, String) {
    let mut rig = launched(spec);
    let mut worker = rig.register(u64::MAX);
    for step in 1.. {
        if step % kill_every == 0 {
            rig.kill();
            worker = rig.register(u64::MAX);
        }
        let mut units = rig.lease(&worker, at_once);
        if units.is_empty() {
            break;
        }
        units.reverse();
        rig.report(&worker, units.iter().map(work).collect());
    }
    let factors = rig.factors(spec).expect("no work is left, so the job is done");
    (rig, factors)
}

#[test]
fn the_winner_keeps_to_the_limit_that_the_free_one_breaks() {
    let most = 1.0 + (PERCENT / 100.0).ln_1p();
    for spec in [job(3), racing_curve_job(3)] {
        let (_, free) = run(&keeping(spec.clone(), 1000.0), 5, usize::MAX);
        let free = FactorFile::from_json(&free).unwrap();
        assert!(short_mean(&free.rescale()) > most, "{free:?}");
        let limited = keeping(spec, PERCENT);
        let (_, text) = run(&limited, 5, usize::MAX);
        let file = FactorFile::from_json(&text).unwrap();
        assert!(short_mean(&file.rescale()) <= most, "{file:?}");
        let objective = file.objective.unwrap();
        let kept = objective.kept_short[0];
        assert_eq!((kept.length, kept.percent), (SHORT, PERCENT));
        assert!((kept.shipped.ln() - 1.0).abs() < 1e-12, "{kept:?}");
        let value = short_mean(&Rescale {
            factors: file.rescale_factors,
            start_tokens: 0,
            attention_factor: 1.0,
            pair_attention: Vec::new(),
        });
        assert!((kept.value.ln() - value).abs() < 1e-12, "{kept:?}");
        let held_out = kept.held_out.unwrap();
        assert!((held_out.value.ln() - (value - 0.5)).abs() < 1e-12, "{held_out:?}");
        assert!((held_out.shipped.ln() - 0.5).abs() < 1e-12, "{held_out:?}");
        assert!(free.objective.unwrap().value < objective.value, "what the limit costs");
        // Short documents are no passes, and nothing is dropped early.
        let search = file.search.unwrap();
        assert_eq!(search.passes, search.evaluations * limited.samples.len() as u64);
        // Whatever the order of results and the kills.
        assert_eq!(run(&limited, 1, 7).1, text);
        assert_eq!(run(&limited, 50, 3).1, text);
    }
}

#[test]
fn where_nobody_keeps_to_the_limit_the_job_says_so() {
    let mut spec = keeping(job(3), 0.001);
    spec.search.evolution.generations = 1;
    let mut rig = launched(&spec);
    rig.work_with(5, work);
    let status = rig.status(&spec);
    assert_eq!((status.state, status.best_perplexity), (JobState::Failed, None));
    assert!(status.reason.as_ref().unwrap().contains("larger percentage"), "{:?}", status.reason);
}

#[test]
fn without_the_model_as_shipped_nobody_can_be_judged() {
    let spec = keeping(job(3), PERCENT);
    let mut rig = launched(&spec);
    let shipped = |unit: &Unit| unit.rescale.factors.iter().all(|factor| *factor == 1.0) && unit.tokens == SHORT;
    rig.work_with(5, |unit| if shipped(unit) { failed(unit, FailureKind::Evaluation) } else { work(unit) });
    let status = rig.status(&spec);
    assert_eq!(status.state, JobState::Failed);
    assert!(status.reason.as_ref().unwrap().contains("the model as shipped"), "{:?}", status.reason);
    // Launched again, with workers that can.
    rig.core.launch(spec.clone(), rig.now()).unwrap();
    rig.commit();
    rig.work_with(5, work);
    assert_eq!(rig.factors(&spec), Some(run(&spec, 5, usize::MAX).1));
}

#[test]
fn what_a_cancelled_search_hands_over_keeps_to_the_limits() {
    let spec = keeping(job(3), PERCENT);
    for results in [40, 55, 90] {
        let mut rig = launched(&spec);
        let worker = rig.register(u64::MAX);
        for _ in 0..results {
            let unit = rig.lease(&worker, 1).remove(0);
            rig.report(&worker, vec![work(&unit)]);
        }
        rig.core.cancel(spec.id().as_str(), rig.now()).unwrap();
        rig.commit();
        assert_eq!(rig.best(&spec), rig.status(&spec).best_perplexity, "after {results} results");
    }
}

/// Another job always has something that is wanted now.
#[test]
fn the_model_as_shipped_is_measured_also_where_workers_are_never_idle() {
    let (spec, mut other) = (keeping(job(3), PERCENT), job(4));
    other.search.evolution.generations = 1000;
    other.search.evolution.mutations = 20;
    let mut rig = launched(&spec);
    rig.launch(&other);
    let worker = rig.register(u64::MAX);
    let mut handed_back = 0;
    while rig.factors(&spec).is_none() {
        // There is always something that is wanted now.
        let unit = rig.lease(&worker, 1).remove(0);
        assert_eq!(rig.status(&other).state, JobState::Running, "the other job was served alone");
        let is_shipped = unit.tokens == SHORT && unit.rescale.factors.iter().all(|factor| *factor == 1.0);
        // What comes back waits no longer than before.
        let report = match is_shipped && handed_back < 3 {
            true => failed(&unit, FailureKind::HandedBack),
            false => work(&unit),
        };
        handed_back += u32::from(is_shipped);
        rig.report(&worker, vec![report]);
    }
    assert!(handed_back > 3);
    assert_eq!(rig.factors(&spec), Some(run(&spec, 5, usize::MAX).1));
}
