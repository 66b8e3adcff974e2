//! The short set: what engines use for windows up to the original length.

use ropewalk_shared::factor_file::{FactorFile, FactorWindow};
use ropewalk_shared::model_description::{ModelDescription, ShippedScaling};
use ropewalk_shared::rope::Rescale;

/// Where the short factors come from.
#[derive(Clone, Debug, PartialEq)]
pub enum ShortSet {
    /// The long factors: the same at every length and in every engine.
    Same,
    /// All ones: the original RoPE up to the original length.
    Ones,
    /// The short set the model was shipped with.
    Shipped,
    /// These, for example from a search at a short window; their starting tokens must be none.
    Given(Rescale),
    /// A window of the file's own factor table.
    Window(FactorWindow),
}

// === impl ShortSet ===

impl ShortSet {
    /// The table's set at the original length; without one the set a model is shipped with, or else the long one.
    pub(super) fn default_for(model: &ModelDescription, file: &FactorFile) -> Self {
        match (file.window_for(model.original_length), &model.shipped) {
            (Some(window), _) if file.windows.last() != Some(window) => Self::Window(window.clone()),
            (Some(_), _) => Self::Same,
            (None, ShippedScaling::LongRope { .. }) => Self::Shipped,
            (None, _) => Self::Same,
        }
    }

    /// What multiplies cosine and sine of short inputs, where it is known to differ from the long set's.
    pub(super) fn attention_factor(&self) -> Option<f64> {
        match self {
            Self::Window(window) => Some(window.rescale.attention_factor),
            Self::Given(rescale) => Some(rescale.attention_factor),
            _ => None,
        }
    }

    /// Starting tokens that it was found with, where they change anything.
    pub(super) fn start_tokens(&self) -> Option<u32> {
        let found = match self {
            Self::Window(window) => &window.rescale,
            Self::Given(rescale) => rescale,
            Self::Same | Self::Ones | Self::Shipped => return None,
        };
        found.has_start_tokens().then_some(found.start_tokens)
    }

    pub(super) fn factors(&self, model: &ModelDescription, long: &[f64]) -> Vec<f64> {
        match (self, &model.shipped) {
            (Self::Given(rescale), _) => rescale.factors.clone(),
            (Self::Window(window), _) => window.rescale.factors.clone(),
            (Self::Ones, _) => vec![1.0; long.len()],
            (Self::Shipped, ShippedScaling::LongRope { short, .. }) => short.clone(),
            (Self::Same | Self::Shipped, _) => long.to_vec(),
        }
    }
}
