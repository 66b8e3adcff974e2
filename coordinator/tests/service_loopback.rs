//! The whole coordinator over gRPC on loopback, with workers that compute a formula.
#![allow(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

#[path = "service_loopback/bad_input.rs"]
mod bad_input;
#[path = "service_loopback/fake_worker.rs"]
mod fake_worker;
#[path = "service_loopback/jobs.rs"]
mod jobs;
#[path = "service_loopback/leasing.rs"]
mod leasing;
#[path = "service_loopback/plans.rs"]
mod plans;
#[path = "service_loopback/support.rs"]
mod support;
#[path = "service_loopback/trainings.rs"]
mod trainings;
