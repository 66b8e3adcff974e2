//! Logging: to standard error, quiet unless asked.

use clap::{Args, ValueEnum};
use ropewalk_shared::log_filter;
use std::io::{IsTerminal as _, stderr};
use tracing_subscriber::EnvFilter;

/// What is logged, and how.
#[derive(Args, Clone, Debug)]
pub struct LoggingArgs {
    /// What to log to standard error: error, warn, info, debug, or a filter such as ropewalk=debug
    #[arg(long, global = true, env = "ROPEWALK_LOG", value_name = "FILTER", help_heading = "Logging")]
    #[arg(value_parser = log_filter::parse)]
    log: Option<String>,

    /// Form of log lines
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text, help_heading = "Logging")]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

impl LoggingArgs {
    /// Starts logging for the whole process.
    pub fn start(&self) {
        let filter = self.log.as_deref().unwrap_or("warn,sled=error");
        let builder = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new(filter))
            .with_ansi(stderr().is_terminal())
            .with_writer(stderr);
        // A second start, in tests, keeps the first.
        let _ = match self.log_format {
            LogFormat::Text => builder.with_target(false).try_init(),
            LogFormat::Json => builder.json().try_init(),
        };
    }
}
