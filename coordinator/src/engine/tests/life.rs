//! The life of a job.

use super::rig::{Rig, evaluated, failed, gradient_job, job, loss, pair_attention_job, report_of};
use crate::engine::EngineError;
use ropewalk_shared::event::JobEvent;
use ropewalk_shared::factor_file::FactorFile;
use ropewalk_shared::job::{JobSpec, StrategyKind};
use ropewalk_shared::outcome::{FailureKind, Loss};
use ropewalk_shared::status::JobState;
use ropewalk_shared::work::{Measure, UnitOutcome, Verdict};
use std::time::Duration;

fn events(rig: &Rig, spec: &JobSpec) -> Vec<JobEvent> {
    let (_, last) = rig.core.status(spec.id().as_str(), rig.now()).unwrap();
    let events = rig.core.store().events(&spec.id(), 1, last, 10_000).unwrap();
    assert!(events.iter().zip(1..).all(|(event, number)| event.sequence == number), "gaps in {events:?}");
    events.into_iter().map(|event| event.what).collect()
}

fn kinds(rig: &Rig, spec: &JobSpec) -> Vec<String> {
    let kind = |event: &JobEvent| serde_json::to_value(event).unwrap()["kind"].as_str().unwrap().to_owned();
    events(rig, spec).iter().map(kind).collect()
}

#[test]
fn a_job_runs_from_launch_to_report() {
    let (mut rig, spec) = (Rig::new(), job(1));
    rig.launch(&spec);
    assert!(matches!(rig.core.result(spec.id().as_str(), rig.now()), Err(EngineError::NoResult(_))));
    let file = FactorFile::from_json(&rig.work_to_the_end(&spec)).unwrap();

    let status = rig.status(&spec);
    assert_eq!(status.state, JobState::Done);
    assert_eq!((status.evaluations, status.planned_evaluations), (27, 27));
    let search = file.search.clone().unwrap();
    assert_eq!((search.generations, search.evaluations, search.passes), (4, 27, 81));
    let objective = file.objective.clone().unwrap();
    assert_eq!(Some(objective.value), status.best_perplexity);
    assert!(objective.held_out.unwrap().is_finite());
    let mut names: Vec<_> = file.baselines.keys().map(String::as_str).collect();
    names.retain(|name| *name != "without-start-tokens");
    // YaRN's own attention factor differs from the job's, too.
    assert_eq!(names, ["none", "ntk", "ntk-attention", "pi", "pi-attention", "yarn", "yarn-attention"]);
    assert!(file.baselines.values().all(|measured| measured.value >= objective.value));
    assert_eq!(file.baselines["pi"].attention_factor, 1.0);

    let kinds = kinds(&rig, &spec);
    assert_eq!(kinds.first().map(String::as_str), Some("launched"));
    assert_eq!(kinds.last().map(String::as_str), Some("done"));
    assert_eq!(kinds.iter().filter(|kind| *kind == "generation-closed").count(), 5);
    assert_eq!(kinds.iter().filter(|kind| *kind == "generation-opened").count(), 5);
}

#[test]
fn attention_factors_of_pairs_are_searched_last_and_compared_with_none() {
    for strategy in [StrategyKind::Ropewalk, StrategyKind::LongRope2] {
        let (mut rig, spec) = (Rig::new(), pair_attention_job(2, strategy));
        rig.launch(&spec);
        let file = FactorFile::from_json(&rig.work_to_the_end(&spec)).unwrap();
        let status = rig.status(&spec);
        assert_eq!(status.state, JobState::Done);
        assert!(status.evaluations <= status.planned_evaluations, "{status:?}");
        assert!(file.search.unwrap().generations <= status.generations);
        let profile = &file.pair_attention;
        assert!(profile.len() == 4 && profile[0] > 1.03 && profile[3] < 0.97, "{profile:?}");
        let without = &file.baselines["without-pair-attention"];
        assert!(without.value > file.objective.unwrap().value * 1.01, "{without:?}");
        assert_eq!(without.attention_factor, file.attention_factor);
    }
}

