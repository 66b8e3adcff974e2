//! Format `json`: the factor file.

use super::{DroppedStartTokens, Export, ExportError};
use ropewalk_shared::factor_file::FactorFile;

/// The factor file as it is; where starting tokens were dropped, without them and with what that costs.
///
/// # Errors
/// [`ExportError::Json`] for numbers that JSON cannot write, which checked factors do not have.
pub fn export(file: &FactorFile, dropped: Option<&DroppedStartTokens>) -> Result<Export, ExportError> {
    let Some(dropped) = dropped else {
        return Ok(Export { content: file.to_json()?, notes: Vec::new() });
    };
    let file = FactorFile { start_tokens: 0, ..file.clone() };
    let mut value = serde_json::to_value(&file)?;
    if let Some(object) = value.as_object_mut() {
        object.insert("dropped_start_tokens".to_owned(), serde_json::to_value(dropped)?);
    }
    Ok(Export { content: serde_json::to_string_pretty(&value)? + "\n", notes: Vec::new() })
}
