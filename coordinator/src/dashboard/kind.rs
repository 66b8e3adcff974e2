//! What a job is.

use ropewalk_shared::status::JobStatus;

/// All kinds.
pub(super) const KINDS: [&str; 3] = ["search", "training", "plan"];

/// The kind of a job.
pub(super) fn kind(status: &JobStatus) -> &'static str {
    match (&status.training, &status.plan) {
        (Some(_), _) => "training",
        (None, Some(_)) => "plan",
        (None, None) => "search",
    }
}
