//! Positions that are left out, so that a short sequence reaches far.
//!
//! A model learns distances it has met. Sequences as long as the window to be reached show all of them and cost
//! what they are long; a short one whose positions jump once shows any of them (PoSE, arXiv 2309.10400): tokens before
//! the jump and after it stand as far apart as they would in the long window.
//!
//! ```text
//! position(i) = i + sum of the widths of all gaps at or before token i
//! ```

use serde::{Deserialize, Serialize};

/// Positions that no token has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The token that stands behind them.
    pub before: u32,
    /// How many there are.
    pub width: u32,
}

/// The position of token `index` in a sequence with these gaps.
pub fn position(gaps: &[Gap], index: usize) -> u64 {
    let behind = gaps.iter().filter(|gap| gap.before as usize <= index);
    index as u64 + behind.map(|gap| u64::from(gap.width)).sum::<u64>()
}
