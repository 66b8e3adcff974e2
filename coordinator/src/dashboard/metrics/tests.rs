use super::*;
use crate::dashboard::look::Disk;
use crate::dashboard::samples::{overview, search, worker};
use crate::engine::{JobOverview, Tally};
use ropewalk_shared::status::{JobState, JobStatus};
use ropewalk_shared::training::TrainingProgress;

fn scraped(jobs: Vec<JobOverview>, tally: Tally) -> String {
    let mut overview = overview(jobs, vec![worker("cuda:0", 900.5)]);
    overview.tally = tally;
    text(Arc::new(Look { overview, disk: Disk { used: Some(1 << 20), free: None } })).unwrap()
}

fn has(text: &str, line: &str) {
    assert!(text.lines().any(|other| other == line), "{line:?} is missing:\n{text}");
}

#[test]
fn numbers_are_told_under_their_names() {
    let mut tally = Tally { leased: 12, expired: 1, tokens: 4000, last_result_ms: Some(1500), ..Tally::default() };
    tally.results.insert(Verdict::Accepted, 9);
    tally.results.insert(Verdict::Conflict, 2);
    tally.failures.insert(FailureKind::TooLarge, 3);
    let jobs = vec![search("a-0123456789", JobState::Running), search("b-0123456789", JobState::Done)];
    let text = scraped(jobs, tally);
    for line in [
        "# TYPE ropewalk_jobs gauge",
        "ropewalk_jobs{kind=\"search\",state=\"running\"} 1",
        "ropewalk_jobs{kind=\"search\",state=\"done\"} 1",
        "ropewalk_jobs{kind=\"plan\",state=\"failed\"} 0",
        "ropewalk_job_generation{job_id=\"a-0123456789\"} 2",
        "ropewalk_job_evaluations{job_id=\"a-0123456789\"} 61",
        "ropewalk_job_evaluations_planned{job_id=\"a-0123456789\"} 123",
        "ropewalk_job_document_passes{job_id=\"a-0123456789\"} 300",
        "ropewalk_job_units_waiting{job_id=\"a-0123456789\"} 15",
        "ropewalk_job_units_leased{job_id=\"a-0123456789\"} 2",
        "ropewalk_job_best_perplexity{job_id=\"a-0123456789\"} 16.0625",
        "ropewalk_job_is_waiting{job_id=\"a-0123456789\"} 0",
        "ropewalk_units_waiting 15",
        "ropewalk_workers_connected 1",
        "ropewalk_workers{device=\"cuda:0\"} 1",
        "ropewalk_workers_tokens_per_second{device=\"cuda:0\"} 900.5",
        "# TYPE ropewalk_results_total counter",
        "ropewalk_results_total{verdict=\"accepted\"} 9",
        "ropewalk_results_total{verdict=\"conflict\"} 2",
        "ropewalk_results_total{verdict=\"duplicate\"} 0",
        "ropewalk_failures_total{kind=\"too_large\"} 3",
        "ropewalk_units_leased_total 12",
        "ropewalk_leases_expired_total 1",
        "ropewalk_evaluated_tokens_total 4000",
        "ropewalk_last_result_timestamp_seconds 1.5",
        "ropewalk_start_time_seconds 1767225000.0",
        "ropewalk_store_size_bytes 1048576",
        "# TYPE ropewalk_store_free_bytes gauge",
    ] {
        has(&text, line);
    }
    assert!(!text.contains("b-0123456789"), "a job that is over has no series:\n{text}");
    assert!(!text.contains("\nropewalk_store_free_bytes "), "what is not known is not told:\n{text}");
}

#[test]
fn only_so_many_jobs_have_series() {
    let jobs = (0..130).map(|number| search(&format!("j{number}-0123456789"), JobState::Running)).collect();
    let text = scraped(jobs, Tally::default());
    assert_eq!(text.lines().filter(|line| line.starts_with("ropewalk_job_generation{")).count(), 100);
    has(&text, "ropewalk_jobs_left_out 30");
    has(&text, "ropewalk_jobs{kind=\"search\",state=\"running\"} 130");
}

#[test]
fn a_training_is_told_by_its_steps() {
    let mut job = search("t-0123456789", JobState::Running);
    let training = TrainingProgress { steps_done: 3, steps: 30, loss: Some(2.5), checkpoint: 0, worker: None };
    job.status = JobStatus { training: Some(training), best_perplexity: None, ..job.status };
    let text = scraped(vec![job], Tally::default());
    has(&text, "ropewalk_jobs{kind=\"training\",state=\"running\"} 1");
    has(&text, "ropewalk_job_training_loss_nats{job_id=\"t-0123456789\"} 2.5");
    assert!(!text.contains("ropewalk_job_generation{"), "{text}");
}
