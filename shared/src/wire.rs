//! The wire contract, package `ropewalk.v1`: generated types, and their conversions to domain types.
//!
//! Generated types are used at the edge only. Whatever arrives is converted to domain types by `TryFrom`, which
//! checks everything once; past that point nobody checks again.

pub mod connection;
mod field;
mod job;
mod plan;
mod sample;
mod status;
mod training;
mod work;

pub use field::{FieldProblem, InvalidField};
pub use job::MAX_CONFIG_BYTES;
pub use sample::{InvalidTransfer, MAX_CHUNK_BYTES, SampleAssembly, chunks};

/// Types generated from `proto/ropewalk/v1`.
#[allow(missing_docs, clippy::all)]
pub mod pb {
    tonic::include_proto!("ropewalk.v1");
}

/// The compiled descriptors of `ropewalk.v1`, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/ropewalk.v1.bin"));

#[cfg(test)]
mod tests;
