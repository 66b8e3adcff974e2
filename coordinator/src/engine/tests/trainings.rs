//! Trainings: leased to one worker at a time, and nothing that was told is lost.

use super::rig::{Rig, job as search_job};
use crate::engine::EngineError;
use ropewalk_shared::event::JobEvent;
use ropewalk_shared::fingerprint::Fingerprint;
use ropewalk_shared::rope::Rescale;
use ropewalk_shared::status::{JobState, JobStatus};
use ropewalk_shared::training::{
    SequencesId, StepRecord, TrainSpec, TrainingEnd, TrainingFailure, TrainingFailureKind, TrainingJob, TrainingPlace,
    TrainingReport, TrainingRequest, TrainingUnit,
};
use std::time::Duration;

const STEPS: u32 = 30;

fn training() -> TrainingJob {
    TrainingJob {
        name: "plan-tune".into(),
        model: search_job(1).model,
        settings: TrainSpec::new(STEPS, 64, Rescale::identity(4)),
        sequences: SequencesId([2; 32]),
        place: TrainingPlace { folder: "plan".into(), stage: "tune".into(), output: "model-tune".into() },
        repetition: 0,
    }
}

/// A training that was launched.
fn launched() -> Rig {
    let mut rig = Rig::new();
    assert!(rig.core.launch_training(training(), rig.now()).unwrap().created);
    rig.commit();
    rig
}

fn request(worker: &str, declined: bool) -> TrainingRequest {
    TrainingRequest {
        worker: worker.into(),
        device: "cpu".into(),
        version: "0".into(),
        wait: Duration::ZERO,
        declined: declined.then(|| training().id()).into_iter().collect(),
    }
}

fn lease(rig: &mut Rig, worker: &str) -> Option<TrainingUnit> {
    let leased = rig.core.lease_training(&request(worker, false), rig.now()).unwrap().unit;
    rig.commit();
    leased
}

fn steps(steps: std::ops::RangeInclusive<u32>) -> Vec<StepRecord> {
    let step = |step: u32| StepRecord {
        step,
        loss: 3.0 - 0.1 * f64::from(step),
        long: None,
        short: None,
        gradient_norm: 1.0,
        learning_rate: 1e-4,
        tokens: 63,
    };
    steps.map(step).collect()
}

fn report(
    rig: &mut Rig,
    (unit, worker): (&TrainingUnit, &str),
    steps: Vec<StepRecord>,
    checkpoint: u32,
    end: Option<TrainingEnd>,
) -> bool {
    let (lease, job) = (unit.lease, unit.id.clone());
    let report = TrainingReport { worker: worker.into(), lease, job, steps, checkpoint, end };
    let wanted = rig.core.report_training(&report, rig.now()).unwrap();
    rig.commit();
    wanted
}

fn failure(kind: TrainingFailureKind) -> Option<TrainingEnd> {
    Some(TrainingEnd::Failed(TrainingFailure { kind, reason: "on purpose".into() }))
}

fn status(rig: &Rig) -> JobStatus {
    rig.core.status(training().id().as_str(), rig.now()).unwrap().0
}

fn done(rig: &Rig) -> u32 {
    status(rig).training.unwrap().steps_done
}

fn kinds(rig: &Rig) -> Vec<String> {
    let (_, last) = rig.core.status(training().id().as_str(), rig.now()).unwrap();
    let events = rig.core.store().events(&training().id(), 1, last, 10_000).unwrap();
    assert!(events.iter().zip(1..).all(|(event, number)| event.sequence == number), "gaps in {events:?}");
    let kind = |event: JobEvent| serde_json::to_value(event).unwrap()["kind"].as_str().unwrap().to_owned();
    events.into_iter().map(|event| kind(event.what)).filter(|kind| kind != "training-step").collect()
}

