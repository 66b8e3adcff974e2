//! A worker and a coordinator that misbehaves.

mod fake;
mod training;

use super::*;
use crate::cancel::CancelFlag;
use crate::evaluator::{Evaluator, EvaluatorOptions};
use crate::model::{Model, fingerprint_dir};
use fake::{Fake, Served};
use ropewalk_shared::fingerprint::Fingerprint;
use ropewalk_shared::rope::Rescale;
use ropewalk_shared::sample::Sample;
use ropewalk_shared::wire::pb;
use ropewalk_shared::wire::pb::failure::Kind;
use ropewalk_shared::wire::pb::unit_report::Outcome;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::Code;

const MODELS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/golden");
const MODEL: &str = "llama-v4";

/// Tokens that an evaluation of the small model takes half a second or more for.
const LONG: u32 = 20_000;

struct Running {
    worker: JoinHandle<Result<WorkerSummary, WorkerError>>,
    stop: oneshot::Sender<()>,
}

impl Running {
    async fn stop(self) -> WorkerSummary {
        let _ = self.stop.send(());
        self.worker.await.unwrap().unwrap()
    }
}

fn start(served: &Served, change: impl FnOnce(&mut WorkerConfig)) -> Running {
    let mut config = WorkerConfig::new(served.address.to_string(), MODELS);
    config.threads = 1;
    change(&mut config);
    let (stop, stopped) = oneshot::channel();
    let shutdown = async { _ = stopped.await };
    Running { worker: tokio::spawn(run(config, shutdown)), stop }
}

fn fingerprint() -> Fingerprint {
    fingerprint_dir(&PathBuf::from(MODELS).join(MODEL)).unwrap()
}

fn sample(tokens: u32) -> Sample {
    Sample::new((0..tokens).map(|i| i * 7 % 96).collect()).unwrap()
}

fn rescale(lease: u64) -> Rescale {
    Rescale::with_factors((0..8).map(|pair| 1.0 + (pair * lease) as f64 * 0.01).collect())
}

fn unit(lease: u64, sample: &Sample) -> pb::Unit {
    pb::Unit {
        lease_id: lease,
        job_id: "job-0123456789".into(),
        model_name: MODEL.into(),
        model_fingerprint: fingerprint().as_bytes().to_vec(),
        sample_id: sample.id().as_bytes().to_vec(),
        tokens: sample.tokens().len() as u32,
        rescale: Some((&rescale(lease)).into()),
        measure: pb::Measure::Loss.into(),
        attempt: 1,
    }
}

/// A fake that holds a sample and `count` units of it.
fn fake(tokens: u32, count: u64) -> (Fake, Sample) {
    let (fake, sample) = (Fake::default(), sample(tokens));
    fake.hold(&sample);
    fake.state().units.extend((1..=count).map(|lease| unit(lease, &sample)));
    (fake, sample)
}

/// Every unit reported with its loss, in the order of their leases.
fn losses(fake: &Fake) -> Vec<(u64, f64)> {
    let state = fake.state();
    let losses = state.reports.iter().map(|report| match &report.outcome {
        Some(Outcome::Loss(loss)) => (report.lease_id, loss.nll_sum),
        other => panic!("{other:?}"),
    });
    let mut losses: Vec<_> = losses.collect();
    losses.sort_by_key(|(lease, _)| *lease);
    losses
}

fn failures(fake: &Fake) -> Vec<(Kind, String)> {
    let state = fake.state();
    let failures = state.reports.iter().filter_map(|report| match &report.outcome {
        Some(Outcome::Failure(failure)) => Some((failure.kind(), failure.reason.clone())),
        _ => None,
    });
    failures.collect()
}

fn expected(sample: &Sample, leases: impl IntoIterator<Item = u64>) -> Vec<(u64, f64)> {
    let model = Model::load(&PathBuf::from(MODELS).join(MODEL), &candle_core::Device::Cpu, Dtype::F32).unwrap();
    let evaluator = Evaluator::new(model.into(), EvaluatorOptions { threads: 1, ..Default::default() }).unwrap();
    let loss = |lease| evaluator.evaluate(&rescale(lease), sample.tokens(), &CancelFlag::new(), &mut |_| {}).unwrap();
    leases.into_iter().map(|lease| (lease, loss(lease).nll_sum)).collect()
}