/// Limits hold for both searches together, and leave the second its share.
#[test]
fn limits_are_shared_with_attention_factors_of_pairs() {
    for (strategy, evaluations, passes) in [
        (StrategyKind::Ropewalk, Some(60), None),
        (StrategyKind::Ropewalk, None, Some(150)),
        (StrategyKind::LongRope2, Some(38), None),
        (StrategyKind::LongRope2, None, Some(100)),
    ] {
        let (mut rig, mut spec) = (Rig::new(), pair_attention_job(2, strategy));
        (spec.search.max_evaluations, spec.search.max_passes) = (evaluations, passes);
        spec.search.evolution.generations = 20;
        spec.search.pair_attention = 9;
        rig.launch(&spec);
        let file = FactorFile::from_json(&rig.work_to_the_end(&spec)).unwrap();
        let search = file.search.unwrap();
        assert!(search.evaluations <= evaluations.unwrap_or(u64::MAX), "{search:?}");
        assert!(search.passes <= passes.unwrap_or(u64::MAX), "{search:?}");
        // All of the limit is used.
        assert!(search.passes + 3 > passes.unwrap_or(3 * evaluations.unwrap_or(0)), "{search:?}");
        assert!(!file.pair_attention.is_empty());
    }
}

#[test]
fn a_candidate_that_fails_three_times_ranks_last_and_the_search_goes_on() {
    let (mut rig, spec) = (Rig::new(), job(1));
    rig.launch(&spec);
    let worker = rig.register(u64::MAX);
    let first = rig.lease(&worker, 1).remove(0);
    rig.report(&worker, vec![failed(&first, FailureKind::Evaluation)]);
    assert_eq!(rig.report(&worker, vec![failed(&first, FailureKind::Evaluation)]), [Verdict::Duplicate]);
    let mut failures = 1;
    while rig.factors(&spec).is_none() {
        let units = rig.lease(&worker, 3);
        let is_bad = |unit: &&ropewalk_shared::work::Unit| unit.rescale == first.rescale && unit.sample == first.sample;
        failures += units.iter().filter(is_bad).count();
        let report = |unit| if is_bad(&unit) { failed(unit, FailureKind::Evaluation) } else { evaluated(unit) };
        let reports = units.iter().map(report).collect();
        rig.report(&worker, reports);
    }
    assert_eq!(failures, 3);
    let failed: Vec<_> = events(&rig, &spec)
        .into_iter()
        .filter_map(|event| match event {
            JobEvent::CandidateFailed { rescale, reason } => Some((rescale, reason)),
            _ => None,
        })
        .collect();
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].0, first.rescale);
    assert!(failed[0].1.contains("on purpose"), "{}", failed[0].1);
}

/// Several units of the last candidate of a stage are given up in one round, and the next stage has units of the same slot.
#[test]
fn who_kills_its_workers_takes_nobody_of_the_next_stage_along() {
    let (mut rig, spec) = (Rig::filling_gaps(false), job(1));
    rig.launch(&spec);
    let worker = rig.register(u64::MAX);
    let units = rig.lease(&worker, 100);
    let bad = units[0].rescale.clone();
    rig.report(&worker, units.iter().filter(|unit| unit.rescale != bad).map(evaluated).collect());
    let lease = Duration::from_secs(61);
    rig.pass(lease);
    while rig.status(&spec).generation == 0 {
        let dying = rig.register(u64::MAX);
        assert_eq!(rig.lease(&dying, 100).len(), 3, "its samples");
        rig.pass(lease);
    }
    rig.work_to_the_end(&spec);
    let is_failure = |event: &JobEvent| matches!(event, JobEvent::CandidateFailed { .. });
    assert_eq!(events(&rig, &spec).iter().filter(|event| is_failure(event)).count(), 1);
}

#[test]
fn nan_is_the_worst_and_no_crash() {
    let (mut rig, spec) = (Rig::new(), job(1));
    rig.launch(&spec);
    rig.work_with(5, |unit| {
        let mut loss = loss(&unit.rescale, unit.sample, unit.tokens);
        if unit.rescale.start_tokens == 0 {
            loss.nll_sum = f64::NAN;
        }
        report_of(unit, UnitOutcome::Loss { loss, seconds: 0.0 })
    });
    let file = FactorFile::from_json(&rig.factors(&spec).unwrap()).unwrap();
    assert_eq!(file.start_tokens, 4);
    assert!(file.baselines["none"].value.is_nan());
}

