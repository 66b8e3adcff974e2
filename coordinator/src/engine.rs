//! The coordinator's one mind: jobs, their searches, the queue of units and the store, driven by commands.
//!
//! A thread of its own takes commands from a bounded channel, as many as wait; everything they change goes to the
//! store in one batch, and a second thread flushes it and sends the answers. So many reports share one flush, and
//! what is acknowledged is durable. When the store fails, nothing is acknowledged any more and the engine stops:
//! started again, it goes on from what is stored.

mod actor;
mod ahead;
mod committer;
mod core;
mod desk;
mod error;
mod factors;
mod job;
mod jobs;
mod launch;
mod listing;
mod objective;
mod overview;
mod plan;
mod planned;
mod plans;
mod record;
mod relaunch;
mod report_plan;
mod reports;
mod short;
mod stage;
mod tally;
mod time;
mod training;
mod trainings;
mod tries;

pub use self::core::{Core, Launched, ResultText};
pub use actor::{Engine, EngineThreads, Stopped};
pub use error::EngineError;
pub use overview::{JobOverview, Overview};
pub use planned::SearchPasses;
pub use plans::{AttemptEnd, PlanReport, PlanToRun};
pub use tally::Tally;
pub use time::{Now, utc};

#[cfg(test)]
mod tests;
