//! Factors whose attention factors of single pairs go into the weights.

use crate::export::ExportError;
use ropewalk_shared::factor_file::FactorFile;

/// The factors as they run on weights into which their attention factors of pairs are folded, and those; the factors as they
/// are, and none, where pairs have none of their own.
///
/// The model's name and fingerprint are left out with them: the weights are others then, and on those of the model these
/// factors alone would be worth less than the file says.
///
/// # Errors
/// [`ExportError::PairAttentionDiffers`] for a table whose sets have not all the same.
pub(super) fn split(file: &FactorFile) -> Result<(FactorFile, Vec<f64>), ExportError> {
    let folded = file.pair_attention.clone();
    if let Some(other) = file.windows.iter().find(|window| window.rescale.pair_attention != folded) {
        return Err(ExportError::PairAttentionDiffers { from_length: other.from_length });
    }
    let mut file = file.clone();
    if !folded.is_empty() {
        file.model = None;
        file.pair_attention.clear();
        file.windows.iter_mut().for_each(|window| window.rescale.pair_attention.clear());
    }
    Ok((file, folded))
}

/// What to know of the weights.
pub(super) fn note(folded: &[f64]) -> Option<String> {
    (!folded.is_empty()).then(|| {
        "the attention factors of the rotary pairs are folded into the query and key weights (norms, where queries and keys \
         have them), which is exact up to the rounding of the weights' format and holds at every length: short inputs too run \
         with them, whatever factors they have; factors.json goes with these weights alone"
            .to_owned()
    })
}