#[test]
fn a_training_goes_from_launch_to_its_model() {
    let mut rig = launched();
    assert!(status(&rig).reason.unwrap().contains("--train-root and the model model"));
    let unit = lease(&mut rig, "one").unwrap();
    assert_eq!((unit.job.clone(), unit.attempt), (training(), 1));
    assert_eq!(lease(&mut rig, "two"), None, "one worker trains");
    assert!(report(&mut rig, (&unit, "one"), steps(1..=10), 10, None));
    let now = status(&rig).training.unwrap();
    assert_eq!((now.steps_done, now.checkpoint, now.worker.as_deref()), (10, 10, Some("one")));
    assert_eq!(now.loss, Some(2.0));
    // What was told before is passed over, and what would leave a gap.
    assert!(report(&mut rig, (&unit, "one"), steps(9..=12), 10, None));
    assert!(report(&mut rig, (&unit, "one"), steps(14..=15), 10, None));
    assert_eq!(done(&rig), 12);
    let trained = Some(TrainingEnd::Trained(Fingerprint::from([7; 32])));
    assert!(!report(&mut rig, (&unit, "one"), steps(13..=STEPS), STEPS, trained));
    rig.kill();
    assert_eq!((status(&rig).state, done(&rig)), (JobState::Done, STEPS));
    let expected =
        ["training-launched", "training-leased", "training-checkpoint", "training-checkpoint", "trained", "done"];
    assert_eq!(kinds(&rig), expected);
    assert!(matches!(rig.core.result(training().id().as_str(), rig.now()), Err(EngineError::NoFactors(_))));
    assert!(!rig.core.launch_training(training(), rig.now()).unwrap().created, "what is done stays done");
    assert_eq!(lease(&mut rig, "two"), None);
}

#[test]
fn who_trains_when_the_coordinator_dies_goes_on_under_its_lease() {
    let mut rig = launched();
    let unit = lease(&mut rig, "one").unwrap();
    assert!(report(&mut rig, (&unit, "one"), steps(1..=5), 5, None));
    rig.kill();
    assert_eq!(done(&rig), 5, "what was acknowledged is there");
    assert_eq!(lease(&mut rig, "two"), None, "it may come back");
    rig.pass(Duration::from_secs(9));
    assert!(report(&mut rig, (&unit, "one"), steps(6..=7), 5, None));
    rig.pass(Duration::from_secs(9));
    assert_eq!(lease(&mut rig, "two"), None);
    assert_eq!(done(&rig), 7);
}

#[test]
fn a_silent_worker_is_followed_by_another_and_no_longer_wanted() {
    let mut rig = launched();
    let first = lease(&mut rig, "one").unwrap();
    report(&mut rig, (&first, "one"), steps(1..=8), 5, None);
    rig.pass(Duration::from_secs(11));
    let waits = status(&rig);
    assert_eq!(waits.training.unwrap().worker, None);
    assert!(waits.reason.unwrap().contains("one was not heard from any more"));
    // It comes back before anybody else has come.
    assert!(report(&mut rig, (&first, "one"), steps(9..=9), 5, None));
    rig.pass(Duration::from_secs(11));
    let second = lease(&mut rig, "two").unwrap();
    assert_eq!(second.attempt, 2);
    assert!(!report(&mut rig, (&first, "one"), steps(10..=10), 10, None));
    assert_eq!(done(&rig), 9, "what comes from whom nobody waits for does not count");
    // The second went on from the checkpoint after step 5 and tells all that came before.
    assert!(report(&mut rig, (&second, "two"), steps(1..=11), 10, None));
    assert_eq!(done(&rig), 11);
    let returned = kinds(&rig).iter().filter(|kind| *kind == "training-returned").count();
    assert_eq!(returned, 2);
}

