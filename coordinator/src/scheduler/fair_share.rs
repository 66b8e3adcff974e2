//! Which job comes next.
//!
//! Jobs are weighted alike: the one that was served the fewest tokens comes first, and one that comes later begins
//! where the others are, so that it neither starves nor makes up for time in which it was not there. A worker that
//! has a model loaded stays with it while its job is not more than [`AHEAD_UNITS`] ahead.

use super::queue::{JobQueue, Lane, UnitKey};
use ropewalk_shared::fingerprint::Fingerprint;
use ropewalk_shared::job::JobId;
use std::collections::BTreeMap;

/// How far a job may get ahead of the others because its model is loaded, in its largest units.
const AHEAD_UNITS: u64 = 16;

/// The job to serve a worker with from one lane, and the position of the unit in its queue: the first that it takes.
pub(super) fn choose(
    jobs: &BTreeMap<JobId, JobQueue>,
    loaded: &[Fingerprint],
    lane: Lane,
    takes: impl Fn(&JobQueue, UnitKey) -> bool,
) -> Option<(JobId, usize)> {
    let mut first: Option<Choice> = None;
    let mut first_loaded: Option<Choice> = None;
    for (job, queue) in jobs.iter().filter(|(_, queue)| !queue.paused) {
        let Some(position) = queue.position(lane, |unit| takes(queue, unit)) else { continue };
        let choice = Choice { job, queue, position };
        if loaded.contains(&queue.model) {
            first_loaded = Some(earlier(first_loaded, choice));
        }
        first = Some(earlier(first, choice));
    }
    let first = first?;
    let choice = match first_loaded {
        Some(loaded) if loaded.is_within_reach_of(&first) => loaded,
        _ => first,
    };
    Some((choice.job.clone(), choice.position))
}

#[derive(Clone, Copy)]
struct Choice<'a> {
    job: &'a JobId,
    queue: &'a JobQueue,
    position: usize,
}

// === impl Choice ===

impl Choice<'_> {
    fn is_within_reach_of(&self, first: &Self) -> bool {
        let unit = u64::from(self.queue.largest().max(first.queue.largest()));
        self.queue.served <= first.queue.served.saturating_add(AHEAD_UNITS * unit)
    }
}

/// The one served less; of equals, the one found first.
fn earlier<'a>(best: Option<Choice<'a>>, other: Choice<'a>) -> Choice<'a> {
    match best {
        Some(best) if best.queue.served <= other.queue.served => best,
        _ => other,
    }
}
