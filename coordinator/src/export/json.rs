//! Format `json`: the factor file.

use super::{DroppedStartTokens, Export, ExportError};
use ropewalk_shared::factor_file::{FactorFile, WITHOUT_PAIR_ATTENTION, WITHOUT_START_TOKENS};

/// The factor file as it is, its table of windows included; where starting tokens were dropped, without them and with
/// what that costs.
///
/// What dropping costs is known of the file's own factors alone, so other windows of a table keep their starting tokens.
///
/// # Errors
/// [`ExportError::Json`] for numbers that JSON cannot write, which checked factors do not have.
pub fn export(file: &FactorFile, dropped: Option<&DroppedStartTokens>) -> Result<Export, ExportError> {
    let Some(dropped) = dropped else {
        return Ok(Export { content: file.to_json()?, ..Export::default() });
    };
    let mut file = FactorFile { start_tokens: 0, ..file.clone() };
    // Measured with them: beside what these factors are worth it says nothing.
    file.baselines.remove(WITHOUT_PAIR_ATTENTION);
    // What was measured without them is what these factors are worth; short windows were not measured so.
    match (&mut file.objective, file.baselines.remove(WITHOUT_START_TOKENS)) {
        (Some(objective), Some(measured)) => {
            (objective.value, objective.held_out) = (measured.value, measured.held_out);
            objective.held_out_text = measured.held_out_text;
            objective.kept_short.clear();
        }
        (objective, _) => *objective = None,
    }
    if let Some(last) = file.windows.last_mut() {
        last.rescale.start_tokens = 0;
    }
    let mut value = serde_json::to_value(&file)?;
    if let Some(object) = value.as_object_mut() {
        object.insert("dropped_start_tokens".to_owned(), serde_json::to_value(dropped)?);
    }
    Ok(Export { content: serde_json::to_string_pretty(&value)? + "\n", ..Export::default() })
}
