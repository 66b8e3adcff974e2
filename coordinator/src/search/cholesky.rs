//! Symmetric linear systems by Cholesky's decomposition, in operations that IEEE 754 rounds exactly and in one order, so that
//! every platform solves them alike.

/// The lower triangle `L` with `L Lᵀ` a symmetric matrix, row by row.
#[derive(Clone, Debug, PartialEq)]
pub struct Cholesky(Vec<Vec<f64>>);

// === impl Cholesky ===

impl Cholesky {
    /// Decomposes a matrix of which only the lower triangle is read. `None` where it is not positive definite, or has entries
    /// that are no numbers.
    pub fn of(matrix: &[Vec<f64>]) -> Option<Self> {
        let mut factor: Vec<Vec<f64>> = Vec::with_capacity(matrix.len());
        for (i, entries) in matrix.iter().enumerate() {
            let mut row = Vec::with_capacity(i + 1);
            for (j, former) in factor.iter().enumerate() {
                row.push((entries[j] - dot(&row, &former[..j])) / former[j]);
            }
            let left = entries[i] - dot(&row, &row);
            // NaN is not above 0 either.
            row.push(Some(left).filter(|&left| left > 0.0)?.sqrt());
            factor.push(row);
        }
        Some(Self(factor))
    }

    /// `x` with `L x = right`.
    pub fn half_solved(&self, right: &[f64]) -> Vec<f64> {
        let mut solved = Vec::with_capacity(right.len());
        for (i, (row, right)) in self.0.iter().zip(right).enumerate() {
            solved.push((right - dot(&row[..i], &solved)) / row[i]);
        }
        solved
    }

    /// `x` with `L Lᵀ x = right`.
    pub fn solved(&self, right: &[f64]) -> Vec<f64> {
        let mut solved = self.half_solved(right);
        for i in (0..solved.len()).rev() {
            let known: f64 = (i + 1..solved.len()).map(|j| self.0[j][i] * solved[j]).sum();
            solved[i] = (solved[i] - known) / self.0[i][i];
        }
        solved
    }
}

/// The scalar product.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systems_are_solved() {
        let matrix = [vec![4.0, 2.0, -1.0], vec![2.0, 5.0, 0.5], vec![-1.0, 0.5, 3.0]];
        let cholesky = Cholesky::of(&matrix).unwrap();
        let x = cholesky.solved(&[1.0, -2.0, 3.0]);
        for (row, right) in matrix.iter().zip([1.0, -2.0, 3.0]) {
            assert!((dot(row, &x) - right).abs() < 1e-14, "{x:?}");
        }
        // By hand: the square root of 4, and what it leaves of the second row.
        let half = cholesky.half_solved(&[2.0, 3.0, 0.0]);
        assert!((half[0] - 1.0).abs() < 1e-15 && (half[1] - 1.0).abs() < 1e-15, "{half:?}");
    }

    #[test]
    fn what_is_not_positive_definite_is_none() {
        for matrix in [[[0.0, 0.0], [0.0, 1.0]], [[1.0, 2.0], [2.0, 1.0]], [[f64::NAN, 0.0], [0.0, 1.0]]] {
            assert_eq!(Cholesky::of(&matrix.map(|row| row.to_vec())), None);
        }
    }
}
