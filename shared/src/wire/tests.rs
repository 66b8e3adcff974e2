//! What is sent comes back as it was; what is hostile is refused by the name of its field.

use super::{FieldProblem, InvalidField, pb};
use crate::attention_factor::AttentionFactorPolicy;
use crate::event::{Event, JobEvent};
use crate::fingerprint::Fingerprint;
use crate::grid::Grid;
use crate::job::{EvolutionOptions, JobSpec, ModelIdentity, SearchObjective, SearchOptions, ShortWindow, StrategyKind};
use crate::outcome::{FailureKind, Loss, LossSlope, UnitFailure};
use crate::racing::Racing;
use crate::rope::Rescale;
use crate::sample::SampleId;
use crate::status::{JobState, JobStatus, WorkerStatus};
use crate::work::{
    LeaseId, LeaseRequest, MAX_UNITS_PER_LEASE, Measure, Registration, Unit, UnitOutcome, UnitReport, Verdict,
    WorkerId, WorkerProfile,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use std::time::Duration;

fn rescale() -> impl Strategy<Value = Rescale> {
    (vec((1e-3f64..1e5, 0.0625f64..16.0), 1..130), any::<u32>(), 0.1f64..10.0, any::<bool>()).prop_map(
        |(pairs, start_tokens, attention_factor, of_pairs)| {
            let (factors, pair_attention): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
            let pair_attention = if of_pairs { pair_attention } else { Vec::new() };
            Rescale { factors, start_tokens, attention_factor, pair_attention }
        },
    )
}

fn policy() -> impl Strategy<Value = AttentionFactorPolicy> {
    use AttentionFactorPolicy::{Fixed, LongRope, None, Yarn};
    prop_oneof![Just(None), Just(LongRope), Just(Yarn), (1e-3f64..1e3).prop_map(Fixed)]
}

prop_compose! {
    fn evolution()(
        counts in any::<[u32; 5]>(),
        mutation_probability in any::<f64>().prop_filter("comparable", |p| !p.is_nan()),
    ) -> EvolutionOptions {
        let [population, mutations, crossovers, generations, parents] = counts;
        EvolutionOptions { population, mutations, crossovers, generations, parents, mutation_probability }
    }
}

fn objective() -> impl Strategy<Value = SearchObjective> {
    prop_oneof![
        Just(SearchObjective::Perplexity),
        Just(SearchObjective::Needle),
        (0.001f64..0.999).prop_map(|needle_share| SearchObjective::Mixture { needle_share }),
    ]
}

prop_compose! {
    fn search()(
        seed in any::<u64>(),
        evolution in evolution(),
        points in 1u32..=10_000,
        max_factor in option::of(1.0f64..1e5),
        start_tokens in vec(any::<u32>(), 0..20),
        attention_factor in policy(),
        init in vec(rescale(), 0..3),
        patience in option::of(any::<u32>()),
        limits in option::of((any::<u64>(), any::<u64>())),
        objective in objective(),
        racing in proptest::sample::select(vec![Racing::Off, Racing::Safe, Racing::Fast]),
        slope_steps in any::<u32>(),
        pair_attention in any::<u32>(),
        keep_short in vec((any::<u32>(), 0.0f64..1e4, vec(any::<[u8; 32]>(), 0..3), vec(any::<[u8; 32]>(), 0..3)), 0..3),
    ) -> SearchOptions {
        SearchOptions {
            strategy: StrategyKind::LongRope,
            seed,
            evolution,
            slope_steps,
            pair_attention,
            grid: Grid::with_step(1.0 / f64::from(points)).unwrap(),
            max_factor,
            start_tokens,
            attention_factor,
            init,
            patience,
            max_evaluations: limits.map(|(evaluations, _)| evaluations),
            time_budget_seconds: limits.map(|(_, seconds)| seconds),
            objective,
            racing,
            max_passes: limits.map(|(evaluations, seconds)| evaluations ^ seconds),
            keep_short: keep_short.into_iter().map(short_window).collect(),
        }
    }
}

fn short_window((length, percent, samples, held_out): (u32, f64, Vec<[u8; 32]>, Vec<[u8; 32]>)) -> ShortWindow {
    let ids = |samples: Vec<[u8; 32]>| samples.into_iter().map(SampleId::from).collect();
    ShortWindow { length, percent, samples: ids(samples), held_out: ids(held_out) }
}

prop_compose! {
    fn spec()(
        name in "[a-zA-Z0-9._-]{0,60}",
        model_name in "\\PC{0,40}",
        fingerprint in any::<[u8; 32]>(),
        config_json in ".{0,200}",
        target_length in any::<u32>(),
        search in search(),
        samples in vec(any::<[u8; 32]>(), 0..5),
        held_out in vec(any::<[u8; 32]>(), 0..5),
    ) -> JobSpec {
        JobSpec {
            name,
            model: ModelIdentity { name: model_name, fingerprint: Fingerprint::from(fingerprint), config_json },
            target_length,
            search,
            samples: samples.into_iter().map(SampleId::from).collect(),
            held_out: held_out.into_iter().map(SampleId::from).collect(),
        }
    }
}

fn outcome() -> impl Strategy<Value = UnitOutcome> {
    use FailureKind::{
        Evaluation, FingerprintMismatch, HandedBack, ModelMissing, NoGradient, SampleUnavailable, TooLarge,
    };
    let kinds = [ModelMissing, FingerprintMismatch, TooLarge, SampleUnavailable, Evaluation, HandedBack, NoGradient];
    let number = || any::<f64>().prop_filter("comparable", |sum| !sum.is_nan());
    let loss = move || {
        (number(), any::<u64>(), 0.0f64..1e9).prop_map(|(nll_sum, tokens, seconds)| (Loss { nll_sum, tokens }, seconds))
    };
    prop_oneof![
        loss().prop_map(|(loss, seconds)| UnitOutcome::Loss { loss, seconds }),
        (loss(), vec(number(), 0..130), number(), vec(number(), 0..130)).prop_map(
            |((loss, seconds), log_factors, log_attention_factor, log_pair_attention)| {
                let slope = LossSlope { log_factors, log_attention_factor, log_pair_attention };
                UnitOutcome::Gradient { loss, slope, seconds }
            }
        ),
        (proptest::sample::select(kinds.to_vec()), "\\PC{0,100}")
            .prop_map(|(kind, reason)| UnitOutcome::Failure(UnitFailure { kind, reason })),
    ]
}

proptest! {
    #[test]
    fn specifications_come_back_with_their_identity(spec in spec()) {
        let back = JobSpec::try_from(pb::JobSpec::from(&spec)).unwrap();
        prop_assert_eq!(back.id(), spec.id());
        prop_assert_eq!(back, spec);
    }

    #[test]
    fn units_and_reports_come_back(
        rescale in rescale(),
        ids in (any::<u64>(), any::<[u8; 32]>(), any::<[u8; 32]>(), any::<u32>(), any::<u32>()),
        outcome in outcome(),
        measure in prop_oneof![Just(Measure::Loss), Just(Measure::Gradient)],
    ) {
        let (lease, fingerprint, sample, tokens, attempt) = ids;
        let (lease, sample) = (LeaseId(lease), SampleId::from(sample));
        let job: crate::job::JobId = "lab-0123456789".parse().unwrap();
        let unit = Unit {
            lease,
            job: job.clone(),
            model_name: "model".into(),
            model_fingerprint: Fingerprint::from(fingerprint),
            sample,
            tokens,
            rescale: rescale.clone(),
            measure,
            attempt,
        };
        prop_assert_eq!(Unit::try_from(pb::Unit::from(&unit)).unwrap(), unit);
        let report = UnitReport { lease, job, sample, rescale, outcome };
        prop_assert_eq!(UnitReport::try_from(pb::UnitReport::from(&report)).unwrap(), report);
    }

    #[test]
    fn requests_for_work_come_back(
        request_id in any::<u64>(),
        max_units in 1..=MAX_UNITS_PER_LEASE,
        wait_ms in 0u64..=60_000,
        models in vec(any::<[u8; 32]>(), 0..4),
    ) {
        let models: Vec<Fingerprint> = models.into_iter().map(Fingerprint::from).collect();
        let request = LeaseRequest {
            worker: WorkerId::numbered(3, 7),
            request_id,
            max_units,
            wait: Duration::from_millis(wait_ms),
            loaded: models.clone(),
            missing: models,
        };
        prop_assert_eq!(LeaseRequest::try_from(pb::LeaseRequest::from(&request)).unwrap(), request);
    }
}

#[test]
fn statuses_come_back() {
    let states = [
        JobState::Running,
        JobState::Paused,
        JobState::Reporting,
        JobState::Done,
        JobState::Cancelled,
        JobState::Failed,
    ];
    for (state, reason) in
        states.into_iter().zip([None, Some("waiting\n  for two lines".to_owned())].into_iter().cycle())
    {
        let status = JobStatus {
            job_id: "lab-0123456789".parse().unwrap(),
            name: "lab".into(),
            model_name: "model".into(),
            state,
            finished_ms: reason.as_ref().map(|_| 9),
            training: None,
            plan: None,
            best: reason.as_ref().map(|_| Rescale::identity(4)),
            best_perplexity: reason.as_ref().map(|_| 9.5),
            reason,
            generation: 1,
            generations: 2,
            evaluations: 3,
            planned_evaluations: 4,
            passes: 5,
            stage_done: 6,
            stage_units: 7,
            leased: 8,
            objective: SearchObjective::Mixture { needle_share: 0.25 },
            original_length: 16,
            target_length: 64,
            created_ms: 11,
        };
        assert_eq!(JobStatus::try_from(pb::JobStatus::from(&status)).unwrap(), status);
        let json = serde_json::to_value(&status).unwrap();
        assert_eq!(json["state"], state.name());
        assert_eq!(serde_json::from_value::<JobStatus>(json).unwrap(), status);
    }
    let worker = WorkerStatus {
        worker_id: "w1-1".into(),
        name: "left".into(),
        device: "cuda:0".into(),
        dtype: "bf16".into(),
        max_tokens: 1 << 17,
        version: "0.1.0".into(),
        connected: true,
        last_seen_ms: 5,
        leased: 2,
        results: 10,
        failures: 1,
        tokens_per_second: 1234.5,
        stopped_passes: 2.75,
        training: None,
    };
    let training = WorkerStatus { training: Some("tune-0123456789".parse().unwrap()), ..worker.clone() };
    for worker in [worker, training] {
        assert_eq!(WorkerStatus::try_from(pb::WorkerStatus::from(&worker)).unwrap(), worker);
    }
}

#[test]
fn events_come_back_and_unknown_ones_are_read() {
    let event = Event { sequence: 3, time_ms: 4, what: JobEvent::Failed { reason: "x \"y\"\n".into() } };
    assert_eq!(Event::try_from(pb::Event::from(&event)).unwrap(), event);
    let of = |json: &str| Event::try_from(pb::Event { sequence: 1, time_ms: 1, json: json.into() });
    assert_eq!(of(r#"{"kind":"later","x":1}"#).unwrap().what, JobEvent::Unknown);
    assert!(of("{}").is_err() && of("").is_err() && of(&"x".repeat(2 << 20)).is_err());
}

#[test]
fn registrations_and_verdicts_come_back() {
    let profile = WorkerProfile {
        name: "a worker".into(),
        device: "cpu".into(),
        dtype: "f32".into(),
        max_tokens: 7,
        max_gradient_tokens: 3,
        version: "1".into(),
    };
    assert_eq!(WorkerProfile::try_from(pb::RegisterRequest::from(&profile)), Ok(profile));
    let registration = Registration {
        worker: WorkerId::numbered(1, 2),
        lease: Duration::from_secs(60),
        heartbeat: Duration::from_secs(20),
    };
    assert_eq!(Registration::try_from(pb::RegisterResponse::from(&registration)), Ok(registration));
    use Verdict::{Accepted, Conflict, Duplicate, NotWanted, Refused};
    for verdict in [Accepted, Duplicate, Conflict, NotWanted, Refused] {
        assert_eq!(Verdict::try_from(pb::report_response::Verdict::from(verdict)), Ok(verdict));
    }
    assert!(Verdict::try_from(pb::report_response::Verdict::Unspecified).is_err());
}

fn refused<T>(result: Result<T, InvalidField>) -> &'static str {
    result.err().map_or("accepted", |error| error.field)
}

#[test]
fn bad_rescales_are_named() {
    let with = |factors: Vec<f64>, attention_factor| {
        Rescale::try_from(pb::Rescale { factors, start_tokens: 0, attention_factor, ..Default::default() })
    };
    assert_eq!(refused(with(vec![], 1.0)), "rescale.factors");
    assert_eq!(refused(with(vec![1.0; 10_000], 1.0)), "rescale.factors");
    for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert_eq!(refused(with(vec![1.0, bad], 1.0)), "rescale");
        assert_eq!(refused(with(vec![1.0], bad)), "rescale");
    }
    let with = |pair_attention: Vec<f64>| {
        let (factors, attention_factor) = (vec![1.0; 3], 1.0);
        Rescale::try_from(pb::Rescale { factors, start_tokens: 0, attention_factor, pair_attention })
    };
    assert!(with(vec![]).is_ok() && with(vec![0.5; 3]).is_ok());
    assert_eq!(refused(with(vec![1.0; 4])), "rescale.pair_attention");
    assert_eq!(refused(with(vec![1.0; 2])), "rescale");
    for bad in [0.0, 100.0, f64::NAN] {
        assert_eq!(refused(with(vec![1.0, 1.0, bad])), "rescale");
    }
}

#[test]
fn choices_that_are_not_known_are_refused() {
    let with = |racing| {
        let search = SearchOptions::default();
        SearchOptions::try_from(pb::SearchOptions { racing, ..(&search).into() }).map(|search| search.racing)
    };
    // Those who know of no racing say nothing.
    assert_eq!(
        [0, 1, 2, 3].map(|number| with(number).unwrap()),
        [Racing::Off, Racing::Off, Racing::Safe, Racing::Fast]
    );
    assert_eq!(with(4), Err(InvalidField { field: "search.racing", problem: FieldProblem::Unknown(4) }));
}

#[test]
fn bad_measures_and_gradients_are_named() {
    let unit = |measure| {
        let rescale =
            Some(pb::Rescale { factors: vec![1.0], start_tokens: 0, attention_factor: 1.0, ..Default::default() });
        let digest = vec![0; 32];
        Unit::try_from(pb::Unit {
            job_id: "lab-0123456789".into(),
            model_fingerprint: digest.clone(),
            sample_id: digest,
            rescale,
            measure,
            ..Default::default()
        })
    };
    // What is not said is the loss: there was nothing else once.
    assert_eq!(unit(0).unwrap().measure, Measure::Loss);
    assert_eq!(unit(3).unwrap_err(), InvalidField { field: "measure", problem: FieldProblem::Unknown(3) });

    let report = |gradient| {
        UnitReport::try_from(pb::UnitReport {
            job_id: "lab-0123456789".into(),
            sample_id: vec![0; 32],
            rescale: Some(pb::Rescale {
                factors: vec![1.0],
                start_tokens: 0,
                attention_factor: 1.0,
                ..Default::default()
            }),
            outcome: Some(pb::unit_report::Outcome::Gradient(gradient)),
            ..Default::default()
        })
    };
    let loss = |seconds| Some(pb::Loss { nll_sum: f64::NAN, tokens: 1, seconds });
    let gradient = |loss, length| pb::Gradient { loss, log_factors: vec![f64::INFINITY; length], ..Default::default() };
    assert!(report(gradient(loss(1.0), 1)).is_ok(), "what is not finite is a value");
    assert_eq!(refused(report(gradient(loss(1.0), 10_000))), "gradient.log_factors");
    assert_eq!(refused(report(gradient(None, 1))), "gradient.loss");
    let pairs = pb::Gradient { log_pair_attention: vec![0.0; 10_000], ..gradient(loss(1.0), 1) };
    assert_eq!(refused(report(pairs)), "gradient.log_pair_attention");
    assert_eq!(refused(report(gradient(loss(-1.0), 1))), "loss.seconds");
}

#[test]
fn bad_requests_of_workers_are_named() {
    let base = pb::LeaseRequest { worker_id: "w1-1".into(), max_units: 1, ..Default::default() };
    let lease = |change: fn(&mut pb::LeaseRequest)| {
        let mut request = base.clone();
        change(&mut request);
        refused(LeaseRequest::try_from(request))
    };
    assert_eq!(lease(|_| ()), "accepted");
    assert_eq!(lease(|request| request.worker_id.clear()), "worker_id");
    assert_eq!(lease(|request| request.worker_id = "x".repeat(100)), "worker_id");
    assert_eq!(lease(|request| request.max_units = 0), "max_units");
    assert_eq!(lease(|request| request.max_units = 5000), "max_units");
    assert_eq!(lease(|request| request.wait_ms = 60_001), "wait_ms");
    assert_eq!(lease(|request| request.loaded_models = vec![vec![0; 31]]), "loaded_models");
    assert_eq!(lease(|request| request.missing_models = vec![vec![]; 20_000]), "missing_models");
    let register = pb::RegisterRequest { name: "tab\there".into(), ..Default::default() };
    assert_eq!(refused(WorkerProfile::try_from(register)), "name");
    let unspecified = UnitFailure::try_from(pb::Failure { kind: 0, reason: String::new() });
    assert_eq!(unspecified.unwrap_err().problem, FieldProblem::Unknown(0));
    let long = pb::Failure { kind: 5, reason: "é\n".repeat(9000) };
    let reason = UnitFailure::try_from(long).unwrap().reason;
    assert!(reason.chars().count() == 2000 && !reason.contains('\n'));
}
