//! What is wrong with a plan.

use std::fmt;

/// One thing that is wrong with a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The stage; absent for the plan itself.
    pub stage: Option<String>,
    /// The field, as in the file.
    pub field: String,
    /// What is wrong with it and what would be right.
    pub reason: String,
}

/// A plan that cannot be run, with all its problems.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct InvalidPlan {
    /// At least one.
    pub problems: Vec<Problem>,
}

// === impl Problem ===

impl Problem {
    /// Of the plan itself.
    pub fn of_plan(field: &str, reason: impl fmt::Display) -> Self {
        Self { stage: None, field: field.to_owned(), reason: reason.to_string() }
    }

    /// Of one stage.
    pub fn of_stage(stage: &str, field: &str, reason: impl fmt::Display) -> Self {
        Self { stage: Some(stage.to_owned()), field: field.to_owned(), reason: reason.to_string() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(stage) = &self.stage {
            write!(f, "stage {stage}: ")?;
        }
        write!(f, "{}: {}", self.field, self.reason)
    }
}

// === impl InvalidPlan ===

impl InvalidPlan {
    /// `Ok` where there is no problem.
    pub(super) fn unless_none(problems: Vec<Problem>) -> Result<(), Self> {
        if problems.is_empty() { Ok(()) } else { Err(Self { problems }) }
    }
}

impl fmt::Display for InvalidPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the plan cannot be run:")?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}
