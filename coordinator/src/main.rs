//! The `ropewalk` command.

use clap::Parser as _;
use ropewalk_coordinator::cli::{Cli, run};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    cli.logging.start();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            ropewalk_coordinator::cli::output::note(format!("error: {failure}"));
            failure.exit_code()
        }
    }
}
