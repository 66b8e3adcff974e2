//! Plans: carried out by one process at a time, and nothing that was told is lost.

use super::rig::{Rig, evaluated, job as search_job};
use crate::engine::{AttemptEnd, EngineError, PlanReport, PlanToRun};
use ropewalk_shared::event::JobEvent;
use ropewalk_shared::job::{JobId, JobSpec};
use ropewalk_shared::plan::{OrderId, PlanJob, PlanProgress, StageAtWork};
use ropewalk_shared::status::{JobState, JobStatus};
use std::time::Duration;

fn plan() -> PlanJob {
    PlanJob {
        name: "mine".into(),
        model: "model".into(),
        folder: "plan".into(),
        order: OrderId([1; 32]),
        original_length: 16,
        target_length: 64,
        stages: 2,
    }
}

/// A plan that was launched.
fn launched() -> Rig {
    let mut rig = Rig::new();
    assert!(launch(&mut rig));
    rig
}

fn launch(rig: &mut Rig) -> bool {
    let launched = rig.core.launch_plan(plan(), rig.now()).unwrap();
    rig.commit();
    launched.created
}

fn wanted(rig: &Rig) -> Option<PlanToRun> {
    rig.core.plans_to_run(rig.now()).into_iter().next()
}

/// Begins an attempt.
fn carry(rig: &mut Rig) -> Option<u32> {
    let id = wanted(rig)?.id;
    let attempt = rig.core.carry_plan(&id, rig.now()).unwrap();
    rig.commit();
    attempt
}

fn report(rig: &mut Rig, attempt: u32, report: PlanReport) {
    rig.core.report_plan(&plan().id(), attempt, report, rig.now()).unwrap();
    rig.commit();
}

fn begun(name: &str) -> PlanReport {
    PlanReport::Begun(StageAtWork { name: name.into(), kind: "search".into() })
}

fn waits_for(spec: &JobSpec) -> PlanReport {
    PlanReport::Job { stage: "first".into(), job: spec.id() }
}

fn done(name: &str) -> PlanReport {
    PlanReport::Done { stage: name.into(), summary: "well".into() }
}

fn ended(end: AttemptEnd) -> PlanReport {
    PlanReport::Ended(end)
}

fn failed() -> PlanReport {
    ended(AttemptEnd::Failed("on purpose".into()))
}

fn status_of(rig: &Rig, id: &JobId) -> JobStatus {
    rig.core.status(id.as_str(), rig.now()).unwrap().0
}

fn status(rig: &Rig) -> JobStatus {
    status_of(rig, &plan().id())
}

fn progress(rig: &Rig) -> PlanProgress {
    status(rig).plan.unwrap()
}

fn set_paused(rig: &mut Rig, paused: bool) {
    rig.core.set_paused(plan().id().as_str(), paused, rig.now()).unwrap();
    rig.commit();
}

fn cancel(rig: &mut Rig) {
    rig.core.cancel(plan().id().as_str(), rig.now()).unwrap();
    rig.commit();
}

fn kinds(rig: &Rig) -> Vec<String> {
    let (_, last) = rig.core.status(plan().id().as_str(), rig.now()).unwrap();
    let events = rig.core.store().events(&plan().id(), 1, last, 10_000).unwrap();
    assert!(events.iter().zip(1..).all(|(event, number)| event.sequence == number), "gaps in {events:?}");
    let kind = |event: JobEvent| serde_json::to_value(event).unwrap()["kind"].as_str().unwrap().to_owned();
    events.into_iter().map(|event| kind(event.what)).collect()
}

/// A plan whose first stage waits for a search that is under way.
fn waiting_for_a_search() -> (Rig, JobSpec, u32) {
    let (mut rig, spec) = (launched(), search_job(1));
    let attempt = carry(&mut rig).unwrap();
    report(&mut rig, attempt, begun("first"));
    report(&mut rig, attempt, waits_for(&spec));
    rig.launch(&spec);
    (rig, spec, attempt)
}

#[test]
fn a_plan_goes_from_launch_to_its_end() {
    let mut rig = launched();
    assert!(status(&rig).reason.unwrap().contains("--plan-root"));
    let attempt = carry(&mut rig).unwrap();
    assert_eq!(carry(&mut rig), None, "one process carries it out");
    assert_eq!(wanted(&rig).unwrap().carried, Some(attempt));
    assert_eq!(status(&rig).reason, None);
    report(&mut rig, attempt, PlanReport::Waiting("the folder is in use".into()));
    assert_eq!(status(&rig).reason.as_deref(), Some("the folder is in use"));
    report(&mut rig, attempt, begun("first"));
    assert_eq!((status(&rig).reason, progress(&rig).stage.unwrap().name), (None, "first".to_owned()));
    let spec = search_job(1);
    report(&mut rig, attempt, waits_for(&spec));
    assert_eq!(progress(&rig).job, Some(spec.id()));
    report(&mut rig, attempt, done("first"));
    report(&mut rig, attempt, begun("second"));
    report(&mut rig, attempt, done("second"));
    assert_eq!(progress(&rig), PlanProgress { stages_done: 2, stages: 2, stage: None, job: None });
    report(&mut rig, attempt, ended(AttemptEnd::Complete));
    rig.kill();
    assert_eq!((status(&rig).state, progress(&rig).stages_done), (JobState::Done, 2));
    let expected = ["plan-launched", "stage-begun", "stage-job", "stage-done", "stage-begun", "stage-done", "done"];
    assert_eq!(kinds(&rig), expected);
    assert!(matches!(rig.core.result(plan().id().as_str(), rig.now()), Err(EngineError::FactorsInFolder(_))));
    assert_eq!(wanted(&rig), None);
}

