//! The domain of Ropewalk: what a candidate is, where it may lie, what it does to RoPE, and how a search is described.
//!
//! No I/O, no runtime and no tensors here: both the coordinator and its workers build on this crate. The wire types
//! are generated into [`wire`] and converted to domain types at the edge.

pub mod access;
pub mod attention_factor;
pub mod baselines;
pub mod candidate;
pub mod digest;
pub mod event;
pub mod factor_file;
pub mod fingerprint;
pub mod grid;
pub mod job;
pub mod log_filter;
pub mod model_description;
pub mod outcome;
pub mod plain_name;
pub mod plan;
pub mod racing;
pub mod retrieval;
pub mod rope;
pub mod sample;
pub mod space;
pub mod status;
pub mod training;
pub mod wire;
pub mod work;
