//! The start of a second search: factors of one extension ratio, rescaled to another.

use ropewalk_shared::rope::Rescale;

/// `lambda' = 1 + (lambda - 1) (s_target - 1) / (s_origin - 1)`, as the authors start their second search.
///
/// A pair that was left alone stays alone, and one that was interpolated in full (`lambda = s_origin`) is so again. Starting
/// tokens and attention factor are kept. Factors of a window that was not extended cannot be rescaled and are returned as
/// they are.
pub fn stretch(rescale: &Rescale, origin_ratio: f64, target_ratio: f64) -> Rescale {
    let scale = (target_ratio - 1.0) / (origin_ratio - 1.0);
    if !scale.is_finite() || scale <= 0.0 {
        return rescale.clone();
    }
    Rescale { factors: rescale.factors.iter().map(|factor| 1.0 + (factor - 1.0) * scale).collect(), ..rescale.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: from 8 to 64 times the differences from 1 grow by 63 / 7 = 9.
    #[test]
    fn pairs_left_alone_and_pairs_interpolated_in_full_stay_so() {
        let short = Rescale {
            factors: vec![1.0, 1.5, 8.0, 10.0],
            start_tokens: 4,
            attention_factor: 1.17,
            pair_attention: Vec::new(),
        };
        let long = stretch(&short, 8.0, 64.0);
        assert_eq!(long, Rescale { factors: vec![1.0, 5.5, 64.0, 82.0], ..short.clone() });
        let back = stretch(&long, 64.0, 8.0);
        assert!(back.factors.iter().zip(&short.factors).all(|(a, b)| (a - b).abs() < 1e-12));
    }

    #[test]
    fn factors_of_an_unextended_window_are_kept() {
        let ones = Rescale::identity(4);
        assert_eq!(stretch(&ones, 1.0, 8.0), ones);
        assert_eq!(stretch(&Rescale::with_factors(vec![2.0]), 2.0, 1.0).factors, [2.0]);
    }
}