#[tokio::test]
async fn units_are_evaluated_and_reported() {
    let (fake, sample) = fake(200, 30);
    let served = fake.serve("127.0.0.1:0").await;
    let worker = start(&served, |_| {});
    fake.until("30 reports", |state| state.reports.len() == 30).await;
    let summary = worker.stop().await;
    assert_eq!(losses(&fake), expected(&sample, 1..=30));
    assert_eq!((summary.results, summary.failures, summary.handed_back), (30, 0, 0));
    let state = fake.state();
    assert_eq!((state.registrations, state.sample_requests), (1, 1));
    assert!(state.lease_requests.len() < 20, "{} lease requests for 30 short units", state.lease_requests.len());
    assert_eq!(state.lease_requests.last().unwrap().loaded_models, [fingerprint().as_bytes().to_vec()]);
    assert!(state.lease_requests.is_sorted_by_key(|request| request.request_id));
    let leaving: Vec<bool> = state.heartbeats.iter().map(|beat| beat.leaving).collect();
    assert_eq!(
        leaving.iter().position(|leaving| *leaving),
        Some(leaving.len() - 1),
        "it says that it ends, at the end"
    );
}

#[tokio::test]
async fn of_a_counted_sample_only_what_counts_is_reported() {
    let (fake, whole) = fake(200, 1);
    let counted = Sample::counted(whole.tokens().to_vec(), 190).unwrap();
    fake.hold(&counted);
    let gradient = pb::Unit { measure: pb::Measure::Gradient.into(), ..unit(3, &counted) };
    fake.state().units.extend([unit(2, &counted), gradient]);
    let served = fake.serve("127.0.0.1:0").await;
    let worker = start(&served, |_| {});
    fake.until("3 reports", |state| state.reports.len() == 3).await;
    worker.stop().await;
    let before = Sample::new(whole.tokens()[..190].to_vec()).unwrap();
    let (whole, before) = (expected(&whole, 1..=3), expected(&before, 1..=3));
    let (mut tokens, state) = (Vec::new(), fake.state());
    for report in &state.reports {
        let loss = match &report.outcome {
            Some(Outcome::Loss(loss)) => loss,
            Some(Outcome::Gradient(gradient)) => gradient.loss.as_ref().unwrap(),
            other => panic!("{other:?}"),
        };
        tokens.push((report.lease_id, loss.tokens));
        let at = report.lease_id as usize - 1;
        let expected = if at == 0 { whole[0].1 } else { whole[at].1 - before[at].1 };
        assert!((loss.nll_sum - expected).abs() < 1e-3, "{loss:?} for {expected}");
    }
    tokens.sort_unstable();
    assert_eq!(tokens, [(1, 199), (2, 10), (3, 10)]);
}

#[tokio::test]
async fn failing_calls_are_made_again() {
    let (fake, sample) = fake(100, 10);
    let codes = [Code::Unavailable, Code::Internal, Code::Ok, Code::Unavailable, Code::Ok, Code::ResourceExhausted];
    fake.state().failures.extend(codes);
    let served = fake.serve("127.0.0.1:0").await;
    let worker = start(&served, |_| {});
    fake.until("10 reports", |state| state.reports.len() == 10).await;
    worker.stop().await;
    assert_eq!(losses(&fake), expected(&sample, 1..=10));
    assert_eq!(fake.state().registrations, 1);
}

#[tokio::test]
async fn a_forgotten_worker_registers_again_and_loses_no_result() {
    let (fake, sample) = fake(LONG, 1);
    let served = fake.serve("127.0.0.1:0").await;
    let worker = start(&served, |_| {});
    fake.until("a lease", |state| state.heartbeats.iter().any(|beat| beat.lease_ids == [1])).await;
    fake.state().failures.push_back(Code::NotFound);
    fake.until("a report", |state| state.registrations == 2 && state.reports.len() == 1).await;
    worker.stop().await;
    assert_eq!(losses(&fake), expected(&sample, [1]));
}

