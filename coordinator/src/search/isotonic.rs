//! The nearest monotone sequence, by weighted least squares.

/// A run of equal values: their weighted mean, their weight, their number.
struct Block {
    mean: f64,
    weight: f64,
    len: usize,
}

/// The non-decreasing sequence with the least sum of weighted squared distances to `targets`.
///
/// Neighbours in the wrong order are pooled into blocks that share their mean, until none are left ("pool adjacent
/// violators"). What is in order already stays as it is. Weights are above 0, one for each target.
pub fn nearest_monotone(targets: &[f64], weights: &[f64]) -> Vec<f64> {
    let mut blocks: Vec<Block> = Vec::with_capacity(targets.len());
    for (&mean, &weight) in targets.iter().zip(weights) {
        let mut block = Block { mean, weight, len: 1 };
        while let Some(last) = blocks.pop_if(|last| last.mean > block.mean) {
            let weight = last.weight + block.weight;
            let mean = (last.mean * last.weight + block.mean * block.weight) / weight;
            block = Block { mean, weight, len: last.len + block.len };
        }
        blocks.push(block);
    }
    blocks.iter().flat_map(|block| std::iter::repeat_n(block.mean, block.len)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn violators_share_their_mean() {
        assert_eq!(nearest_monotone(&[1.0, 3.0, 2.0, 4.0], &[1.0; 4]), [1.0, 2.5, 2.5, 4.0]);
        assert_eq!(nearest_monotone(&[3.0, 2.0, 1.0], &[1.0; 3]), [2.0; 3]);
        assert_eq!(nearest_monotone(&[4.0, 0.0], &[3.0, 1.0]), [3.0; 2]);
        assert_eq!(nearest_monotone(&[], &[]), [0.0; 0]);
    }

    proptest! {
        #[test]
        fn the_result_is_monotone_and_keeps_what_is_in_order(
            mut targets in proptest::collection::vec(0.0f64..10.0, 1..40),
        ) {
            let weights = vec![1.0; targets.len()];
            let fitted = nearest_monotone(&targets, &weights);
            prop_assert!(fitted.is_sorted());
            prop_assert_eq!(fitted.len(), targets.len());
            // Least squares keeps the mean.
            prop_assert!((fitted.iter().sum::<f64>() - targets.iter().sum::<f64>()).abs() < 1e-9);
            targets.sort_by(f64::total_cmp);
            prop_assert_eq!(nearest_monotone(&targets, &weights), targets);
        }
    }
}
