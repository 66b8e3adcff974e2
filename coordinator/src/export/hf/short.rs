//! The short set: what engines use for windows up to the original length.

use ropewalk_shared::model_description::{ModelDescription, ShippedScaling};

/// Where the short factors come from.
#[derive(Clone, Debug, PartialEq)]
pub enum ShortSet {
    /// The long factors: the same at every length and in every engine.
    Same,
    /// All ones: the original RoPE up to the original length.
    Ones,
    /// The short set the model was shipped with.
    Shipped,
    /// These, for example from a search at a short window.
    Given(Vec<f64>),
}

// === impl ShortSet ===

impl ShortSet {
    /// The set a model is shipped with, or else the long one.
    pub(super) fn default_for(model: &ModelDescription) -> Self {
        match model.shipped {
            ShippedScaling::LongRope { .. } => Self::Shipped,
            _ => Self::Same,
        }
    }

    pub(super) fn factors(&self, model: &ModelDescription, long: &[f64]) -> Vec<f64> {
        match (self, &model.shipped) {
            (Self::Given(factors), _) => factors.clone(),
            (Self::Ones, _) => vec![1.0; long.len()],
            (Self::Shipped, ShippedScaling::LongRope { short, .. }) => short.clone(),
            (Self::Same | Self::Shipped, _) => long.to_vec(),
        }
    }
}