#[tokio::test]
async fn a_coordinator_that_was_away_gets_the_results() {
    let (fake, sample) = fake(LONG, 1);
    let served = fake.serve("127.0.0.1:0").await;
    let address = served.address.to_string();
    let worker = start(&served, |_| {});
    fake.until("a lease", |state| state.heartbeats.iter().any(|beat| beat.lease_ids == [1])).await;
    served.kill().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let _served = fake.serve(&address).await;
    fake.until("a report", |state| state.reports.len() == 1).await;
    worker.stop().await;
    assert_eq!(losses(&fake), expected(&sample, [1]));
}

#[tokio::test]
async fn a_model_that_is_not_there_is_said_once_and_not_leased_again() {
    let (fake, sample) = fake(100, 0);
    let stranger =
        |lease| pb::Unit { model_name: "big".into(), model_fingerprint: vec![7; 32], ..unit(lease, &sample) };
    let other = |lease| pb::Unit { model_fingerprint: vec![8; 32], ..unit(lease, &sample) };
    fake.state().units.extend([stranger(1), other(2), stranger(3), other(4), unit(5, &sample)]);
    let served = fake.serve("127.0.0.1:0").await;
    let worker = start(&served, |_| {});
    fake.until("the last report", |state| state.reports.iter().any(|report| report.lease_id == 5)).await;
    worker.stop().await;
    let failures = failures(&fake);
    let kinds: Vec<Kind> = failures.iter().map(|(kind, _)| *kind).collect();
    assert!(kinds.contains(&Kind::ModelMissing) && kinds.contains(&Kind::FingerprintMismatch), "{failures:?}");
    assert!(failures[0].1.contains("\"big\"") && failures[0].1.contains(MODELS), "{failures:?}");
    assert!(fake.state().lease_requests.last().unwrap().missing_models.contains(&vec![7; 32]));
}

#[tokio::test]
async fn a_worker_that_does_not_wait_for_models_ends_without_one() {
    let (fake, sample) = fake(100, 0);
    fake.state().units.push_back(pb::Unit {
        model_name: "big".into(),
        model_fingerprint: vec![7; 32],
        ..unit(1, &sample)
    });
    let served = fake.serve("127.0.0.1:0").await;
    let error = start(&served, |config| config.wait_for_models = false).worker.await.unwrap().unwrap_err();
    assert!(matches!(&error, WorkerError::Model(reason) if reason.contains("\"big\"")), "{error}");
}

#[tokio::test]
async fn a_model_that_cannot_be_loaded_is_no_candidates_fault() {
    let root = tempfile::TempDir::new().unwrap();
    let folder = root.path().join("torn");
    std::fs::create_dir(&folder).unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(PathBuf::from(MODELS).join(MODEL).join(file), folder.join(file)).unwrap();
    }
    let weights = std::fs::File::options().write(true).open(folder.join("model.safetensors")).unwrap();
    weights.set_len(10_000).unwrap();
    let torn = fingerprint_dir(&folder).unwrap();
    let (fake, sample) = fake(100, 0);
    let unit = |lease| pb::Unit {
        model_name: "torn".into(),
        model_fingerprint: torn.as_bytes().to_vec(),
        ..unit(lease, &sample)
    };
    fake.state().units.extend([unit(1), unit(2)]);
    let served = fake.serve("127.0.0.1:0").await;
    let worker = start(&served, |config| config.model_root = root.path().to_owned());
    fake.until("a refusal", |state| state.lease_requests.last().is_some_and(|last| !last.missing_models.is_empty()))
        .await;
    worker.stop().await;
    let failures = failures(&fake);
    assert!(
        failures.iter().all(|(kind, reason)| *kind == Kind::ModelMissing && reason.contains("truncated")),
        "{failures:?}"
    );
}

