//! The start of a second search: factors of one extension ratio, rescaled to another.

use ropewalk_shared::rope::Rescale;

/// `lambda' = 1 + (lambda - 1) (s_target - 1) / (s_origin - 1)`, as the authors start their second search.
///
/// A pair that was left alone stays alone, and one that was interpolated in full (`lambda = s_origin`) is so again. What the
/// attention factor has above 1 grows as YaRN's does, with the logarithm of the ratio: `1 + (a - 1) ln s_target / ln
/// s_origin`. Starting tokens are kept. Factors of a window that was not extended cannot be rescaled and are returned as they
/// are.
pub fn stretch(rescale: &Rescale, origin_ratio: f64, target_ratio: f64) -> Rescale {
    let scale = (target_ratio - 1.0) / (origin_ratio - 1.0);
    if !scale.is_finite() || scale <= 0.0 {
        return rescale.clone();
    }
    let growth = target_ratio.ln() / origin_ratio.ln();
    Rescale {
        factors: rescale.factors.iter().map(|factor| 1.0 + (factor - 1.0) * scale).collect(),
        // Below 1 it would shrink to nothing.
        attention_factor: match rescale.attention_factor {
            above if above > 1.0 => 1.0 + (above - 1.0) * growth,
            other => other,
        },
        ..rescale.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: from 8 to 64 times the differences from 1 grow by 63 / 7 = 9, and ln 64 / ln 8 = 2.
    #[test]
    fn pairs_left_alone_and_pairs_interpolated_in_full_stay_so() {
        let short = Rescale {
            factors: vec![1.0, 1.5, 8.0, 10.0],
            start_tokens: 4,
            attention_factor: 1.17,
            pair_attention: Vec::new(),
        };
        let long = stretch(&short, 8.0, 64.0);
        assert_eq!(long.factors, [1.0, 5.5, 64.0, 82.0]);
        assert!((long.attention_factor - 1.34).abs() < 1e-12 && long.start_tokens == 4);
        let back = stretch(&long, 64.0, 8.0);
        assert!((back.attention_factor - 1.17).abs() < 1e-12);
        assert!(back.factors.iter().zip(&short.factors).all(|(a, b)| (a - b).abs() < 1e-12));
    }

    #[test]
    fn factors_of_an_unextended_window_are_kept() {
        let ones = Rescale::identity(4);
        assert_eq!(stretch(&ones, 1.0, 8.0), ones);
        assert_eq!(stretch(&Rescale::with_factors(vec![2.0]), 2.0, 1.0).factors, [2.0]);
        let less = Rescale { attention_factor: 0.9, ..Rescale::with_factors(vec![2.0]) };
        assert_eq!(stretch(&less, 2.0, 8.0), Rescale { factors: vec![8.0], ..less.clone() });
    }
}
