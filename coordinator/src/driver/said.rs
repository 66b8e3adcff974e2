//! What the process that carries a plan out says: a JSON object a line.
//!
//! It is a process of this program's own, yet what it says ends in the store and on terminals: everything is bounded, and what
//! cannot be read is passed over.

use crate::engine::{AttemptEnd, PlanReport};
use ropewalk_shared::job::JobId;
use ropewalk_shared::plan::StageAtWork;
use serde::{Deserialize, Serialize};

/// Longest name and longest text that are kept, in characters.
const MAX_NAME: usize = 200;
const MAX_TEXT: usize = 2000;

/// A line of a plan at work, for whoever carries it out and for programs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PlanLine {
    /// The stage it is about; absent for the plan itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// The kind of that stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// What has become of it.
    pub state: String,
    /// The job that it waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// Why it waits, or has failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What it made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<serde_json::Value>,
}

/// What [`PlanLine::state`] is, where it is not a stage's.
pub mod state {
    /// The stage has begun.
    pub const BEGUN: &str = "begun";
    /// The stage had begun before, and goes on.
    pub const GOING_ON: &str = "going on";
    /// The stage waits for a search or training, which is about to be launched.
    pub const JOB: &str = "job";
    /// The stage is done.
    pub const DONE: &str = "done";
    /// The stage was done before.
    pub const DONE_BEFORE: &str = "done before";
    /// The plan cannot go on yet.
    pub const WAITING: &str = "waiting";
    /// Every stage is done.
    pub const COMPLETE: &str = "complete";
    /// The plan cannot go on: the work failed.
    pub const FAILED: &str = "failed";
    /// The plan cannot go on: what it is run with is wrong.
    pub const INVALID: &str = "invalid";
}

/// What a line means; `None` for lines that mean nothing here.
pub(super) fn report(line: &[u8]) -> Option<PlanReport> {
    let line: PlanLine = serde_json::from_slice(line).ok()?;
    let stage = || line.stage.as_deref().map(|stage| text(stage, MAX_NAME));
    let reason = || text(line.reason.as_deref().unwrap_or("no reason was given"), MAX_TEXT);
    Some(match line.state.as_str() {
        state::BEGUN | state::GOING_ON => {
            let kind = text(line.kind.as_deref()?, MAX_NAME);
            PlanReport::Begun(StageAtWork { name: stage()?, kind })
        }
        state::JOB => PlanReport::Job { stage: stage()?, job: line.job.as_deref()?.parse::<JobId>().ok()? },
        state::DONE | state::DONE_BEFORE => {
            let summary = line.result.as_ref().and_then(|result| result.get("summary")).and_then(|said| said.as_str());
            PlanReport::Done { stage: stage()?, summary: text(summary.unwrap_or_default(), MAX_TEXT) }
        }
        state::WAITING => PlanReport::Waiting(reason()),
        state::COMPLETE => PlanReport::Ended(AttemptEnd::Complete),
        state::FAILED => PlanReport::Ended(AttemptEnd::Failed(reason())),
        state::INVALID => PlanReport::Ended(AttemptEnd::Invalid(reason())),
        _ => return None,
    })
}

/// A text that upsets no terminal; the end of a longer one is cut off.
pub(super) fn text(said: &str, most: usize) -> String {
    said.chars().filter(|&c| !c.is_control() || c == '\n').take(most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_reports() {
        let stage = || "tune".to_owned();
        let at_work = PlanReport::Begun(StageAtWork { name: stage(), kind: "finetune".into() });
        for state in ["begun", "going on"] {
            let line = format!(r#"{{"stage": "tune", "kind": "finetune", "state": "{state}", "later": [1]}}"#);
            assert_eq!(report(line.as_bytes()), Some(at_work.clone()));
        }
        let job = r#"{"stage": "tune", "kind": "finetune", "state": "job", "job": "mine-tune-0123456789"}"#;
        let told = PlanReport::Job { stage: stage(), job: "mine-tune-0123456789".parse().unwrap() };
        assert_eq!(report(job.as_bytes()), Some(told));
        let done = r#"{"stage": "tune", "kind": "finetune", "state": "done before", "result": {"summary": "well"}}"#;
        assert_eq!(report(done.as_bytes()), Some(PlanReport::Done { stage: stage(), summary: "well".into() }));
        let end = PlanReport::Ended(AttemptEnd::Invalid("no".into()));
        assert_eq!(report(br#"{"state": "invalid", "reason": "no"}"#), Some(end));
    }

    #[test]
    fn what_makes_no_sense_is_passed_over_and_what_is_long_is_cut() {
        for line in [
            &b"\xff\xfe"[..],
            b"",
            b"[]",
            b"{\"state\": \"dreaming\"}",
            br#"{"state": "begun"}"#,
            br#"{"stage": "x", "kind": "y", "state": "job", "job": "../x"}"#,
            br#"{"stage": 7, "state": "begun"}"#,
        ] {
            assert_eq!(report(line), None, "{}", String::from_utf8_lossy(line));
        }
        let long = format!(r#"{{"state": "waiting", "reason": "\u001b[2J{}"}}"#, "x".repeat(10_000));
        let Some(PlanReport::Waiting(reason)) = report(long.as_bytes()) else { panic!() };
        assert!(reason.len() == MAX_TEXT && reason.starts_with("[2J"), "{reason}");
    }
}