#[test]
fn a_job_in_which_nothing_can_be_evaluated_fails_with_the_reason() {
    let (mut rig, spec) = (Rig::new(), job(1));
    rig.launch(&spec);
    rig.work_with(50, |unit| failed(unit, FailureKind::Evaluation));
    let status = rig.status(&spec);
    assert_eq!(status.state, JobState::Failed);
    assert!(status.reason.unwrap().contains("on purpose"));
}

#[test]
fn reports_that_cannot_be_right_are_refused() {
    let (mut rig, spec) = (Rig::new(), job(1));
    rig.launch(&spec);
    let worker = rig.register(u64::MAX);
    let unit = rig.lease(&worker, 1).remove(0);
    let with = |loss: Loss| report_of(&unit, UnitOutcome::Loss { loss, seconds: 0.0 });
    let good = loss(&unit.rescale, unit.sample, unit.tokens);
    let mut other_factors = with(good);
    other_factors.rescale.factors.pop();
    let mut nobody_asked = with(good);
    nobody_asked.rescale.start_tokens = 77;
    let mut no_job = with(good);
    no_job.job = "nothing-here".parse().unwrap();
    let verdicts = rig.report(
        &worker,
        vec![
            with(Loss { tokens: 5, ..good }),
            with(Loss { nll_sum: -5.0, ..good }),
            with(Loss { nll_sum: f64::NEG_INFINITY, ..good }),
            other_factors,
            nobody_asked,
            no_job,
            with(good),
        ],
    );
    use Verdict::{Accepted, NotWanted, Refused};
    assert_eq!(verdicts, [Refused, Refused, Refused, Refused, NotWanted, NotWanted, Accepted]);
}

/// It counts tokens in another way than the coordinator: it is told once, and the search goes on with another.
#[test]
fn a_worker_whose_results_are_refused_is_left_out() {
    let (mut rig, spec) = (Rig::new(), job(1));
    rig.launch(&spec);
    let expected = rig.work_to_the_end(&spec);
    let mut rig = Rig::new();
    rig.launch(&spec);
    for _ in 0..4 {
        rig.work_with(2, |unit| {
            let loss = loss(&unit.rescale, unit.sample, unit.tokens);
            report_of(unit, UnitOutcome::Loss { loss: Loss { tokens: 5, ..loss }, seconds: 0.0 })
        });
    }
    let kinds = kinds(&rig, &spec);
    assert_eq!(kinds.iter().filter(|kind| *kind == "worker-unable").count(), 4, "{kinds:?}");
    assert_eq!(rig.work_to_the_end(&spec), expected);
}

/// As with NaN in the weights: 27 candidates would tell no more than the first seven.
#[test]
fn a_model_that_gives_no_finite_loss_at_all_ends_the_search_at_once() {
    let no_number = |unit: &ropewalk_shared::work::Unit| {
        let tokens = u64::from(unit.tokens) - 1;
        let nll_sum = if unit.rescale.start_tokens == 0 { f64::NAN } else { f64::INFINITY };
        report_of(unit, UnitOutcome::Loss { loss: Loss { nll_sum, tokens }, seconds: 0.0 })
    };
    let (mut rig, spec) = (Rig::filling_gaps(false), job(1));
    rig.launch(&spec);
    rig.work_with(5, no_number);
    let status = rig.status(&spec);
    assert_eq!((status.state, status.passes), (JobState::Failed, 7 * 3));
    let reason = status.reason.unwrap();
    assert!(reason.contains("NaN") && reason.contains("--dtype f32"), "{reason}");
    rig.kill();
    assert!(!rig.core.launch(spec.clone(), rig.now()).unwrap().created);
    rig.commit();
    assert_eq!(rig.status(&spec).reason, Some(reason), "it would be the same again");

    // One number is enough to go on from, and so is a candidate of which nothing is known.
    for failing in [false, true] {
        let (mut rig, spec) = (Rig::filling_gaps(false), job(1));
        rig.launch(&spec);
        let worker = rig.register(u64::MAX);
        let first = rig.lease(&worker, 1).remove(0).rescale;
        rig.pass(Duration::from_secs(11));
        rig.work_with(5, |unit| match unit.rescale == first {
            true if failing => failed(unit, FailureKind::Evaluation),
            true => evaluated(unit),
            false => no_number(unit),
        });
        assert!(rig.status(&spec).evaluations > 7, "failing: {failing}");
    }
}

