//! Factor files named on the command line.

use super::failure::{Failure, OrFail as _};
use crate::export::{read_factors, same_model};
use ropewalk_shared::factor_file::FactorFile;
use ropewalk_shared::model_description::ModelDescription;
use std::path::Path;

/// One factor file, JSON or CSV, checked against the model.
pub fn read_file(path: &Path, description: &ModelDescription) -> Result<FactorFile, Failure> {
    let read = read_factors(path, Some(description.geometry.pairs())).or_input()?;
    for notice in &read.notices {
        super::output::note(format!("{}: {notice}", path.display()));
    }
    if let Err(error) = same_model(&read.file, description) {
        super::output::note(format!("{}: {error}; they are used as they are", path.display()));
    }
    Ok(read.file)
}
