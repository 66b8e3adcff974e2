//! Jobs and workers for tests.

use crate::engine::{JobOverview, Now, Overview};
use ropewalk_shared::rope::Rescale;
use ropewalk_shared::status::{JobState, JobStatus, WorkerStatus};
use std::time::Duration;

/// A worker that is connected.
pub fn worker(device: &str, tokens_per_second: f64) -> WorkerStatus {
    WorkerStatus {
        worker_id: "w100000-1".into(),
        name: "node".into(),
        device: device.into(),
        dtype: "f32".into(),
        max_tokens: 2048,
        version: "0.1.0".into(),
        connected: true,
        last_seen_ms: 1_767_225_599_000,
        leased: 1,
        results: 7,
        failures: 0,
        tokens_per_second,
        stopped_passes: 0.0,
        training: None,
    }
}

/// A search that is half done.
pub fn search(id: &str, state: JobState) -> JobOverview {
    let status = JobStatus {
        job_id: id.parse().unwrap(),
        name: "mine".into(),
        model_name: "lab-model".into(),
        state,
        reason: None,
        generation: 2,
        generations: 4,
        evaluations: 61,
        planned_evaluations: 123,
        passes: 300,
        stage_done: 3,
        stage_units: 20,
        leased: 2,
        objective: Default::default(),
        best_perplexity: Some(16.0625),
        best: Some(Rescale::identity(8)),
        original_length: 256,
        target_length: 2048,
        created_ms: 1_767_225_000_000,
        finished_ms: None,
        training: None,
        plan: None,
    };
    JobOverview { status, last_event: 4, units_waiting: 15 }
}

/// A coordinator ten minutes after it started.
pub fn overview(jobs: Vec<JobOverview>, workers: Vec<WorkerStatus>) -> Overview {
    let now = Now { since_start: Duration::from_secs(600), unix_ms: 1_767_225_600_000 };
    Overview { now, jobs, workers, tally: Default::default() }
}