/// What cannot be had is the slope alone.
#[test]
fn a_candidate_whose_gradient_fails_keeps_its_losses_and_its_report() {
    let (mut rig, spec) = (Rig::new(), gradient_job(3));
    rig.launch(&spec);
    rig.work_with(5, |unit| match unit.measure {
        Measure::Gradient => failed(unit, FailureKind::Evaluation),
        Measure::Loss => evaluated(unit),
    });
    let failures = kinds(&rig, &spec).iter().filter(|kind| *kind == "candidate-failed").count();
    assert_eq!(failures, 1, "without its slope no more are asked for");
    let failed = events(&rig, &spec).into_iter().find_map(|event| match event {
        JobEvent::CandidateFailed { rescale, .. } => Some(rescale.id()),
        _ => None,
    });
    assert_eq!(rig.core.store().candidate_failure(&spec.id(), failed.unwrap()), Ok(None));
    let file = FactorFile::from_json(&rig.factors(&spec).unwrap()).unwrap();
    assert!(file.objective.unwrap().held_out.unwrap().is_finite());
}

#[test]
fn the_first_result_stands_and_a_conflict_is_flagged_once() {
    let (mut rig, spec) = (Rig::new(), job(1));
    rig.launch(&spec);
    let worker = rig.register(u64::MAX);
    let unit = rig.lease(&worker, 1).remove(0);
    rig.report(&worker, vec![evaluated(&unit)]);
    let mut other = evaluated(&unit);
    let UnitOutcome::Loss { loss, .. } = &mut other.outcome else { unreachable!() };
    loss.nll_sum *= 1.0005;
    assert_eq!(rig.report(&worker, vec![other.clone()]), [Verdict::Duplicate], "within the tolerance");
    let UnitOutcome::Loss { loss, .. } = &mut other.outcome else { unreachable!() };
    loss.nll_sum *= 1.01;
    assert_eq!(rig.report(&worker, vec![other.clone()]), [Verdict::Conflict]);
    assert_eq!(rig.report(&worker, vec![other]), [Verdict::Conflict]);
    assert_eq!(kinds(&rig, &spec).iter().filter(|kind| *kind == "result-conflict").count(), 1);
    assert_eq!(rig.status(&spec).passes, 1);
}

#[test]
fn pause_resume_cancel_and_launch_again() {
    let (mut rig, spec) = (Rig::new(), job(1));
    let id = spec.id();
    rig.launch(&spec);
    let worker = rig.register(u64::MAX);
    let held = rig.lease(&worker, 2);
    let (now, prefix) = (rig.now(), &id.as_str()[..6]);
    assert_eq!(rig.core.set_paused(prefix, true, now).unwrap().state, JobState::Paused);
    assert!(rig.lease(&worker, 5).is_empty());
    assert_eq!(rig.report(&worker, vec![evaluated(&held[0])]), [Verdict::Accepted]);
    rig.kill();
    assert_eq!(rig.status(&spec).state, JobState::Paused, "pauses survive");
    assert_eq!(rig.core.set_paused(prefix, false, now).unwrap().state, JobState::Running);

    let worker = rig.register(u64::MAX);
    let held = rig.lease(&worker, 2);
    assert_eq!(rig.core.cancel(prefix, now).unwrap().state, JobState::Cancelled);
    rig.commit();
    let leases: Vec<_> = held.iter().map(|unit| unit.lease).collect();
    assert_eq!(rig.core.heartbeat(&worker, &leases, now).unwrap(), leases, "leases of a cancelled job are revoked");
    assert_eq!(rig.report(&worker, vec![evaluated(&held[0])]), [Verdict::NotWanted]);
    assert_eq!(rig.core.cancel(prefix, now).unwrap().state, JobState::Cancelled);
    assert!(matches!(rig.core.set_paused(prefix, true, now), Err(EngineError::WrongState { .. })));
    rig.kill();
    assert_eq!(rig.status(&spec).state, JobState::Cancelled);

    assert!(!rig.core.launch(spec.clone(), rig.now()).unwrap().created);
    rig.commit();
    let status = rig.status(&spec);
    assert_eq!((status.state, status.passes), (JobState::Running, 1));
    rig.work_to_the_end(&spec);
    let kinds = kinds(&rig, &spec);
    let life: Vec<_> =
        kinds.iter().map(String::as_str).filter(|kind| !kind.contains("generation") && *kind != "new-best").collect();
    assert_eq!(life, ["launched", "paused", "resumed", "cancelled", "restarted", "reporting", "done"]);
}

