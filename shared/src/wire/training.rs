//! Trainings on the wire.

use super::field::{InvalidField, at_most, digest, invalid, line, present, value};
use super::work::reason;
use super::{FieldProblem, pb};
use crate::fingerprint::Fingerprint;
use crate::job::JobId;
use crate::training::{
    MAX_DECLINED, MAX_STEPS_PER_REPORT, SequencesId, StepRecord, TrainingEnd, TrainingFailure, TrainingFailureKind,
    TrainingJob, TrainingLease, TrainingPlace, TrainingProgress, TrainingReport, TrainingRequest, TrainingUnit,
};
use crate::work::{LeaseId, MAX_WAIT};
use pb::report_training_request::End;
use pb::training_failure::Kind;
use std::time::Duration;

const MAX_LINE: usize = 200;
const MAX_SETTINGS_BYTES: u64 = 1 << 20;

// === TrainingJob ===

impl TryFrom<pb::TrainingJob> for TrainingJob {
    type Error = InvalidField;
    fn try_from(message: pb::TrainingJob) -> Result<Self, InvalidField> {
        at_most("settings_json", message.settings_json.len() as u64, MAX_SETTINGS_BYTES)?;
        Ok(Self {
            name: line("name", message.name, MAX_LINE)?,
            model: present("model", message.model)?.try_into()?,
            settings: serde_json::from_str(&message.settings_json).map_err(value("settings_json"))?,
            sequences: SequencesId(digest::<32>("sequences", &message.sequences)?),
            place: TrainingPlace {
                folder: line("folder", message.folder, MAX_LINE)?,
                stage: line("stage", message.stage, MAX_LINE)?,
                output: line("output", message.output, MAX_LINE)?,
            },
            repetition: message.repetition,
        })
    }
}

impl From<&TrainingJob> for pb::TrainingJob {
    fn from(job: &TrainingJob) -> Self {
        Self {
            name: job.name.clone(),
            model: Some((&job.model).into()),
            // Text and numbers only, for which JSON cannot fail; nothing at all would be refused.
            settings_json: serde_json::to_string(&job.settings).unwrap_or_default(),
            sequences: job.sequences.0.to_vec(),
            folder: job.place.folder.clone(),
            stage: job.place.stage.clone(),
            output: job.place.output.clone(),
            repetition: job.repetition,
        }
    }
}

// === leases ===

impl TryFrom<pb::LeaseTrainingRequest> for TrainingRequest {
    type Error = InvalidField;
    fn try_from(message: pb::LeaseTrainingRequest) -> Result<Self, InvalidField> {
        at_most("wait_ms", message.wait_ms, MAX_WAIT.as_millis() as u64)?;
        at_most("declined_jobs", message.declined_jobs.len() as u64, MAX_DECLINED as u64)?;
        let declined = message.declined_jobs.iter().map(|id| id.parse::<JobId>().map_err(value("declined_jobs")));
        Ok(Self {
            declined: declined.collect::<Result<_, _>>()?,
            worker: line("worker_name", message.worker_name, MAX_LINE)?,
            device: line("device", message.device, MAX_LINE)?,
            version: line("version", message.version, MAX_LINE)?,
            wait: Duration::from_millis(message.wait_ms),
        })
    }
}

impl From<&TrainingRequest> for pb::LeaseTrainingRequest {
    fn from(request: &TrainingRequest) -> Self {
        Self {
            worker_name: request.worker.clone(),
            device: request.device.clone(),
            version: request.version.clone(),
            wait_ms: request.wait.as_millis() as u64,
            declined_jobs: request.declined.iter().map(ToString::to_string).collect(),
        }
    }
}

impl TryFrom<pb::LeaseTrainingResponse> for TrainingLease {
    type Error = InvalidField;
    fn try_from(message: pb::LeaseTrainingResponse) -> Result<Self, InvalidField> {
        if message.lease_ms == 0 || message.report_ms == 0 {
            return Err(invalid("lease_ms", FieldProblem::Missing));
        }
        Ok(Self {
            unit: message.unit.map(TrainingUnit::try_from).transpose()?,
            lease: Duration::from_millis(message.lease_ms),
            report: Duration::from_millis(message.report_ms),
        })
    }
}

impl From<&TrainingLease> for pb::LeaseTrainingResponse {
    fn from(lease: &TrainingLease) -> Self {
        Self {
            unit: lease.unit.as_ref().map(Into::into),
            lease_ms: lease.lease.as_millis() as u64,
            report_ms: lease.report.as_millis() as u64,
        }
    }
}

impl TryFrom<pb::TrainingUnit> for TrainingUnit {
    type Error = InvalidField;
    fn try_from(message: pb::TrainingUnit) -> Result<Self, InvalidField> {
        Ok(Self {
            lease: LeaseId(message.lease_id),
            id: message.job_id.parse().map_err(value("job_id"))?,
            job: present("job", message.job)?.try_into()?,
            attempt: message.attempt,
        })
    }
}

impl From<&TrainingUnit> for pb::TrainingUnit {
    fn from(unit: &TrainingUnit) -> Self {
        Self {
            lease_id: unit.lease.0,
            job_id: unit.id.to_string(),
            job: Some((&unit.job).into()),
            attempt: unit.attempt,
        }
    }
}

// === reports ===

