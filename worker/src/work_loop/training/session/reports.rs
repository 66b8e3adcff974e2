//! What a session says to the coordinator, and what the answers change.

use super::super::unsaid::Said;
use super::{Fate, Session};
use crate::work_loop::link::Meaning;
use ropewalk_shared::training::{TrainingEnd, TrainingReport};
use ropewalk_shared::wire::pb;
use std::time::{Duration, Instant};
use tonic::{Code, Status};

/// Shortest and longest time for the answer to a report; in between half the lease, so that another report can follow.
const ANSWER: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(20)];

/// A report that was answered, or was not.
pub(super) struct Answer {
    sent: Instant,
    said: Said,
    result: Result<pb::ReportTrainingResponse, Status>,
}

// === impl Session ===

impl Session<'_> {
    /// Reports what there is, at the latest when it is time to renew the lease.
    pub(super) fn say(&mut self) {
        let now = Instant::now();
        let due = self.unsaid.is_urgent() || now >= self.say_at;
        if !due || self.fate.is_some() || !self.calls.is_empty() || self.around.link.retry_at().is_some() {
            return;
        }
        self.say_at = now + self.terms.report;
        let said = self.unsaid.next();
        let report = TrainingReport {
            worker: self.around.worker.to_owned(),
            lease: self.unit.lease,
            job: self.unit.id.clone(),
            steps: said.steps.clone(),
            checkpoint: said.checkpoint,
            end: said.end.clone(),
        };
        let (mut client, limit) = (self.around.link.trainings(), (self.terms.lease / 2).clamp(ANSWER[0], ANSWER[1]));
        self.calls.spawn(async move {
            let call = client.report_training(pb::ReportTrainingRequest::from(&report));
            let late = |_| Err(Status::deadline_exceeded(format!("no answer within {limit:?}")));
            let result = tokio::time::timeout(limit, call).await.unwrap_or_else(late);
            Answer { sent: now, said, result: result.map(tonic::Response::into_inner) }
        });
    }

    pub(super) fn answered(&mut self, Answer { sent, said, result }: Answer) {
        if self.fate.is_some() {
            return;
        }
        match result {
            Ok(response) => {
                self.around.link.served();
                self.unsaid.acknowledged(&said);
                if let Some(end) = said.end.filter(|_| self.unsaid.is_settled()) {
                    self.fate = Some(match end {
                        TrainingEnd::Trained(_) => Fate::Trained,
                        TrainingEnd::Failed(failed) => Fate::Failed(failed.kind),
                    });
                } else if response.wanted {
                    self.confirmed = true;
                    self.permit.renew(Instant::now(), sent + self.terms.permitted());
                } else {
                    tracing::info!(job = %self.unit.id, "a training is no longer wanted");
                    self.give_up(Fate::NotWanted);
                }
            }
            Err(status) if Meaning::of(&status) == Meaning::Forgotten => {
                tracing::info!(job = %self.unit.id, "the coordinator does not know a training: {}", status.message());
                self.give_up(Fate::NotWanted);
            }
            // Without the service it is a coordinator of another version, for now.
            Err(status) if Meaning::of(&status) == Meaning::Refused && status.code() != Code::Unimplemented => {
                tracing::error!(job = %self.unit.id, "the coordinator refused a training's report: {}", status.message());
                self.give_up(Fate::Refused);
            }
            Err(status) => self.around.link.failed("report-training", &status, self.stopping.is_some()),
        }
    }
}