#[test]
fn a_coordinator_killed_at_every_step_tells_the_same_and_goes_on() {
    let steps = [begun("first"), waits_for(&search_job(1)), done("first"), begun("second"), done("second")];
    let mut rig = launched();
    for (number, step) in steps.iter().enumerate() {
        rig.kill();
        let attempt = carry(&mut rig).expect("it goes on by itself");
        // The process that follows says again what was done and begun before.
        steps[..=number].iter().for_each(|step| {
            if matches!(step, PlanReport::Done { .. }) {
                report(&mut rig, attempt, step.clone());
            }
        });
        report(&mut rig, attempt, step.clone());
        let before = progress(&rig);
        rig.kill();
        assert_eq!(progress(&rig), before);
        assert_eq!(status(&rig).state, JobState::Running);
    }
    let attempt = carry(&mut rig).unwrap();
    report(&mut rig, attempt, ended(AttemptEnd::Complete));
    let expected = ["plan-launched", "stage-begun", "stage-job", "stage-done", "stage-begun", "stage-done", "done"];
    assert_eq!(kinds(&rig), expected);
}

#[test]
fn launched_again_it_is_named_while_it_runs_and_goes_through_its_stages_once_it_is_over() {
    let mut rig = launched();
    let attempt = carry(&mut rig).unwrap();
    report(&mut rig, attempt, done("first"));
    assert!(!launch(&mut rig));
    assert_eq!((wanted(&rig).unwrap().carried, progress(&rig).stages_done), (Some(attempt), 1));
    report(&mut rig, attempt, ended(AttemptEnd::Complete));
    assert!(!launch(&mut rig));
    assert_eq!((status(&rig).state, progress(&rig).stages_done), (JobState::Running, 0));
    let again = carry(&mut rig).unwrap();
    assert_ne!(again, attempt);
    // What comes late from the attempt before counts no more.
    report(&mut rig, attempt, failed());
    assert_eq!(wanted(&rig).unwrap().carried, Some(again));
    report(&mut rig, again, done("first"));
    assert_eq!(kinds(&rig), ["plan-launched", "stage-done", "done", "restarted", "stage-done"]);
}

/// Both may be carried out in one round.
#[test]
fn a_plan_launched_right_after_its_cancellation_goes_on() {
    let mut rig = launched();
    rig.core.cancel(plan().id().as_str(), rig.now()).unwrap();
    assert!(!launch(&mut rig));
    rig.kill();
    assert_eq!(status(&rig).state, JobState::Running);
    assert!(wanted(&rig).is_some());
}

#[test]
fn what_is_wrong_with_its_input_ends_a_plan_and_other_failures_are_tried_again() {
    let mut rig = launched();
    let attempt = carry(&mut rig).unwrap();
    report(&mut rig, attempt, ended(AttemptEnd::Invalid("stage first: no such file".into())));
    assert_eq!(
        (status(&rig).state, status(&rig).reason.unwrap()),
        (JobState::Failed, "stage first: no such file".into())
    );

    assert!(!launch(&mut rig));
    for pause in [5, 15, 45] {
        let attempt = carry(&mut rig).unwrap();
        report(&mut rig, attempt, failed());
        assert!(status(&rig).reason.unwrap().ends_with("waits to be tried again: on purpose"));
        rig.pass(Duration::from_secs(pause - 1));
        assert_eq!(wanted(&rig), None, "not before {pause} s");
        rig.pass(Duration::from_secs(1));
    }
    // A stage that is done between them counts them anew; one that was done before does not.
    let attempt = carry(&mut rig).unwrap();
    report(&mut rig, attempt, done("first"));
    for tried in 1..=6 {
        assert_eq!(status(&rig).state, JobState::Running, "{tried}");
        rig.pass(Duration::from_secs(1000));
        let attempt = carry(&mut rig).unwrap_or(attempt);
        report(&mut rig, attempt, done("first"));
        report(&mut rig, attempt, failed());
    }
    assert_eq!(status(&rig).state, JobState::Failed);
    assert!(
        status(&rig).reason.unwrap().contains("6 attempts failed without another stage done, the last: on purpose")
    );
    rig.kill();
    assert_eq!(wanted(&rig), None);
}

