//! Runs one kernel a number of times on one thread, for profilers: `cargo run --release --example kernel -- NAME [RUNS]`.
//! Without a name it prints all names.
#![allow(clippy::print_stdout, reason = "the names are what it is asked for")]

use anyhow::Context as _;

/// Tokens of a chunk: few, since profilers slow everything down.
const ROWS: usize = 64;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let calls = ropewalk_worker::kernels::calls(ROWS)?;
    let Some(name) = arguments.next() else {
        calls.iter().for_each(|call| println!("{}", call.name));
        return Ok(());
    };
    let runs: usize = arguments.next().map_or(Ok(1), |runs| runs.parse()).context("RUNS is a number")?;
    let call = calls.iter().find(|call| call.name == name).with_context(|| format!("there is no kernel {name:?}"))?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    pool.install(|| (0..runs).try_for_each(|_| call.run()))?;
    Ok(())
}
