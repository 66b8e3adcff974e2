//! Factor tables: one set of factors for each range of lengths.

use crate::rope::{InvalidRescale, Rescale};
use serde::{Deserialize, Serialize};

/// Most sets in one table.
pub const MAX_WINDOWS: usize = 64;

/// Factors for sequences of `from_length` tokens and more, up to where the next window begins.
///
/// The first window also serves every length below its `from_length`, the last one every length above.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FactorWindow {
    /// Shortest sequence, in tokens, that these factors are for.
    pub from_length: u32,
    /// The factors.
    #[serde(flatten, with = "SetOfFactors")]
    pub rescale: Rescale,
}

/// [`Rescale`] as factor files write it: what is left out is that of the original RoPE.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Rescale")]
struct SetOfFactors {
    #[serde(rename = "rescale_factors")]
    factors: Vec<f64>,
    #[serde(default)]
    start_tokens: u32,
    #[serde(default = "one")]
    attention_factor: f64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pair_attention: Vec<f64>,
}

/// A factor table that cannot be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidWindows {
    /// Too many sets.
    #[error("the factor table has {0} windows, at most {MAX_WINDOWS} are read")]
    TooMany(usize),
    /// Two windows begin at one length, or a longer one comes first.
    #[error(
        "window {index} of the factor table begins at {from_length} tokens, not above the one before it; order them by from_length, the shortest first"
    )]
    Order {
        /// Index of the window.
        index: usize,
        /// Where it begins.
        from_length: u32,
    },
    /// A set that cannot be applied.
    #[error("window {index} of the factor table: {source}")]
    Factors {
        /// Index of the window.
        index: usize,
        /// What is wrong with it.
        source: InvalidRescale,
    },
    /// Readers that know no tables would use other factors than the longest window's.
    #[error("the file's own factors are not those of the last window of its table; make them equal")]
    LastDiffers,
    /// One set for all lengths.
    #[error("the factor file has one set of factors for every length, and no table of windows to choose from")]
    NoTable,
}

/// Checks a table against the factors `own` of the file it stands in. No windows is no table, and valid.
///
/// # Errors
/// [`InvalidWindows`] with the first window at fault.
pub fn check(windows: &[FactorWindow], own: &Rescale) -> Result<(), InvalidWindows> {
    if windows.len() > MAX_WINDOWS {
        return Err(InvalidWindows::TooMany(windows.len()));
    }
    for (index, window) in windows.iter().enumerate() {
        if index > 0 && window.from_length <= windows[index - 1].from_length {
            return Err(InvalidWindows::Order { index, from_length: window.from_length });
        }
        window.rescale.check(own.factors.len()).map_err(|source| InvalidWindows::Factors { index, source })?;
    }
    match windows.last() {
        Some(last) if last.rescale != *own => Err(InvalidWindows::LastDiffers),
        _ => Ok(()),
    }
}

/// The window for a sequence of `length` tokens: the last that begins at or below it, else the first.
pub fn for_length(windows: &[FactorWindow], length: u32) -> Option<&FactorWindow> {
    windows.iter().rev().find(|window| window.from_length <= length).or(windows.first())
}

fn one() -> f64 {
    1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(from_length: u32, factor: f64) -> FactorWindow {
        let rescale =
            Rescale { factors: vec![1.0, factor], start_tokens: 0, attention_factor: 1.0, pair_attention: Vec::new() };
        FactorWindow { from_length, rescale }
    }

    #[test]
    fn a_length_finds_the_window_it_lies_in() {
        let table = [window(256, 1.0), window(512, 2.0), window(2048, 8.0)];
        for (length, from) in
            [(1, 256), (256, 256), (511, 256), (512, 512), (2047, 512), (2048, 2048), (u32::MAX, 2048)]
        {
            assert_eq!(for_length(&table, length).map(|window| window.from_length), Some(from), "{length}");
        }
        assert_eq!(for_length(&[], 256), None);
    }

    #[test]
    fn tables_out_of_order_or_unlike_their_file_are_refused() {
        let own = window(0, 8.0).rescale;
        assert_eq!(check(&[], &own), Ok(()));
        assert_eq!(check(&[window(256, 1.0), window(512, 8.0)], &own), Ok(()));
        let twice = [window(256, 1.0), window(256, 8.0)];
        assert_eq!(check(&twice, &own), Err(InvalidWindows::Order { index: 1, from_length: 256 }));
        assert_eq!(check(&[window(256, 1.0)], &own), Err(InvalidWindows::LastDiffers));
        let bad = [window(256, 0.0), window(512, 8.0)];
        assert!(matches!(check(&bad, &own), Err(InvalidWindows::Factors { index: 0, .. })));
        assert_eq!(check(&vec![window(1, 8.0); 65], &own), Err(InvalidWindows::TooMany(65)));
    }
}
