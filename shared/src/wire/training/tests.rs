use super::*;
use crate::job::ModelIdentity;
use crate::rope::Rescale;
use crate::training::TrainSpec;

fn job() -> TrainingJob {
    TrainingJob {
        name: "plan-tune".into(),
        model: ModelIdentity { name: "base".into(), fingerprint: Fingerprint::from([1; 32]), config_json: "{}".into() },
        settings: TrainSpec::new(
            10,
            64,
            Rescale { factors: vec![1.0, 1.5], start_tokens: 3, attention_factor: 1.1, pair_attention: Vec::new() },
        ),
        sequences: SequencesId([2; 32]),
        place: TrainingPlace { folder: "plan".into(), stage: "tune".into(), output: "base-tune".into() },
        repetition: 1,
    }
}

fn step(step: u32) -> StepRecord {
    StepRecord { step, loss: 2.5, long: None, short: Some(2.5), gradient_norm: 0.1, learning_rate: 1e-4, tokens: 63 }
}

fn report() -> TrainingReport {
    let id = job().id();
    TrainingReport {
        worker: "w".into(),
        lease: LeaseId(7),
        job: id,
        steps: vec![step(4), step(5)],
        checkpoint: 4,
        end: None,
    }
}

#[test]
fn messages_give_back_what_was_said() {
    let unit = TrainingUnit { lease: LeaseId(7), id: job().id(), job: job(), attempt: 2 };
    let lease = TrainingLease { unit: Some(unit), lease: Duration::from_secs(60), report: Duration::from_secs(5) };
    assert_eq!(TrainingLease::try_from(pb::LeaseTrainingResponse::from(&lease)), Ok(lease));
    let request = TrainingRequest {
        worker: "w".into(),
        device: "cpu".into(),
        version: "1".into(),
        wait: Duration::from_secs(3),
        declined: vec![job().id()],
    };
    assert_eq!(TrainingRequest::try_from(pb::LeaseTrainingRequest::from(&request)), Ok(request));
    let failure = |kind| TrainingEnd::Failed(TrainingFailure { kind, reason: "why".into() });
    let ends = [
        None,
        Some(TrainingEnd::Trained(Fingerprint::from([9; 32]))),
        Some(failure(TrainingFailureKind::NotHere)),
        Some(failure(TrainingFailureKind::TooLarge)),
        Some(failure(TrainingFailureKind::Busy)),
        Some(failure(TrainingFailureKind::HandedBack)),
        Some(failure(TrainingFailureKind::Diverged)),
        Some(failure(TrainingFailureKind::Invalid)),
        Some(failure(TrainingFailureKind::Training)),
    ];
    for end in ends {
        let report = TrainingReport { end, ..report() };
        assert_eq!(TrainingReport::try_from(pb::ReportTrainingRequest::from(&report)), Ok(report));
    }
}

#[test]
fn reports_that_make_no_sense_are_refused_by_field() {
    let refused = |change: &dyn Fn(&mut pb::ReportTrainingRequest)| {
        let mut message = pb::ReportTrainingRequest::from(&report());
        change(&mut message);
        TrainingReport::try_from(message).unwrap_err().field
    };
    assert_eq!(refused(&|message| message.steps[1].step = 7), "steps");
    assert_eq!(refused(&|message| message.steps[0].step = u32::MAX), "steps");
    assert_eq!(refused(&|message| message.steps[0].step = 0), "step");
    assert_eq!(refused(&|message| message.steps[1].loss = f64::NAN), "loss");
    assert_eq!(refused(&|message| message.steps[1].short = Some(f64::INFINITY)), "short");
    assert_eq!(refused(&|message| message.steps = vec![message.steps[0]; 5000]), "steps");
    assert_eq!(refused(&|message| message.job_id = "../x".into()), "job_id");
    let unspecified = pb::TrainingFailure { kind: 0, reason: String::new() };
    assert_eq!(refused(&|message| message.end = Some(End::Failure(unspecified.clone()))), "failure.kind");
    let short = pb::TrainingResult { fingerprint: vec![1; 31] };
    assert_eq!(refused(&|message| message.end = Some(End::Result(short.clone()))), "result.fingerprint");
}

#[test]
fn a_launch_bounds_its_settings() {
    let mut message = pb::TrainingJob::from(&job());
    assert_eq!(TrainingJob::try_from(message.clone()), Ok(job()));
    message.settings_json = " ".repeat(2 << 20);
    assert_eq!(TrainingJob::try_from(message.clone()).unwrap_err().field, "settings_json");
    message.settings_json = "[]".into();
    assert_eq!(TrainingJob::try_from(message).unwrap_err().field, "settings_json");
}
