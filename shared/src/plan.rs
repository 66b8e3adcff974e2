//! A plan as a job of the coordinator, which shares a folder with whoever launched it.
//!
//! What a plan is run with and what it makes lies in its folder, and only names travel.
//!
//! ```text
//! FOLDER/orders/DIGEST.json    what is to be carried out, written by whoever launches
//! FOLDER/stages, models        what the stages make
//! ```

use crate::job::{JobId, Problem};
use crate::plain_name::{self, MOST_OF_FOLDER, MOST_OF_JOB};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};

/// Stages of one plan.
const MAX_STAGES: u32 = 1000;
/// Digits of the digest that name an order's file.
const FILE_DIGITS: usize = 16;

/// Everything that determines a plan. Two equal specifications are the same job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanJob {
    /// A short name for people: letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// Name of the model that is extended.
    pub model: String,
    /// The plan's folder below the coordinator's plan root, or the plan root itself.
    pub folder: String,
    /// What is to be carried out.
    pub order: OrderId,
    /// The model's own window, in tokens.
    pub original_length: u32,
    /// The longest window that the plan reaches, in tokens.
    pub target_length: u32,
    /// Stages it has.
    pub stages: u32,
}

/// Digest of an order: the file that says what is to be carried out, and with what.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OrderId(pub [u8; 32]);

/// A text that is no digest of an order.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the digest of an order: it has 64 hexadecimal digits")]
pub struct InvalidOrderId;

/// A plan that cannot be launched, with all its problems.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct InvalidPlanJob {
    /// At least one.
    pub problems: Vec<Problem>,
}

/// How a plan stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanProgress {
    /// Stages that are done.
    pub stages_done: u32,
    /// Stages there are.
    pub stages: u32,
    /// The stage at work.
    pub stage: Option<StageAtWork>,
    /// The search or training that this stage waits for.
    pub job: Option<JobId>,
}

/// A stage at work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageAtWork {
    /// Its name.
    pub name: String,
    /// Its kind, as plans name it.
    pub kind: String,
}

// === impl PlanJob ===

impl PlanJob {
    /// The id of the job.
    pub fn id(&self) -> JobId {
        JobId::derived("ropewalk plan job v1", &self.name, self)
    }

    /// Checks all of it.
    ///
    /// # Errors
    /// [`InvalidPlanJob`] with every problem found.
    pub fn check(&self) -> Result<(), InvalidPlanJob> {
        let mut problems = Vec::new();
        let names = [
            ("name", &self.name, MOST_OF_JOB),
            ("model", &self.model, MOST_OF_FOLDER),
            ("folder", &self.folder, MOST_OF_FOLDER),
        ];
        for (field, name, most) in names {
            if let Err(wrong) = plain_name::check(name, most) {
                problems.push(Problem { field, reason: format!("{name:?} {wrong}") });
            }
        }
        if self.stages == 0 || self.stages > MAX_STAGES {
            let reason = format!("{} must be from 1 to {MAX_STAGES}", self.stages);
            problems.push(Problem { field: "stages", reason });
        }
        if problems.is_empty() { Ok(()) } else { Err(InvalidPlanJob { problems }) }
    }
}

impl fmt::Display for InvalidPlanJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the plan cannot be launched:")?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

// === impl OrderId ===

impl OrderId {
    /// Of the content of an order's file.
    pub fn of(content: &[u8]) -> Self {
        let mut hash = blake3::Hasher::new_derive_key("ropewalk plan order v1");
        hash.update(content);
        Self(*hash.finalize().as_bytes())
    }

    /// The order's file, in the plan's folder.
    pub fn path(&self, folder: &Path) -> PathBuf {
        let digits = self.to_string();
        folder.join("orders").join(format!("{}.json", &digits[..FILE_DIGITS]))
    }
}

crate::hex_digest!(OrderId, InvalidOrderId);

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> PlanJob {
        PlanJob {
            name: "mine".into(),
            model: "base".into(),
            folder: "plan".into(),
            order: OrderId::of(b"{}"),
            original_length: 64,
            target_length: 512,
            stages: 6,
        }
    }

    #[test]
    fn names_cannot_lead_out_of_the_folder_and_all_problems_are_told() {
        assert_eq!(job().check(), Ok(()));
        let bad = PlanJob { name: String::new(), folder: "../x".into(), model: "a/b".into(), stages: 0, ..job() };
        let problems = bad.check().unwrap_err().problems;
        let fields: Vec<&str> = problems.iter().map(|problem| problem.field).collect();
        assert_eq!(fields, ["name", "model", "folder", "stages"]);
        assert!(PlanJob { folder: "x".repeat(300), ..job() }.check().is_err());
        assert!(PlanJob { stages: 1001, ..job() }.check().is_err());
    }

    #[test]
    fn another_order_is_another_job_in_another_file() {
        let other = PlanJob { order: OrderId::of(b"{ }"), ..job() };
        assert_ne!(other.id(), job().id());
        assert!(job().id().as_str().starts_with("mine-"));
        let folder = Path::new("plan");
        assert_ne!(other.order.path(folder), job().order.path(folder));
        assert_eq!(job().order.to_string().parse(), Ok(job().order));
        assert_eq!("12".parse::<OrderId>(), Err(InvalidOrderId));
    }
}