#[test]
fn a_time_budget_outlives_the_coordinator_and_ends_the_search() {
    let (mut rig, mut spec) = (Rig::new(), job(1));
    spec.search.time_budget_seconds = Some(60);
    rig.launch(&spec);
    for _ in 0..7 {
        rig.pass(Duration::from_secs(10));
        rig.kill();
    }
    rig.work_to_the_end(&spec);
    let because = events(&rig, &spec).into_iter().find_map(|event| match event {
        JobEvent::Reporting { because, .. } => Some(because),
        _ => None,
    });
    assert_eq!(because.as_deref(), Some("the time budget is spent"));
    assert_eq!(rig.status(&spec).evaluations, 7, "no generation after the first was opened");
}

#[test]
fn what_a_job_waits_for_is_told() {
    let (mut rig, spec) = (Rig::new(), job(1));
    rig.launch(&spec);
    rig.pass(Duration::from_millis(200));
    let reason = |rig: &Rig| rig.status(&spec).reason.unwrap_or_default();
    assert!(reason(&rig).starts_with("waiting for a worker: none is connected"), "{}", reason(&rig));
    assert!(reason(&rig).contains("since 2023-11-14 22:13:20 UTC"), "{}", reason(&rig));
    let small = rig.register(20);
    assert!(rig.lease(&small, 1).is_empty());
    rig.pass(Duration::from_millis(200));
    assert!(reason(&rig).contains("hold at most 20 of 64 tokens"), "{}", reason(&rig));
    let large = rig.register(1000);
    let unit = rig.lease(&large, 1).remove(0);
    rig.report(&large, vec![failed(&unit, FailureKind::ModelMissing)]);
    assert!(rig.lease(&large, 1).is_empty(), "it has no such model");
    rig.pass(Duration::from_millis(200));
    assert!(reason(&rig).contains("1 without the job's model"), "{}", reason(&rig));
    let able = rig.register(1000);
    rig.lease(&able, 1);
    rig.pass(Duration::from_millis(200));
    assert_eq!(reason(&rig), "");
}

#[test]
fn a_launch_names_what_is_missing_and_what_is_wrong() {
    let (mut rig, mut spec) = (Rig::new(), job(1));
    let now = rig.now();
    assert!(matches!(rig.core.launch(spec.clone(), now), Err(EngineError::MissingSamples { missing: 5, .. })));
    rig.launch(&spec);
    spec.target_length = 65;
    assert!(matches!(rig.core.launch(spec.clone(), now), Err(EngineError::ShortSample { tokens: 64, .. })));
    spec.target_length = 16;
    spec.search.evolution.population = 0;
    let Err(EngineError::InvalidJob(invalid)) = rig.core.launch(spec.clone(), now) else { panic!() };
    let fields: Vec<_> = invalid.problems.iter().map(|problem| problem.field).collect();
    assert!(fields.contains(&"target_length") && fields.contains(&"population"), "{fields:?}");
    let mut huge = job(1);
    (huge.search.evolution.population, huge.search.evolution.mutations) = (100_000, 100_000);
    huge.samples = (0..100).map(|number| ropewalk_shared::sample::SampleId::from([number; 32])).collect();
    assert!(matches!(rig.core.launch(huge, now), Err(EngineError::TooManyUnits { .. })));
}

#[test]
fn jobs_are_found_by_any_beginning_that_fits_one() {
    let mut rig = Rig::new();
    let (first, second) = (job(1), job(2));
    rig.launch(&first);
    rig.launch(&second);
    let find = |prefix: &str| rig.core.status(prefix, rig.now()).map(|(status, _)| status.job_id);
    assert_eq!(find(first.id().as_str()), Ok(first.id()));
    assert!(matches!(find("test-"), Err(EngineError::AmbiguousJob { count: 2, .. })));
    assert_eq!(find("nope").unwrap_err().to_string(), "no job begins with \"nope\"; `ropewalk jobs` lists them");
    assert!(matches!(find(""), Err(EngineError::UnknownJob(_))));
    let listed: Vec<_> = rig.core.statuses(rig.now()).into_iter().map(|status| status.job_id).collect();
    assert_eq!(listed.len(), 2);
}
