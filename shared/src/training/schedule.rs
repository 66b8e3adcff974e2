//! What the learning rate does after the warm-up.

use serde::{Deserialize, Serialize};

/// A schedule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Schedule {
    /// It stays.
    #[default]
    Constant,
    /// It falls along half a cosine.
    Cosine {
        /// To this share of itself.
        final_share: f64,
    },
}

impl Schedule {
    /// Share of the learning rate when `done`, from 0 to 1, of the steps after the warm-up are over.
    pub fn share(self, done: f64) -> f64 {
        match self {
            Self::Constant => 1.0,
            Self::Cosine { final_share } => {
                final_share + (1.0 - final_share) * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
            }
        }
    }
}
