//! Steps down the slope at a candidate, in the measure in which pairs vary.
//!
//! Slopes by the logarithm of a factor say nothing about how far they hold. Divided by each pair's
//! [spread](super::cloud::spread) they are slopes by radians at the end of the window, and the steepest way down in that
//! measure moves slow pairs freely and fast ones hardly at all.

use super::cloud::{ATTENTION_SHARE, monotone, spread};
use super::curve::scaled;
use crate::search::strategy::Slope;
use ropewalk_shared::candidate::{Candidate, attention_value};
use ropewalk_shared::space::SearchSpace;

/// Lengths of the steps: how many spreads the pair that moves farthest moves.
pub const LENGTHS: [f64; 3] = [0.15, 0.4, 1.0];

/// Candidates along the steepest descent from `from`; none where the slope cannot be followed.
///
/// `angles` has, for each pair, the radians that it turns over the target window at factor 1.
pub fn steps(from: &Candidate, slope: &Slope, angles: &[f64], space: &SearchSpace) -> Vec<Candidate> {
    let factors: Vec<f64> = from.factors.iter().map(|&point| space.grid.value(point)).collect();
    let numbers = || slope.log_factors.iter().chain([&slope.log_attention_factor]);
    if slope.log_factors.len() != factors.len() || numbers().any(|by| !by.is_finite()) {
        return Vec::new();
    }
    let spreads: Vec<f64> = factors.iter().zip(angles).map(|(&factor, &angle)| spread(factor, angle)).collect();
    // In spreads: how far each pair would go for a step of length 1 along the slope.
    let moves: Vec<f64> = slope.log_factors.iter().zip(&spreads).map(|(by, spread)| -by * spread).collect();
    let attention = if from.attention.is_some() { -slope.log_attention_factor * ATTENTION_SHARE } else { 0.0 };
    let farthest = moves.iter().chain([&attention]).fold(0.0f64, |farthest, by| farthest.max(by.abs()));
    if farthest == 0.0 {
        return Vec::new();
    }
    let step = |length: &f64| {
        let share = length / farthest;
        let moved = factors.iter().zip(&moves).zip(&spreads);
        let targets: Vec<f64> = moved.map(|((&factor, by), spread)| scaled(factor, share * by * spread)).collect();
        let attention =
            from.attention.map_or(1.0, |point| scaled(attention_value(point), share * attention * ATTENTION_SHARE));
        space.nearest(&monotone(&targets, &spreads), from.start_tokens, attention)
    };
    LENGTHS.iter().map(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ropewalk_shared::grid::Grid;

    #[test]
    fn slow_pairs_go_far_and_fast_ones_stay() {
        let space = SearchSpace {
            grid: Grid::PAPER,
            pairs: 2,
            max_point: 1000,
            start_tokens: vec![0],
            attention: Some((800, 2000)),
        };
        let from =
            Candidate { factors: vec![150, 800], start_tokens: 0, attention: Some(1100), pair_attention: Vec::new() };
        let slope = Slope { log_factors: vec![0.1, 0.1], log_attention_factor: -0.1 };
        let angles = [2048.0, 20.0];
        let steps = steps(&from, &slope, &angles, &space);
        let [short, _, long] = &steps[..] else { panic!("{steps:?}") };
        assert!(long.factors[1] < short.factors[1] && short.factors[1] < 800, "{steps:?}");
        assert!(long.factors[0].abs_diff(150) <= 1);
        assert!(long.attention > Some(1100));
        let nan = Slope { log_attention_factor: f64::NAN, ..slope.clone() };
        assert!(super::steps(&from, &nan, &angles, &space).is_empty());
        let flat = Slope { log_factors: vec![0.0, 0.0], log_attention_factor: 0.0 };
        assert!(super::steps(&from, &flat, &angles, &space).is_empty());
    }
}
