//! Registrations, leases and reports on the wire.

use super::field::{InvalidField, amount, at_most, digest, digests, invalid, line, present, value};
use super::job::MAX_FACTORS;
use super::{FieldProblem, pb};
use crate::fingerprint::Fingerprint;
use crate::outcome::{FailureKind, Loss, LossSlope, UnitFailure};
use crate::sample::SampleId;
use crate::work::{
    LeaseId, LeaseRequest, MAX_UNITS_PER_LEASE, MAX_WAIT, Measure, Registration, Unit, UnitOutcome, UnitReport,
    Verdict, WorkerId, WorkerProfile,
};
use std::time::Duration;

const MAX_LINE: usize = 200;
const MAX_MODELS: usize = 10_000;
/// Longest reason that is kept of a failure, in characters; the rest is cut off.
const MAX_REASON: usize = 2_000;

// === registration ===

impl TryFrom<pb::RegisterRequest> for WorkerProfile {
    type Error = InvalidField;
    fn try_from(message: pb::RegisterRequest) -> Result<Self, InvalidField> {
        Ok(Self {
            name: line("name", message.name, MAX_LINE)?,
            device: line("device", message.device, MAX_LINE)?,
            dtype: line("dtype", message.dtype, MAX_LINE)?,
            version: line("version", message.version, MAX_LINE)?,
            max_tokens: message.max_tokens,
            max_gradient_tokens: message.max_gradient_tokens.unwrap_or(0),
        })
    }
}

impl From<&WorkerProfile> for pb::RegisterRequest {
    fn from(profile: &WorkerProfile) -> Self {
        Self {
            name: profile.name.clone(),
            device: profile.device.clone(),
            dtype: profile.dtype.clone(),
            max_tokens: profile.max_tokens,
            max_gradient_tokens: Some(profile.max_gradient_tokens),
            version: profile.version.clone(),
        }
    }
}

impl TryFrom<pb::RegisterResponse> for Registration {
    type Error = InvalidField;
    fn try_from(message: pb::RegisterResponse) -> Result<Self, InvalidField> {
        if message.lease_ms == 0 || message.heartbeat_ms == 0 {
            return Err(invalid("lease_ms", FieldProblem::Missing));
        }
        Ok(Self {
            worker: WorkerId::new(message.worker_id).map_err(value("worker_id"))?,
            lease: Duration::from_millis(message.lease_ms),
            heartbeat: Duration::from_millis(message.heartbeat_ms),
        })
    }
}

impl From<&Registration> for pb::RegisterResponse {
    fn from(registration: &Registration) -> Self {
        Self {
            worker_id: registration.worker.to_string(),
            lease_ms: registration.lease.as_millis() as u64,
            heartbeat_ms: registration.heartbeat.as_millis() as u64,
        }
    }
}

// === leases ===

impl TryFrom<pb::LeaseRequest> for LeaseRequest {
    type Error = InvalidField;
    fn try_from(message: pb::LeaseRequest) -> Result<Self, InvalidField> {
        at_most("max_units", message.max_units.into(), MAX_UNITS_PER_LEASE.into())?;
        if message.max_units == 0 {
            return Err(invalid("max_units", FieldProblem::Missing));
        }
        at_most("wait_ms", message.wait_ms, MAX_WAIT.as_millis() as u64)?;
        Ok(Self {
            worker: WorkerId::new(message.worker_id).map_err(value("worker_id"))?,
            request_id: message.request_id,
            max_units: message.max_units,
            wait: Duration::from_millis(message.wait_ms),
            loaded: digests("loaded_models", &message.loaded_models, MAX_MODELS)?,
            missing: digests("missing_models", &message.missing_models, MAX_MODELS)?,
        })
    }
}

impl From<&LeaseRequest> for pb::LeaseRequest {
    fn from(request: &LeaseRequest) -> Self {
        let bytes = |list: &[Fingerprint]| list.iter().map(|fingerprint| fingerprint.as_bytes().to_vec()).collect();
        Self {
            worker_id: request.worker.to_string(),
            request_id: request.request_id,
            max_units: request.max_units,
            wait_ms: request.wait.as_millis() as u64,
            loaded_models: bytes(&request.loaded),
            missing_models: bytes(&request.missing),
        }
    }
}