#[test]
fn failures_of_the_worker_pass_it_on_and_failures_of_the_training_end_it() {
    let mut rig = launched();
    let unit = lease(&mut rig, "one").unwrap();
    assert!(!report(&mut rig, (&unit, "one"), vec![], 0, failure(TrainingFailureKind::NotHere)));
    assert!(status(&rig).reason.unwrap().ends_with("one said: on purpose"));
    let declined = rig.core.lease_training(&request("one", true), rig.now()).unwrap();
    assert_eq!(declined.unit, None);
    for attempt in 2..=7 {
        // With another step in between, no number of failures ends it.
        let unit = lease(&mut rig, "two").unwrap();
        assert_eq!(unit.attempt, attempt);
        report(&mut rig, (&unit, "two"), steps(1..=attempt), 0, failure(TrainingFailureKind::Training));
        assert_eq!(lease(&mut rig, "two"), None, "not at once");
        rig.pass(Duration::from_secs(6));
    }
    // A disk that is full for eight minutes ends nothing, one that stays full does.
    for pause in [15, 45, 135, 405] {
        let unit = lease(&mut rig, "two").unwrap();
        report(&mut rig, (&unit, "two"), vec![], 0, failure(TrainingFailureKind::Training));
        rig.pass(Duration::from_secs(pause - 1));
        assert_eq!(lease(&mut rig, "two"), None, "not before {pause} s");
        assert!(status(&rig).reason.unwrap().ends_with("it waits to be tried again: two said: on purpose"));
        rig.pass(Duration::from_secs(1));
    }
    assert_eq!(status(&rig).state, JobState::Running);
    let unit = lease(&mut rig, "two").unwrap();
    report(&mut rig, (&unit, "two"), vec![], 0, failure(TrainingFailureKind::Training));
    assert_eq!(status(&rig).state, JobState::Failed);
    let reason = status(&rig).reason.unwrap();
    assert_eq!(reason, "6 attempts failed without another step, the last: on purpose");

    // Launched again it goes on, and a divergence ends it at once.
    assert!(!rig.core.launch_training(training(), rig.now()).unwrap().created);
    rig.commit();
    assert_eq!((status(&rig).state, done(&rig)), (JobState::Running, 7));
    let unit = lease(&mut rig, "two").unwrap();
    report(&mut rig, (&unit, "two"), vec![], 0, failure(TrainingFailureKind::Diverged));
    assert_eq!(status(&rig).state, JobState::Failed);
}

#[test]
fn a_training_that_silences_its_workers_ends() {
    let mut rig = launched();
    for _ in 0..20 {
        assert_eq!(status(&rig).state, JobState::Running);
        lease(&mut rig, "one").unwrap();
        rig.pass(Duration::from_secs(11));
    }
    assert_eq!(status(&rig).state, JobState::Failed);
    rig.kill();
    assert!(status(&rig).reason.unwrap().contains("20 workers fell silent"));
}

#[test]
fn pause_resume_and_cancel_reach_the_worker_with_its_next_report() {
    let mut rig = launched();
    let id = training().id();
    let unit = lease(&mut rig, "one").unwrap();
    rig.core.set_paused(id.as_str(), true, rig.now()).unwrap();
    assert!(!report(&mut rig, (&unit, "one"), steps(1..=2), 2, None));
    assert_eq!((status(&rig).state, done(&rig)), (JobState::Paused, 2));
    assert_eq!(lease(&mut rig, "one"), None);
    rig.kill();
    assert_eq!(lease(&mut rig, "one"), None, "pauses survive");
    rig.core.set_paused(id.as_str(), false, rig.now()).unwrap();
    let unit = lease(&mut rig, "one").unwrap();
    rig.core.cancel(id.as_str(), rig.now()).unwrap();
    rig.commit();
    assert!(!report(&mut rig, (&unit, "one"), steps(1..=3), 2, None));
    assert_eq!((status(&rig).state, done(&rig)), (JobState::Cancelled, 2));
    assert!(!rig.core.launch_training(training(), rig.now()).unwrap().created);
    rig.commit();
    assert!(lease(&mut rig, "one").is_some());
}