#[test]
fn pausing_and_resuming_hold_for_the_job_that_is_waited_for_too() {
    let (mut rig, spec, attempt) = waiting_for_a_search();
    set_paused(&mut rig, true);
    assert_eq!((status(&rig).state, status_of(&rig, &spec.id()).state), (JobState::Paused, JobState::Paused));
    assert_eq!(wanted(&rig), None);
    report(&mut rig, attempt, ended(AttemptEnd::Stopped));
    rig.kill();
    assert_eq!((wanted(&rig), status(&rig).state), (None, JobState::Paused), "pauses survive");
    set_paused(&mut rig, false);
    assert_eq!((status(&rig).state, status_of(&rig, &spec.id()).state), (JobState::Running, JobState::Running));
    let again = carry(&mut rig).unwrap();
    report(&mut rig, again, begun("first"));
    assert_eq!(kinds(&rig), ["plan-launched", "stage-begun", "stage-job", "paused", "resumed"]);
}

/// The process has launched its search when the plan is cancelled, and nobody has heard of it yet.
#[test]
fn cancelling_ends_a_job_of_which_is_told_too_late() {
    let (mut rig, spec) = (launched(), search_job(1));
    let attempt = carry(&mut rig).unwrap();
    report(&mut rig, attempt, begun("first"));
    rig.launch(&spec);
    cancel(&mut rig);
    assert_eq!((status(&rig).state, status_of(&rig, &spec.id()).state), (JobState::Cancelled, JobState::Running));
    // What an earlier attempt says counts no more.
    report(&mut rig, attempt - 1, waits_for(&spec));
    assert_eq!(status_of(&rig, &spec.id()).state, JobState::Running);
    report(&mut rig, attempt, waits_for(&spec));
    assert_eq!(status_of(&rig, &spec.id()).state, JobState::Cancelled);
    report(&mut rig, attempt, ended(AttemptEnd::Stopped));
    rig.kill();
    assert_eq!((status(&rig).state, status_of(&rig, &spec.id()).state), (JobState::Cancelled, JobState::Cancelled));
}

#[test]
fn cancelling_ends_the_job_that_is_waited_for_even_if_it_is_launched_late() {
    let (mut rig, spec, attempt) = waiting_for_a_search();
    cancel(&mut rig);
    assert_eq!((status(&rig).state, status_of(&rig, &spec.id()).state), (JobState::Cancelled, JobState::Cancelled));
    // The process had the launch under way when it was stopped.
    rig.launch(&spec);
    assert_eq!(status_of(&rig, &spec.id()).state, JobState::Running);
    report(&mut rig, attempt, ended(AttemptEnd::Stopped));
    assert_eq!(status_of(&rig, &spec.id()).state, JobState::Cancelled);
    rig.kill();
    assert_eq!((wanted(&rig), status(&rig).state), (None, JobState::Cancelled));

    // Launched again, the plan goes on, and so does its search once it is launched.
    assert!(!launch(&mut rig));
    let again = carry(&mut rig).unwrap();
    report(&mut rig, again, begun("first"));
    report(&mut rig, again, waits_for(&spec));
    rig.launch(&spec);
    rig.work_with(7, evaluated);
    report(&mut rig, again, done("first"));
    assert_eq!(status_of(&rig, &spec.id()).state, JobState::Done);
    cancel(&mut rig);
    assert_eq!(status_of(&rig, &spec.id()).state, JobState::Done, "what is over stays as it is");
}

#[test]
fn a_stage_whose_job_was_ended_fails_the_plan_at_once() {
    let (mut rig, spec, attempt) = waiting_for_a_search();
    rig.core.cancel(spec.id().as_str(), rig.now()).unwrap();
    rig.commit();
    assert_eq!(status(&rig).state, JobState::Running);
    report(&mut rig, attempt, ended(AttemptEnd::Failed("stage first: the job was cancelled".into())));
    assert_eq!(
        (status(&rig).state, status(&rig).reason.unwrap()),
        (JobState::Failed, "stage first: the job was cancelled".into())
    );
}

#[test]
fn two_plans_do_not_share_a_folder_and_a_launch_names_what_is_wrong() {
    let mut rig = launched();
    let other = PlanJob { order: OrderId([2; 32]), ..plan() };
    let refused = rig.core.launch_plan(other.clone(), rig.now()).unwrap_err();
    assert!(refused.to_string().contains(plan().id().as_str()), "{refused}");
    let elsewhere = PlanJob { folder: "elsewhere".into(), ..other.clone() };
    assert!(rig.core.launch_plan(elsewhere, rig.now()).unwrap().created);
    cancel(&mut rig);
    assert!(rig.core.launch_plan(other, rig.now()).unwrap().created);
    let bad = PlanJob { folder: "..".into(), stages: 0, ..plan() };
    let Err(EngineError::InvalidPlan(invalid)) = rig.core.launch_plan(bad, rig.now()) else { panic!() };
    assert_eq!(invalid.problems.len(), 2);
}