#[tokio::test]
async fn samples_that_cannot_be_had_fail_their_units_only() {
    let (fake, good) = fake(100, 0);
    let (absent, broken) = (sample(50), sample(60));
    fake.hold(&broken);
    fake.state().samples.values_mut().filter(|chunks| chunks[0].total_tokens == 60).for_each(|chunks| {
        chunks[0].token_ids[0] ^= 1;
    });
    fake.state().units.extend([unit(1, &absent), unit(2, &broken), unit(3, &good)]);
    let served = fake.serve("127.0.0.1:0").await;
    let worker = start(&served, |_| {});
    fake.until("3 reports", |state| state.reports.len() == 3).await;
    worker.stop().await;
    let failures = failures(&fake);
    assert!(failures.iter().all(|(kind, _)| *kind == Kind::SampleUnavailable), "{failures:?}");
    assert!(failures[0].1.contains("does not hold") && failures[1].1.contains("broken"), "{failures:?}");
}

#[tokio::test]
async fn a_sample_that_never_comes_keeps_no_other_waiting() {
    let (fake, good) = fake(100, 0);
    let bad = sample(50);
    fake.state().unreadable.push(bad.id().as_bytes().to_vec());
    fake.state().units.extend([unit(1, &bad), unit(2, &good)]);
    let served = fake.serve("127.0.0.1:0").await;
    let worker = start(&served, |_| {});
    fake.until("2 reports", |state| state.reports.len() == 2).await;
    let summary = worker.stop().await;
    assert_eq!((summary.results, summary.failures), (1, 1));
    let failures = failures(&fake);
    assert!(failures.len() == 1 && failures[0].0 == Kind::SampleUnavailable, "{failures:?}");
    assert!(failures[0].1.contains("a bad sector"), "{failures:?}");
    // Not at the first failure: that may be anything.
    assert!(fake.state().sample_requests > 3);
}

#[tokio::test]
async fn what_cannot_be_evaluated_is_said() {
    let (fake, long) = fake(500, 0);
    let foreign = Sample::new(vec![1, 96, 2]).unwrap();
    fake.hold(&foreign);
    let short = pb::Rescale { factors: vec![1.0; 3], start_tokens: 0, attention_factor: 1.0, ..Default::default() };
    fake.state().units.extend([
        unit(1, &foreign),
        unit(2, &long),
        pb::Unit { rescale: Some(short), ..unit(3, &foreign) },
    ]);
    let served = fake.serve("127.0.0.1:0").await;
    let worker = start(&served, |config| config.max_tokens = Some(300));
    fake.until("3 reports", |state| state.reports.len() == 3).await;
    worker.stop().await;
    let failures = failures(&fake);
    let kinds: Vec<Kind> = failures.iter().map(|(kind, _)| *kind).collect();
    assert!(failures.iter().any(|(kind, reason)| *kind == Kind::TooLarge && reason.contains("300")), "{failures:?}");
    assert_eq!(kinds.iter().filter(|kind| **kind == Kind::Evaluation).count(), 2, "{failures:?}");
}

#[tokio::test]
async fn a_worker_whose_gpu_fails_again_and_again_hands_back_what_it_holds_and_ends() {
    let (fake, _) = fake(100, 30);
    let served = fake.serve("127.0.0.1:0").await;
    let config = WorkerConfig::new(served.address.to_string(), MODELS);
    let mut in_a_row = 0;
    let evaluation = Evaluation::scripted(move || {
        in_a_row += 1;
        evaluation::Outcome::DeviceFailed { reason: "an illegal memory access".into(), in_a_row }
    });
    let link = Link::new(&config.coordinator, &config.access).unwrap();
    // Nobody asks it to stop.
    let error = Desk::new(config, link, evaluation, gate().0).run(std::future::pending()).await.unwrap_err();
    assert!(!error.is_usage() && matches!(error, WorkerError::DeviceFailed { failures: 3.., .. }), "{error}");
    assert!(error.to_string().contains("illegal memory access"), "{error}");
    let (failures, state) = (failures(&fake), fake.state());
    let counted = failures.iter().filter(|(kind, _)| *kind == Kind::Evaluation).count();
    // One may have been a candidate's fault, the others were not, and nothing is left to expire.
    assert_eq!((counted, failures.len()), (1, 30 - state.units.len()), "{failures:?}");
    assert!(failures.iter().all(|(kind, _)| matches!(kind, Kind::Evaluation | Kind::HandedBack)), "{failures:?}");
}

