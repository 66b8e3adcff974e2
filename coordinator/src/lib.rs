//! Searches RoPE rescale factors: strategies, scheduler, store and gRPC services of the coordinator, and the
//! `ropewalk` command over them.
//!
//! ```text
//! cli -> client -> service -> dashboard -> engine -> search (what to evaluate)
//!                                    -> scheduler (who evaluates it)
//!                                    -> store (what is known)
//! ```
//!
//! [`documents`] turns texts into samples before a job is launched; [`export`] and [`report`] turn its result into what
//! engines load and people read. A [`plan`] composes searches, fine-tuning and evaluation to the whole method; the [`driver`] has
//! plans carried out that the engine keeps.

pub mod cli;
pub mod client;
pub mod dashboard;
pub mod documents;
pub mod driver;
pub mod engine;
pub mod export;
pub mod plan;
pub mod report;
pub mod scheduler;
pub mod search;
pub mod service;
pub mod store;
pub mod units;