/// Who trains hears of a cancellation later; until then a second one would write into the same folder.
#[test]
fn a_training_launched_again_right_after_its_end_waits_for_who_held_it() {
    let id = training().id();
    let again = |rig: &mut Rig| {
        assert!(!rig.core.launch_training(training(), rig.now()).unwrap().created);
        rig.commit();
    };
    let cancelled = || {
        let mut rig = launched();
        let unit = lease(&mut rig, "one").unwrap();
        rig.pass(Duration::from_secs(5));
        assert_eq!(rig.core.cancel(id.as_str(), rig.now()).unwrap().leased, 0);
        rig.commit();
        (rig, unit)
    };
    // It goes on as if nothing had happened.
    let (mut rig, unit) = cancelled();
    again(&mut rig);
    assert_eq!(lease(&mut rig, "two"), None);
    assert!(report(&mut rig, (&unit, "one"), steps(1..=2), 2, None));
    assert_eq!(lease(&mut rig, "two"), None);
    // It is never heard from again.
    let (mut rig, unit) = cancelled();
    rig.pass(Duration::from_secs(4));
    again(&mut rig);
    rig.pass(Duration::from_secs(5));
    assert_eq!(lease(&mut rig, "two"), None);
    rig.pass(Duration::from_secs(2));
    assert!(lease(&mut rig, "two").is_some());
    assert!(!report(&mut rig, (&unit, "one"), steps(1..=2), 2, None));
    // Its lease has run out before somebody launches it again, or it has heard of the end.
    let (mut rig, _) = cancelled();
    rig.pass(Duration::from_secs(11));
    again(&mut rig);
    assert!(lease(&mut rig, "two").is_some());
    let (mut rig, unit) = cancelled();
    assert!(!report(&mut rig, (&unit, "one"), steps(1..=2), 2, None));
    rig.kill();
    again(&mut rig);
    assert!(lease(&mut rig, "two").is_some());
}

/// It asks for nothing meanwhile, and a search that waits for it may wait for days.
#[test]
fn a_search_whose_only_worker_trains_says_so() {
    let mut rig = launched();
    let spec = search_job(1);
    rig.launch(&spec);
    let (able, small) = (rig.register(64), rig.register(63));
    let reason = |rig: &mut Rig| {
        for worker in [&able, &small] {
            rig.core.heartbeat(worker, &[], rig.now()).unwrap();
        }
        rig.pass(Duration::from_millis(200));
        rig.status(&spec).reason
    };
    assert_eq!(reason(&mut rig), None);
    // The name that both workers of the rig have.
    let unit = lease(&mut rig, "fake").unwrap();
    let waiting = reason(&mut rig).unwrap();
    assert!(waiting.contains("its only worker is training") && waiting.contains(unit.id.as_str()), "{waiting}");
    let listed = rig.core.workers(rig.now());
    assert_eq!(listed.iter().map(|worker| worker.training.clone()).collect::<Vec<_>>(), [Some(unit.id.clone()), None]);
    // One that evaluates is not the one that trains.
    let able_too = rig.register(64);
    assert_eq!(reason(&mut rig), None);
    assert_eq!(rig.lease(&able_too, 1).len(), 1);
    report(&mut rig, (&unit, "fake"), vec![], 0, failure(TrainingFailureKind::HandedBack));
    rig.pass(Duration::from_secs(5));
    assert!(rig.core.workers(rig.now()).iter().all(|worker| worker.training.is_none()));
}

/// All of it may be carried out in one round.
#[test]
fn a_training_launched_right_after_its_cancellation_goes_on() {
    let mut rig = Rig::new();
    let id = training().id();
    for again in [false, true] {
        assert_ne!(rig.core.launch_training(training(), rig.now()).unwrap().created, again);
        rig.core.cancel(id.as_str(), rig.now()).unwrap();
        assert!(!rig.core.launch_training(training(), rig.now()).unwrap().created);
    }
    rig.commit();
    rig.kill();
    assert_eq!(status(&rig).state, JobState::Running);
    assert!(lease(&mut rig, "one").is_some());
}

#[test]
fn a_launch_names_everything_that_is_wrong() {
    let mut rig = Rig::new();
    let mut bad = training();
    (bad.place.folder, bad.settings.learning_rate) = ("../elsewhere".into(), -1.0);
    let Err(EngineError::InvalidTraining(invalid)) = rig.core.launch_training(bad, rig.now()) else { panic!() };
    let fields: Vec<_> = invalid.problems.iter().map(|problem| problem.field).collect();
    assert_eq!(fields, ["folder", "learning_rate"]);
}
