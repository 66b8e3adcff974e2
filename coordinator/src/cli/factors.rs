//! Factor files named on the command line.

use super::failure::{Failure, OrFail as _};
use crate::export::read_factors;
use ropewalk_shared::factor_file::FactorFile;
use ropewalk_shared::model_description::ModelDescription;
use ropewalk_shared::rope::Rescale;
use std::path::{Path, PathBuf};

/// The files of `--init`; of a factor table its last set.
pub fn read_init(paths: &[PathBuf], description: &ModelDescription) -> Result<Vec<Rescale>, Failure> {
    paths.iter().map(|path| Ok(read_file(path, description)?.rescale())).collect()
}

/// One factor file, JSON or CSV, checked against the model.
pub fn read_file(path: &Path, description: &ModelDescription) -> Result<FactorFile, Failure> {
    let read = read_factors(path, Some(description.geometry.pairs())).or_input()?;
    for notice in &read.notices {
        super::output::note(format!("{}: {notice}", path.display()));
    }
    Ok(read.file)
}
