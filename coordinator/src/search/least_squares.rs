//! Weighted linear least squares without an intercept, and how far a prediction may be off.

use super::cholesky::{Cholesky, dot};

/// A fit of `y` to the numbers of each row.
#[derive(Clone, Debug, PartialEq)]
pub struct Fit {
    coefficients: Vec<f64>,
    /// Of the weighted normal matrix.
    normal: Cholesky,
    /// Variance of an observation of weight 1.
    variance: f64,
    freedom: usize,
}

/// Added to the diagonal of the normal matrix, as a share of it, so that equal columns do no harm.
const RIDGE: f64 = 1e-9;

// === impl Fit ===

impl Fit {
    /// Fits `rows` (all of the same length, at least 1) with weights above 0. `None` where there are no more rows than
    /// columns, or the numbers allow none.
    pub fn of(rows: &[&[f64]], targets: &[f64], weights: &[f64]) -> Option<Self> {
        let columns = rows.first()?.len();
        let freedom = rows.len().checked_sub(columns).filter(|&freedom| freedom > 0 && columns > 0)?;
        let mut normal = vec![vec![0.0; columns]; columns];
        let mut right = vec![0.0; columns];
        for ((row, target), weight) in rows.iter().zip(targets).zip(weights) {
            for i in 0..columns {
                right[i] += weight * row[i] * target;
                for j in 0..=i {
                    normal[i][j] += weight * row[i] * row[j];
                }
            }
        }
        for (i, row) in normal.iter_mut().enumerate() {
            row[i] *= 1.0 + RIDGE;
        }
        let normal = Cholesky::of(&normal)?;
        let coefficients = normal.solved(&right);
        let mut squares = 0.0;
        for ((row, target), weight) in rows.iter().zip(targets).zip(weights) {
            squares += weight * (target - dot(row, &coefficients)).powi(2);
        }
        let variance = squares / freedom as f64;
        variance.is_finite().then_some(Self { coefficients, normal, variance, freedom })
    }

    /// The fitted value at `row`.
    pub fn predict(&self, row: &[f64]) -> f64 {
        dot(row, &self.coefficients)
    }

    /// Standard error of an observation of this weight at `row`, that of the coefficients included.
    pub fn error(&self, row: &[f64], weight: f64) -> f64 {
        let leverage: f64 = self.normal.half_solved(row).iter().map(|x| x * x).sum();
        (self.variance * (1.0 / weight + leverage)).sqrt()
    }

    /// Rows beyond the number of columns.
    pub fn freedom(&self) -> usize {
        self.freedom
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The line through the origin: slope `sum w x y / sum w x²`, by hand.
    #[test]
    fn one_column_is_the_textbook_slope() {
        let rows: Vec<&[f64]> = vec![&[1.0], &[2.0], &[4.0]];
        let fit = Fit::of(&rows, &[1.5, 3.0, 9.0], &[1.0, 2.0, 0.5]).unwrap();
        let slope = (1.5 + 2.0 * 6.0 + 0.5 * 36.0) / (1.0 + 2.0 * 4.0 + 0.5 * 16.0);
        assert!((fit.predict(&[10.0]) - 10.0 * slope).abs() < 1e-6);
        let squares = (1.5 - slope).powi(2) + 2.0 * (3.0 - 2.0 * slope).powi(2) + 0.5 * (9.0 - 4.0 * slope).powi(2);
        let expected = (squares / 2.0 * (1.0 / 4.0 + 9.0 / 17.0)).sqrt();
        assert!((fit.error(&[3.0], 4.0) - expected).abs() < 1e-6);
    }

    #[test]
    fn a_plane_is_found_and_what_cannot_be_fitted_is_none() {
        let rows: Vec<[f64; 3]> =
            (0..12).map(|i| [f64::from(i), f64::from(i * i % 7), f64::from(i * 5 % 11)]).collect();
        let targets: Vec<f64> = rows.iter().map(|row| 2.0 * row[0] - 3.0 * row[1] + 0.5 * row[2]).collect();
        let rows: Vec<&[f64]> = rows.iter().map(|row| row.as_slice()).collect();
        let fit = Fit::of(&rows, &targets, &[1.0; 12]).unwrap();
        assert_eq!(fit.freedom(), 9);
        assert!((fit.predict(&[1.0, 1.0, 1.0]) + 0.5).abs() < 1e-6);
        assert_eq!(Fit::of(&rows[..3], &targets[..3], &[1.0; 3]), None);
        assert_eq!(Fit::of(&[&[f64::NAN][..], &[1.0]], &[1.0, 1.0], &[1.0; 2]), None);
        assert_eq!(Fit::of(&[&[0.0][..], &[0.0]], &[1.0, 1.0], &[1.0; 2]), None);
    }
}