#[tokio::test]
async fn a_revoked_lease_ends_its_evaluation() {
    let (fake, sample) = fake(4 * LONG, 1);
    let short = self::sample(100);
    fake.hold(&short);
    let served = fake.serve("127.0.0.1:0").await;
    let worker = start(&served, |_| {});
    fake.until("a heartbeat", |state| state.heartbeats.iter().any(|beat| beat.lease_ids == [1])).await;
    fake.state().revoked.push(1);
    fake.state().units.push_back(unit(2, &short));
    fake.until("a report", |state| !state.reports.is_empty()).await;
    fake.until("another", |state| state.reports.len() == 2).await;
    // What was done until then is told, and nothing else.
    let stopped = fake.state().reports.remove(0);
    let Some(Outcome::Stopped(part)) = stopped.outcome else { panic!("{stopped:?}") };
    assert!(stopped.lease_id == 1 && part.share > 0.0 && part.share < 1.0 && part.seconds > 0.0, "{part:?}");
    assert_eq!(losses(&fake), expected(&short, [2]));
    drop((worker.stop().await, sample));
    assert_eq!(fake.state().reports.len(), 1);
}

#[tokio::test]
async fn a_stopping_worker_leaves_no_unit_behind() {
    // Without grace the running evaluation goes back too.
    for grace in [Duration::from_secs(60), Duration::ZERO] {
        let (fake, sample) = fake(100, 20);
        let long = self::sample(LONG);
        fake.hold(&long);
        fake.state().units.extend((21..=60).map(|lease| unit(lease, &long)));
        let served = fake.serve("127.0.0.1:0").await;
        let worker = start(&served, |config| config.grace = grace);
        // Short units made it lease many; now it sits on long ones.
        fake.until("a long unit", |state| state.reports.len() >= 20 && state.units.len() < 40).await;
        let summary = worker.stop().await;
        let state = fake.state();
        let leased = 60 - state.units.len();
        assert_eq!(state.reports.len(), leased, "each leased unit is reported once");
        let back = state.reports.iter().filter(|report| matches!(report.outcome, Some(Outcome::Failure(_)))).count();
        assert!(back > 0 && summary.results + back as u64 == leased as u64, "{back} handed back, {summary:?}");
        drop(sample);
    }
}

#[tokio::test]
async fn a_worker_without_a_coordinator_waits_or_gives_up() {
    let config =
        WorkerConfig { connect_timeout: Some(Duration::from_millis(300)), ..WorkerConfig::new("127.0.0.1:9", MODELS) };
    let error = run(config, std::future::pending()).await.unwrap_err();
    assert!(!error.is_usage());
    let text = error.to_string();
    assert!(
        text.contains("http://127.0.0.1:9") && text.contains("ropewalk serve") && text.contains("refused"),
        "{text}"
    );

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let (fake, _) = fake(100, 1);
    let worker = tokio::spawn(run(WorkerConfig::new(&address, MODELS), std::future::pending()));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let _served = fake.serve(&address).await;
    fake.until("a report", |state| state.reports.len() == 1).await;
    worker.abort();
}

#[tokio::test]
async fn a_coordinator_that_refuses_ends_the_worker() {
    let (fake, _) = fake(100, 1);
    fake.state().failures.push_back(Code::Unimplemented);
    let served = fake.serve("127.0.0.1:0").await;
    let error = start(&served, |_| {}).worker.await.unwrap().unwrap_err();
    assert!(matches!(error, WorkerError::Refused { .. }) && !error.is_usage(), "{error}");
}

#[tokio::test]
async fn wrong_settings_are_usage_errors() {
    let good = WorkerConfig::new("127.0.0.1:1", MODELS);
    let wrong = [
        (WorkerConfig { coordinator: "ftp://x:1".into(), ..good.clone() }, "ftp:// is not supported"),
        (WorkerConfig { model_root: "/no/such/folder".into(), ..good.clone() }, "/no/such/folder is not a folder"),
        (WorkerConfig { dtype: Dtype::F16, ..good.clone() }, "f32"),
    ];
    for (config, fragment) in wrong {
        let error = run(config, std::future::pending()).await.unwrap_err();
        assert!(error.is_usage() && error.to_string().contains(fragment), "{error}");
    }
}
