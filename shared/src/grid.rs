//! The exact grid on which rescale factors are searched.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The finest grid accepted: 10,000 points per unit (a step of 0.0001).
const MAX_POINTS_PER_UNIT: u32 = 10_000;

/// A grid of rescale factors with a step of `1 / points_per_unit`.
///
/// The paper (table 4) uses a step of 0.01, which is 100 points per unit. Factors are held as whole numbers of
/// steps, so that equality, hashing and storage are exact; [`Grid::value`] returns the `f64` nearest to the decimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Grid {
    points_per_unit: u32,
}

/// A step that does not divide 1 into whole points.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("step {0} is not usable: it must be 1/n for a whole n from 1 to {MAX_POINTS_PER_UNIT}, for example 0.01")]
pub struct InvalidStep(pub f64);

impl Grid {
    /// The paper's grid: a step of 0.01.
    pub const PAPER: Self = Self { points_per_unit: 100 };

    /// A grid with this step, which must be `1 / n` for a whole number `n`.
    ///
    /// # Errors
    /// [`InvalidStep`] when it is not.
    pub fn with_step(step: f64) -> Result<Self, InvalidStep> {
        let points = (1.0 / step).round();
        let fits = step.is_finite() && step > 0.0 && (1.0..=f64::from(MAX_POINTS_PER_UNIT)).contains(&points);
        if !fits || (points * step - 1.0).abs() > 1e-9 {
            return Err(InvalidStep(step));
        }
        Ok(Self { points_per_unit: points as u32 })
    }

    /// Distance of neighbouring points.
    pub fn step(self) -> f64 {
        1.0 / f64::from(self.points_per_unit)
    }

    /// The point at factor 1.0, the smallest of any search space.
    pub fn one(self) -> u32 {
        self.points_per_unit
    }

    /// The factor at a point.
    pub fn value(self, point: u32) -> f64 {
        f64::from(point) / f64::from(self.points_per_unit)
    }

    /// The point nearest to a factor; 0 for a negative or undefined one, `u32::MAX` for one beyond the grid.
    pub fn nearest(self, factor: f64) -> u32 {
        // `as` saturates, which is the clamping that is meant here.
        (factor * f64::from(self.points_per_unit)).round() as u32
    }

    /// The largest point whose factor does not exceed `limit`.
    pub fn floor(self, limit: f64) -> u32 {
        // The addition absorbs the representation error of decimals such as 1.25 * 8.0 * 100.
        (limit * f64::from(self.points_per_unit) + 1e-6).floor() as u32
    }
}

// === conversions ===

impl TryFrom<f64> for Grid {
    type Error = InvalidStep;
    fn try_from(step: f64) -> Result<Self, InvalidStep> {
        Self::with_step(step)
    }
}

impl From<Grid> for f64 {
    fn from(grid: Grid) -> f64 {
        grid.step()
    }
}

impl fmt::Display for Grid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.step())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn points_print_as_their_decimals() {
        for (point, text) in [(100, "1"), (119, "1.19"), (137, "1.37"), (1000, "10"), (7969, "79.69")] {
            assert_eq!(Grid::PAPER.value(point).to_string(), text);
        }
    }

    #[test]
    fn the_bound_of_the_paper_is_reached() {
        assert_eq!(Grid::PAPER.floor(1.25 * 8.0), 1000);
        assert_eq!(Grid::PAPER.floor(1.25 * 3.3), 412);
    }

    #[test]
    fn only_steps_that_divide_one_are_accepted() {
        for step in [1.0, 0.5, 0.25, 0.1, 0.05, 0.01, 0.001] {
            assert_eq!(Grid::with_step(step).map(Grid::step), Ok(step));
        }
        for step in [0.0, -0.01, 0.03, 2.0, 1e-9, f64::NAN, f64::INFINITY] {
            assert!(Grid::with_step(step).is_err(), "{step}");
        }
    }

    proptest! {
        #[test]
        fn every_point_is_nearest_to_its_value(point in 0u32..10_000_000, n in 1u32..=10_000) {
            let grid = Grid { points_per_unit: n };
            prop_assert_eq!(grid.nearest(grid.value(point)), point);
            prop_assert_eq!(grid.floor(grid.value(point)), point);
        }
    }
}