impl TryFrom<pb::Unit> for Unit {
    type Error = InvalidField;
    fn try_from(message: pb::Unit) -> Result<Self, InvalidField> {
        Ok(Self {
            lease: LeaseId(message.lease_id),
            job: message.job_id.parse().map_err(value("job_id"))?,
            model_name: line("model_name", message.model_name, MAX_LINE)?,
            model_fingerprint: Fingerprint::from(digest::<32>("model_fingerprint", &message.model_fingerprint)?),
            sample: SampleId::from(digest::<32>("sample_id", &message.sample_id)?),
            tokens: message.tokens,
            rescale: present("rescale", message.rescale)?.try_into()?,
            measure: match pb::Measure::try_from(message.measure) {
                Ok(pb::Measure::Unspecified | pb::Measure::Loss) => Measure::Loss,
                Ok(pb::Measure::Gradient) => Measure::Gradient,
                Err(_) => return Err(invalid("measure", FieldProblem::Unknown(message.measure))),
            },
            attempt: message.attempt,
        })
    }
}

impl From<&Unit> for pb::Unit {
    fn from(unit: &Unit) -> Self {
        Self {
            lease_id: unit.lease.0,
            job_id: unit.job.to_string(),
            model_name: unit.model_name.clone(),
            model_fingerprint: unit.model_fingerprint.as_bytes().to_vec(),
            sample_id: unit.sample.as_bytes().to_vec(),
            tokens: unit.tokens,
            rescale: Some((&unit.rescale).into()),
            measure: match unit.measure {
                Measure::Loss => pb::Measure::Loss,
                Measure::Gradient => pb::Measure::Gradient,
            }
            .into(),
            attempt: unit.attempt,
        }
    }
}

// === reports ===

impl TryFrom<pb::UnitReport> for UnitReport {
    type Error = InvalidField;
    fn try_from(message: pb::UnitReport) -> Result<Self, InvalidField> {
        use pb::unit_report::Outcome;
        Ok(Self {
            lease: LeaseId(message.lease_id),
            job: message.job_id.parse().map_err(value("job_id"))?,
            sample: SampleId::from(digest::<32>("sample_id", &message.sample_id)?),
            rescale: present("rescale", message.rescale)?.try_into()?,
            outcome: match present("outcome", message.outcome)? {
                Outcome::Loss(message) => {
                    let (loss, seconds) = loss(&message)?;
                    UnitOutcome::Loss { loss, seconds }
                }
                Outcome::Gradient(message) => {
                    at_most("gradient.log_factors", message.log_factors.len() as u64, MAX_FACTORS)?;
                    let (loss, seconds) = loss(&present("gradient.loss", message.loss)?)?;
                    at_most("gradient.log_pair_attention", message.log_pair_attention.len() as u64, MAX_FACTORS)?;
                    let slope = LossSlope {
                        log_factors: message.log_factors,
                        log_attention_factor: message.log_attention_factor,
                        log_pair_attention: message.log_pair_attention,
                    };
                    UnitOutcome::Gradient { loss, slope, seconds }
                }
                Outcome::Stopped(message) => UnitOutcome::Stopped {
                    share: amount("stopped.share", message.share)?.min(1.0),
                    seconds: amount("stopped.seconds", message.seconds)?,
                },
                Outcome::Failure(failure) => UnitOutcome::Failure(failure.try_into()?),
            },
        })
    }
}

/// A loss and how long it took. NaN and infinity are values: a candidate can be that bad.
fn loss(message: &pb::Loss) -> Result<(Loss, f64), InvalidField> {
    let loss = Loss { nll_sum: message.nll_sum, tokens: message.tokens };
    Ok((loss, amount("loss.seconds", message.seconds)?))
}

