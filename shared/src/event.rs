//! What happens to a job, in order.
//!
//! The vocabulary is closed on the writing side and open on the reading one: a consumer that meets a kind of a later
//! version reads [`JobEvent::Unknown`] and goes on.

use crate::fingerprint::Fingerprint;
use crate::job::JobId;
use crate::outcome::FailureKind;
use crate::rope::Rescale;
use crate::sample::SampleId;
use crate::training::{StepRecord, TrainingFailureKind};
use serde::{Deserialize, Serialize};

/// Something that happened to a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Counts from 1 without gaps within a job.
    pub sequence: u64,
    /// Milliseconds since 1970.
    pub time_ms: u64,
    /// What happened.
    #[serde(flatten)]
    pub what: JobEvent,
}

/// The kinds of events. Perplexities are absent where there is no finite number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", rename_all_fields = "snake_case")]
pub enum JobEvent {
    /// The job began.
    Launched {
        /// Candidates that will be evaluated if nothing stops the search early.
        planned_evaluations: u64,
        /// Samples each of them is evaluated on.
        samples: u64,
        /// Samples kept for the report.
        held_out: u64,
    },
    /// A generation is being evaluated.
    GenerationOpened {
        /// 0 is the first population.
        generation: u32,
        /// Its size.
        candidates: u32,
    },
    /// A generation has all its scores.
    GenerationClosed {
        /// 0 is the first population.
        generation: u32,
        /// Its size.
        evaluated: u32,
        /// Candidates whose evaluation failed, or gave no number.
        failed: u32,
        /// Candidates dropped before they were evaluated on every sample.
        #[serde(default)]
        dropped: u32,
        /// Best of this generation alone.
        generation_best: Option<f64>,
        /// Median of this generation.
        median: Option<f64>,
        /// Best so far.
        best: Option<f64>,
        /// Whether the best so far is of this generation.
        improved: bool,
        /// Evaluations so far.
        total_evaluated: u64,
        /// Document passes of the search so far.
        #[serde(default)]
        document_passes: u64,
    },
    /// A candidate is better than all before it.
    NewBest {
        /// The generation that brought it.
        generation: u32,
        /// What it reached.
        perplexity: f64,
        /// The candidate.
        rescale: Rescale,
    },
    /// A candidate could not be evaluated and ranks last.
    CandidateFailed {
        /// The candidate.
        rescale: Rescale,
        /// What the workers said.
        reason: String,
    },
    /// A second result for one unit differs from the first, which stands: some worker computes wrongly.
    ResultConflict {
        /// The sample of the unit.
        sample: SampleId,
        /// Who reported the second result, where known.
        worker: Option<String>,
        /// Mean loss that stands, in nats.
        stands: Option<f64>,
        /// Mean loss that was reported later, in nats.
        reported: Option<f64>,
    },
    /// A worker fell silent or was too slow; its unit goes to another.
    LeaseExpired {
        /// The worker.
        worker: String,
        /// The sample of the unit.
        sample: SampleId,
        /// How often the unit had been leased.
        attempt: u32,
    },
    /// A worker cannot evaluate units of this job, or not this large ones.
    WorkerUnable {
        /// The worker.
        worker: String,
        /// In which way.
        failure: FailureKind,
        /// What the worker said.
        reason: String,
    },
    /// A training was launched.
    TrainingLaunched {
        /// Steps of the optimiser.
        steps: u32,
    },
    /// A worker trains, from the last checkpoint on.
    TrainingLeased {
        /// The worker.
        worker: String,
        /// How often the training had been leased, this time included.
        attempt: u32,
    },
    /// A step of a training is done.
    TrainingStep(StepRecord),
    /// A checkpoint is on disk.
    TrainingCheckpoint {
        /// The step after which it was taken.
        step: u32,
    },
    /// A worker trains no longer, though the training is not over.
    TrainingReturned {
        /// The worker.
        worker: String,
        /// In which way; absent where it was not heard from any more.
        failure: Option<TrainingFailureKind>,
        /// What is known of why.
        reason: String,
    },
    /// The trained model is in its place.
    Trained {
        /// Its fingerprint.
        fingerprint: Fingerprint,
    },
    /// A plan was launched.
    PlanLaunched {
        /// Stages it has.
        stages: u32,
    },
    /// A stage of a plan has begun, or goes on after something else was at work.
    StageBegun {
        /// Its name.
        stage: String,
        /// Its kind, as plans name it.
        stage_kind: String,
    },
    /// A stage of a plan waits for another job.
    StageJob {
        /// The stage.
        stage: String,
        /// The search or training.
        job: JobId,
    },
    /// A stage of a plan is done.
    StageDone {
        /// Its name.
        stage: String,
        /// What it made, in one line.
        summary: String,
    },
    /// The process that carried a plan out has ended, though the plan has not; another will follow.
    PlanReturned {
        /// What is known of why.
        reason: String,
    },
    /// No further unit is leased.
    Paused,
    /// Units are leased again.
    Resumed,
    /// Launched again after it was cancelled or had failed; it goes on from where it stood.
    Restarted,
    /// The search has ended; the winner and the baselines are measured.
    Reporting {
        /// What ended the search.
        because: String,
        /// Units to evaluate.
        units: u64,
    },
    /// The report is complete.
    Done {
        /// Perplexity of the winner on the samples of the search.
        perplexity: Option<f64>,
        /// The same on held-out samples.
        held_out: Option<f64>,
    },
    /// Ended by its owner.
    Cancelled,
    /// Ended by an error.
    Failed {
        /// Which, and what to do.
        reason: String,
    },
    /// A kind of a later version.
    #[serde(other)]
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_survive_their_text_and_name_their_kind() {
        let closed = JobEvent::GenerationClosed {
            generation: 3,
            evaluated: 32,
            failed: 1,
            dropped: 4,
            generation_best: Some(9.5),
            median: None,
            best: Some(9.25),
            improved: false,
            total_evaluated: 160,
            document_passes: 790,
        };
        for (what, kind) in [(closed, "generation-closed"), (JobEvent::Paused, "paused")] {
            let event = Event { sequence: 7, time_ms: 1, what };
            let text = serde_json::to_string(&event).unwrap();
            assert!(text.contains(&format!("\"kind\":\"{kind}\"")), "{text}");
            assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), event);
        }
    }

    #[test]
    fn a_later_kind_is_read_as_unknown() {
        let text = r#"{"sequence": 1, "time_ms": 2, "kind": "dreamt", "of": ["sheep"]}"#;
        assert_eq!(serde_json::from_str::<Event>(text).unwrap().what, JobEvent::Unknown);
    }
}