impl TryFrom<pb::ReportTrainingRequest> for TrainingReport {
    type Error = InvalidField;
    fn try_from(message: pb::ReportTrainingRequest) -> Result<Self, InvalidField> {
        at_most("steps", message.steps.len() as u64, MAX_STEPS_PER_REPORT as u64)?;
        let steps = message.steps.into_iter().map(StepRecord::try_from).collect::<Result<Vec<_>, _>>()?;
        if !steps.iter().zip(steps.iter().skip(1)).all(|(one, next)| Some(next.step) == one.step.checked_add(1)) {
            return Err(invalid("steps", FieldProblem::Value("must follow each other".into())));
        }
        let end = match message.end {
            None => None,
            Some(End::Result(pb::TrainingResult { fingerprint })) => {
                Some(TrainingEnd::Trained(Fingerprint::from(digest::<32>("result.fingerprint", &fingerprint)?)))
            }
            Some(End::Failure(failure)) => Some(TrainingEnd::Failed(failure.try_into()?)),
        };
        Ok(Self {
            worker: line("worker_name", message.worker_name, MAX_LINE)?,
            lease: LeaseId(message.lease_id),
            job: message.job_id.parse().map_err(value("job_id"))?,
            steps,
            checkpoint: message.checkpoint,
            end,
        })
    }
}

impl From<&TrainingReport> for pb::ReportTrainingRequest {
    fn from(report: &TrainingReport) -> Self {
        Self {
            worker_name: report.worker.clone(),
            lease_id: report.lease.0,
            job_id: report.job.to_string(),
            steps: report.steps.iter().map(Into::into).collect(),
            checkpoint: report.checkpoint,
            end: report.end.as_ref().map(|end| match end {
                TrainingEnd::Trained(fingerprint) => {
                    End::Result(pb::TrainingResult { fingerprint: fingerprint.as_bytes().to_vec() })
                }
                TrainingEnd::Failed(failure) => End::Failure(failure.into()),
            }),
        }
    }
}

impl TryFrom<pb::TrainingStep> for StepRecord {
    type Error = InvalidField;
    fn try_from(message: pb::TrainingStep) -> Result<Self, InvalidField> {
        let finite = |field, number: f64| {
            let problem = || FieldProblem::Value(format!("{number} must be finite"));
            if number.is_finite() { Ok(number) } else { Err(invalid(field, problem())) }
        };
        if message.step == 0 {
            return Err(invalid("step", FieldProblem::Missing));
        }
        Ok(Self {
            step: message.step,
            loss: finite("loss", message.loss)?,
            long: message.long.map(|loss| finite("long", loss)).transpose()?,
            short: message.short.map(|loss| finite("short", loss)).transpose()?,
            gradient_norm: finite("gradient_norm", message.gradient_norm)?,
            learning_rate: finite("learning_rate", message.learning_rate)?,
            tokens: message.tokens,
        })
    }
}

impl From<&StepRecord> for pb::TrainingStep {
    fn from(step: &StepRecord) -> Self {
        Self {
            step: step.step,
            loss: step.loss,
            long: step.long,
            short: step.short,
            gradient_norm: step.gradient_norm,
            learning_rate: step.learning_rate,
            tokens: step.tokens,
        }
    }
}

impl TryFrom<pb::TrainingFailure> for TrainingFailure {
    type Error = InvalidField;
    fn try_from(message: pb::TrainingFailure) -> Result<Self, InvalidField> {
        let kind = match message.kind() {
            Kind::NotHere => TrainingFailureKind::NotHere,
            Kind::TooLarge => TrainingFailureKind::TooLarge,
            Kind::Busy => TrainingFailureKind::Busy,
            Kind::HandedBack => TrainingFailureKind::HandedBack,
            Kind::Diverged => TrainingFailureKind::Diverged,
            Kind::Invalid => TrainingFailureKind::Invalid,
            Kind::Training => TrainingFailureKind::Training,
            Kind::Unspecified => return Err(invalid("failure.kind", FieldProblem::Unknown(message.kind))),
        };
        Ok(Self { kind, reason: reason(message.reason) })
    }
}

impl From<&TrainingFailure> for pb::TrainingFailure {
    fn from(failure: &TrainingFailure) -> Self {
        let kind = match failure.kind {
            TrainingFailureKind::NotHere => Kind::NotHere,
            TrainingFailureKind::TooLarge => Kind::TooLarge,
            TrainingFailureKind::Busy => Kind::Busy,
            TrainingFailureKind::HandedBack => Kind::HandedBack,
            TrainingFailureKind::Diverged => Kind::Diverged,
            TrainingFailureKind::Invalid => Kind::Invalid,
            TrainingFailureKind::Training => Kind::Training,
        };
        Self { kind: kind.into(), reason: failure.reason.clone() }
    }
}

// === progress ===

impl TryFrom<pb::TrainingProgress> for TrainingProgress {
    type Error = InvalidField;
    fn try_from(message: pb::TrainingProgress) -> Result<Self, InvalidField> {
        let worker = line("training.worker", message.worker, MAX_LINE)?;
        Ok(Self {
            steps_done: message.steps_done,
            steps: message.steps,
            loss: message.loss,
            checkpoint: message.checkpoint,
            worker: (!worker.is_empty()).then_some(worker),
        })
    }
}

impl From<&TrainingProgress> for pb::TrainingProgress {
    fn from(progress: &TrainingProgress) -> Self {
        Self {
            steps_done: progress.steps_done,
            steps: progress.steps,
            loss: progress.loss,
            checkpoint: progress.checkpoint,
            worker: progress.worker.clone().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests;
