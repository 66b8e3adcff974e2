//! Compiles the wire contract with protox, so that no protoc has to be installed.

use prost::Message as _;
use std::path::PathBuf;

const PROTO_ROOT: &str = "../proto";
const FILES: [&str; 5] = [
    "ropewalk/v1/job.proto",
    "ropewalk/v1/client.proto",
    "ropewalk/v1/worker.proto",
    "ropewalk/v1/training.proto",
    "ropewalk/v1/plan.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed={PROTO_ROOT}");
    let descriptors = protox::compile(FILES, [PROTO_ROOT])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    // Kept for server reflection.
    std::fs::write(out.join("ropewalk.v1.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
