//! The comparison that ends every search: searched factors against the published methods.

use super::failure::{Failure, Outcome};
use super::output;
use crate::report::Comparison;
use ropewalk_shared::factor_file::FactorFile;

/// Prints the comparison that a factor file records.
pub(super) fn print(file: &FactorFile) -> Outcome {
    match Comparison::of_factor_file(file) {
        Some(comparison) => output::line(comparison.to_string().trim_end()),
        None => Err(Failure::work_message("the job's factor file has no measurements to compare")),
    }
}
