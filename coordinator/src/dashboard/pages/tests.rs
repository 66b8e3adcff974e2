use super::home;
use super::job::{View, render};
use crate::dashboard::alerts::Alert;
use crate::dashboard::history::{Generation, History};
use crate::dashboard::look::{Disk, Look};
use crate::dashboard::samples::{overview, search, worker};
use crate::report::Comparison;
use ropewalk_shared::event::{Event, JobEvent};
use ropewalk_shared::outcome::FailureKind;
use ropewalk_shared::status::{JobState, JobStatus, WorkerStatus};
use ropewalk_shared::training::TrainingProgress;

const SCRIPT: &str = "<script>alert(\"1\")</script>";

fn look(jobs: Vec<crate::engine::JobOverview>, workers: Vec<WorkerStatus>) -> Look {
    Look { overview: overview(jobs, workers), disk: Disk { used: Some(3 << 20), free: Some(5 << 30) } }
}

fn generation(number: u32, best: f64) -> Generation {
    Generation {
        generation: number,
        evaluated: 12,
        failed: 1,
        dropped: 2,
        own_best: Some(best),
        median: Some(best * 1.1),
        best: Some(best),
        improved: true,
        total_evaluated: 12 * u64::from(number + 1),
        document_passes: 60 * u64::from(number + 1),
    }
}

fn view(status: JobStatus, history: History) -> View {
    View { status, now_ms: 1_767_225_600_000, facts: Some(vec![("seed", "7".into())]), history, comparison: None }
}

fn assert_no_script(page: &str) {
    assert!(!page.contains("<script"), "{page}");
    assert!(page.contains("&lt;script&gt;"), "{page}");
}

#[test]
fn the_first_page_tells_jobs_workers_and_the_disk() {
    let jobs = vec![search("old-0123456789", JobState::Done), search("new-0123456789", JobState::Running)];
    let page = home::render(&look(jobs, vec![worker("cuda:0", 1234.4)]), &[]).0;
    for text in [
        "href=\"/jobs/new-0123456789\"",
        "generation 2 of 4, 61 of 123 evaluations, 300 document passes",
        "best perplexity 16.0625",
        "<progress max=\"123\" value=\"61\"",
        "1 running, 1 done, 1 worker connected, 1,234 tokens a second",
        "Store 3.0 MiB, 5.0 GiB free",
        "256 to 2,048 tokens (8x)",
        "http-equiv=\"refresh\"",
    ] {
        assert!(page.contains(text), "{text} is missing: {page}");
    }
    let place = |text| page.find(text).unwrap();
    assert!(place("new-0123456789") < place("old-0123456789"), "what goes on comes first");
}

#[test]
fn nothing_at_all_is_a_page_that_says_how_to_begin() {
    let page = home::render(&look(Vec::new(), Vec::new()), &[]).0;
    assert!(page.contains("ropewalk launch") && page.contains("ropewalk-worker --coordinator"), "{page}");
}

#[test]
fn what_others_wrote_is_shown_as_they_wrote_it() {
    let mut job = search("a-0123456789", JobState::Running);
    (job.status.model_name, job.status.reason) = (SCRIPT.into(), Some(SCRIPT.into()));
    let named = WorkerStatus { name: SCRIPT.into(), dtype: SCRIPT.into(), ..worker(SCRIPT, 1.0) };
    let failure = FailureKind::Evaluation;
    let what = JobEvent::WorkerUnable { worker: SCRIPT.into(), failure, reason: SCRIPT.into() };
    let event = Event { sequence: 1, time_ms: 1, what };
    let alert = Alert { job: job.status.job_id.clone(), event: event.clone() };
    assert_no_script(&home::render(&look(vec![job.clone()], vec![named]), &[alert]).0);
    let history =
        History { latest: [event].into(), stages: vec![(SCRIPT.into(), SCRIPT.into())], ..History::default() };
    let mut view = view(job.status, history);
    view.facts = Some(vec![("folder", SCRIPT.into())]);
    assert_no_script(&render(&view).0);
}

#[test]
fn a_list_that_is_too_long_says_what_is_left_out() {
    let jobs = (0..150).map(|number| search(&format!("j{number}-0123456789"), JobState::Done)).collect();
    let page = home::render(&look(jobs, vec![worker("cpu", 1.0); 230]), &[]).0;
    assert!(page.contains("50 older jobs are not shown") && page.contains("30 more workers are not shown"), "{page}");
    let history = History { generations: (0..100).map(|n| generation(n, 20.0)).collect(), ..History::default() };
    let page = render(&view(search("a-0123456789", JobState::Running).status, history)).0;
    assert!(page.contains("60 earlier generations have no row"), "{page}");
}

#[test]
fn a_search_has_curves_rows_and_a_way_out() {
    let generations = vec![generation(0, 17.5), generation(1, 16.0625)];
    let history = History { generations, ..History::default() };
    let status = search("a-0123456789", JobState::Running).status;
    let page = render(&view(status.clone(), history)).0;
    assert_eq!(page.matches("<svg").count(), 2, "{page}");
    for text in ["document passes", "rotary pair (fast to slow)", "16.0625", "ropewalk export a-0123456789 --format hf"]
    {
        assert!(page.contains(text), "{text} is missing: {page}");
    }
    assert!(page.contains("http-equiv=\"refresh\""));
    let done = JobStatus { state: JobState::Done, ..status };
    assert!(!render(&view(done, History::default())).0.contains("http-equiv"), "nothing changes any more");
}

#[test]
fn a_training_has_its_losses() {
    let step = |step: u32| ropewalk_shared::training::StepRecord {
        step,
        loss: 3.0 / f64::from(step),
        long: None,
        short: None,
        gradient_norm: 1.0,
        learning_rate: 1e-4,
        tokens: 64,
    };
    let training =
        TrainingProgress { steps_done: 9, steps: 30, loss: Some(2.5), checkpoint: 5, worker: Some(SCRIPT.into()) };
    let status = search("t-0123456789", JobState::Running).status;
    let status = JobStatus { training: Some(training), best: None, best_perplexity: None, ..status };
    let page = render(&view(status, History { steps: (1..10).map(step).collect(), ..History::default() })).0;
    assert!(page.contains("step 9 of 30, loss 2.5000") && page.contains("checkpoint after step 5"), "{page}");
    assert!(page.matches("<svg").count() == 1 && page.contains("loss (nats a token)"), "{page}");
    assert_no_script(&page);
}

#[test]
fn a_search_that_is_done_is_compared() {
    let text = r#"{"rescale_factors": [1.0, 2.0], "target_length": 2048, "objective": {"kind": "perplexity", "value": 15.5,
        "samples": 5, "held_out": 16.5}, "baselines": {"yarn": {"value": 16.0, "held_out": 17.0, "attention_factor": 1.2}}}"#;
    let file = ropewalk_shared::factor_file::FactorFile::from_json(text).unwrap();
    let mut view = view(search("a-0123456789", JobState::Done).status, History::default());
    view.comparison = Comparison::of_factor_file(&file);
    let page = render(&view).0;
    assert!(page.contains("<tr class=\"best\"><td>searched</td>") && page.contains("<td>17.000</td>"), "{page}");
    assert!(page.contains("searched is 2.9 % below the best other (yarn)"), "{page}");
}