impl From<&UnitReport> for pb::UnitReport {
    fn from(report: &UnitReport) -> Self {
        use pb::unit_report::Outcome;
        Self {
            lease_id: report.lease.0,
            job_id: report.job.to_string(),
            sample_id: report.sample.as_bytes().to_vec(),
            rescale: Some((&report.rescale).into()),
            outcome: Some(match &report.outcome {
                UnitOutcome::Loss { loss, seconds } => Outcome::Loss(loss_message(*loss, *seconds)),
                UnitOutcome::Gradient { loss, slope, seconds } => Outcome::Gradient(pb::Gradient {
                    loss: Some(loss_message(*loss, *seconds)),
                    log_factors: slope.log_factors.clone(),
                    log_attention_factor: slope.log_attention_factor,
                    log_pair_attention: slope.log_pair_attention.clone(),
                }),
                UnitOutcome::Stopped { share, seconds } => {
                    Outcome::Stopped(pb::Stopped { share: *share, seconds: *seconds })
                }
                UnitOutcome::Failure(failure) => Outcome::Failure(failure.into()),
            }),
        }
    }
}

fn loss_message(loss: Loss, seconds: f64) -> pb::Loss {
    pb::Loss { nll_sum: loss.nll_sum, tokens: loss.tokens, seconds }
}

impl TryFrom<pb::Failure> for UnitFailure {
    type Error = InvalidField;
    fn try_from(message: pb::Failure) -> Result<Self, InvalidField> {
        use pb::failure::Kind;
        let kind = match message.kind() {
            Kind::ModelMissing => FailureKind::ModelMissing,
            Kind::FingerprintMismatch => FailureKind::FingerprintMismatch,
            Kind::TooLarge => FailureKind::TooLarge,
            Kind::SampleUnavailable => FailureKind::SampleUnavailable,
            Kind::Evaluation => FailureKind::Evaluation,
            Kind::HandedBack => FailureKind::HandedBack,
            Kind::NoGradient => FailureKind::NoGradient,
            Kind::Unspecified => return Err(invalid("failure.kind", FieldProblem::Unknown(message.kind))),
        };
        Ok(Self { kind, reason: reason(message.reason) })
    }
}

/// A reason is for people: made harmless and cut, never a ground to lose the failure itself.
pub(super) fn reason(text: String) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_REASON).collect()
}

impl From<&UnitFailure> for pb::Failure {
    fn from(failure: &UnitFailure) -> Self {
        use pb::failure::Kind;
        let kind = match failure.kind {
            FailureKind::ModelMissing => Kind::ModelMissing,
            FailureKind::FingerprintMismatch => Kind::FingerprintMismatch,
            FailureKind::TooLarge => Kind::TooLarge,
            FailureKind::SampleUnavailable => Kind::SampleUnavailable,
            FailureKind::Evaluation => Kind::Evaluation,
            FailureKind::HandedBack => Kind::HandedBack,
            FailureKind::NoGradient => Kind::NoGradient,
        };
        Self { kind: kind.into(), reason: failure.reason.clone() }
    }
}

// === verdicts ===

impl From<Verdict> for pb::report_response::Verdict {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Accepted => Self::Accepted,
            Verdict::Duplicate => Self::Duplicate,
            Verdict::Conflict => Self::Conflict,
            Verdict::NotWanted => Self::NotWanted,
            Verdict::Refused => Self::Refused,
        }
    }
}

impl TryFrom<pb::report_response::Verdict> for Verdict {
    type Error = InvalidField;
    fn try_from(message: pb::report_response::Verdict) -> Result<Self, InvalidField> {
        use pb::report_response::Verdict as Message;
        match message {
            Message::Accepted => Ok(Self::Accepted),
            Message::Duplicate => Ok(Self::Duplicate),
            Message::Conflict => Ok(Self::Conflict),
            Message::NotWanted => Ok(Self::NotWanted),
            Message::Refused => Ok(Self::Refused),
            Message::Unspecified => Err(invalid("verdicts", FieldProblem::Unknown(message.into()))),
        }
    }
}
