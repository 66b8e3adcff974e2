//! What is expected of a candidate before it is evaluated, from those evaluated that are nearest to it.
//!
//! Most candidates differ from one that is known by a few factors, and what changes with them is smooth. So the losses on each
//! sample are taken for a random field over candidates, of whose values nearby ones agree, and foretold by ordinary kriging:
//! as the mean of the nearest by the weights, of sum 1, that leave the least variance under this covariance of squared
//! distances `d²` ([`super::metric`]):
//!
//! ```text
//! k(d²) = 1 / (1 + d² / l²)        l² = 4 mean(d² of the nearest)
//! ```
//!
//! Neighbours that were dropped are asked too, with what was foretold of them: it may be off, by a variance of its own.
//!
//! A candidate between two that are known is worth what lies between theirs, one beyond them what lies beyond. `k` is a
//! covariance whatever the factors are: the square of a share is four times that of the hyperbolic tangent of half a
//! logarithm's difference, which Schoenberg's theorem turns into one. Only operations that IEEE 754 rounds exactly are used,
//! so that every platform expects the same.

use super::cholesky::{Cholesky, dot};
use super::metric::Metric;
use ropewalk_shared::candidate::Candidate;
use serde::{Deserialize, Serialize};

/// So many of the nearest are asked.
const NEAREST: usize = 16;
/// `l²` as a multiple of the mean squared distance of those who are asked. Distances have another scale for each model, so that
/// nothing but they themselves can tell what is near.
const REACH: f64 = 4.0;
/// Variance, as a share of all, that no neighbour explains. Keeps the weights of those that lie close together small.
const NUGGET: f64 = 1e-4;
/// The same of what was itself foretold.
const FORETOLD: f64 = 0.1;
/// Squared distance below which candidates are the same, but for what does not count.
const SAME: f64 = 1e-9;

/// One that can be asked.
#[derive(Clone, Copy, Debug)]
pub struct Neighbour<'a> {
    /// Who it is.
    pub candidate: &'a Candidate,
    /// Its mean loss on each sample, in nats.
    pub means: &'a [f64],
    /// Whether some of these were foretold, not measured.
    pub is_foretold: bool,
}

/// What a candidate is expected to lose.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Expected {
    /// Mean loss on each sample, in nats.
    pub means: Vec<f64>,
    /// How far it may be off: a variance, in the unit of the squares of distances.
    pub variance: f64,
}

/// What is expected of a candidate among known ones, all with mean losses on the same samples; `None` where nobody is known,
/// or what is known are no numbers.
pub fn expected<'a>(
    metric: &Metric,
    candidate: &Candidate,
    known: impl Iterator<Item = Neighbour<'a>>,
) -> Option<Expected> {
    let mut nearest: Vec<(f64, Neighbour<'_>)> = Vec::with_capacity(NEAREST + 1);
    for other in known {
        let farthest = nearest.get(NEAREST - 1).map_or(f64::INFINITY, |(farthest, _)| *farthest);
        if let Some(distance) = metric.distance_below(candidate, other.candidate, farthest) {
            let place = nearest.partition_point(|(nearer, _)| *nearer <= distance);
            nearest.truncate(NEAREST - 1);
            nearest.insert(place, (distance, other));
        }
    }
    let (squares, asked): (Vec<f64>, Vec<Neighbour<'_>>) = nearest.into_iter().unzip();
    let samples = asked.first()?.means.len();
    let reach = REACH * average(&squares).max(SAME);
    let covariance = |square: f64| 1.0 / (1.0 + square / reach);
    let row = |row: usize| -> Vec<f64> {
        let own = asked[row];
        let others = asked[..row].iter().map(|other| covariance(metric.distance(own.candidate, other.candidate)));
        others.chain([1.0 + if own.is_foretold { FORETOLD } else { NUGGET }]).collect()
    };
    let among = Cholesky::of(&(0..asked.len()).map(row).collect::<Vec<_>>())?;
    let near: Vec<f64> = squares.into_iter().map(covariance).collect();
    let (of_near, of_ones) = (among.solved(&near), among.solved(&vec![1.0; near.len()]));
    let ones: f64 = of_ones.iter().sum();
    // Spreads over all what the weights of a field of mean 0 lack to a sum of 1.
    let spread = (1.0 - of_near.iter().sum::<f64>()) / ones;
    let weights: Vec<f64> = of_near.iter().zip(&of_ones).map(|(near, one)| near + spread * one).collect();
    let of_sample = |sample: usize| asked.iter().zip(&weights).map(|(one, weight)| weight * one.means[sample]).sum();
    let means: Vec<f64> = (0..samples).map(of_sample).collect();
    let variance = 1.0 - dot(&of_near, &near) + spread * spread * ones;
    Some(Expected { means, variance: reach * variance.max(NUGGET) })
        .filter(|expected| expected.variance.is_finite() && expected.means.iter().all(|mean| mean.is_finite()))
}

/// The mean of numbers: of mean losses, mostly.
pub fn average(numbers: &[f64]) -> f64 {
    numbers.iter().sum::<f64>() / numbers.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(factors: [u32; 2], start_tokens: u32) -> Candidate {
        Candidate { factors: factors.to_vec(), start_tokens, attention: None, pair_attention: Vec::new() }
    }

    fn expect(of: &Candidate, known: &[(Candidate, Vec<f64>)]) -> Option<Expected> {
        let known = known.iter().map(|(candidate, means)| Neighbour { candidate, means, is_foretold: false });
        expected(&Metric::default(), of, known)
    }

    /// Losses that depend on factors as on real models: smoothly, on each sample in another way.
    fn losses(candidate: &Candidate) -> Vec<f64> {
        let [x, y] = [0, 1].map(|pair| (f64::from(candidate.factors[pair]) / 1000.0).ln());
        vec![2.0 + x + 3.0 * y * y, 3.0 - 2.0 * x + y]
    }

    /// Known ones on a grid of ten by ten.
    fn around() -> Vec<(Candidate, Vec<f64>)> {
        let at = |step: u32| 900 + 20 * step;
        let all = (0..100).map(|number| candidate([at(number / 10), at(number % 10)], 0));
        all.map(|candidate| (candidate.clone(), losses(&candidate))).collect()
    }

    #[test]
    fn one_that_is_known_is_expected_to_lose_what_it_lost() {
        let known = around();
        for (candidate, means) in [&known[0], &known[55]] {
            let same = expect(candidate, &known).unwrap();
            assert!(same.means.iter().zip(means).all(|(expected, mean)| (expected - mean).abs() < 1e-4), "{same:?}");
        }
        let beside = expect(&candidate([850, 900], 0), &known).unwrap();
        assert!(expect(&known[0].0, &known).unwrap().variance < beside.variance / 10.0, "{beside:?}");
    }

    /// Between its neighbours and beyond them, it is what a smooth function is there, and not what they have in the mean.
    #[test]
    fn what_lies_between_and_beyond_is_smooth() {
        let known = around();
        for (candidate, tolerance) in [(candidate([991, 1013], 0), 1e-4), (candidate([890, 990], 0), 7e-3)] {
            let (expected, truth) = (expect(&candidate, &known).unwrap(), losses(&candidate));
            let nearest = known.iter().min_by(|(a, _), (b, _)| {
                let distance = |other| Metric::default().distance(&candidate, other);
                distance(a).total_cmp(&distance(b))
            });
            let error = |means: &[f64]| means.iter().zip(&truth).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(error(&expected.means) < tolerance, "{expected:?} {truth:?}");
            assert!(error(&nearest.unwrap().1) > 2.0 * error(&expected.means), "{expected:?} {truth:?}");
        }
    }

    /// Two that lie alike are asked alike; of one alone, its own is expected, and less surely.
    #[test]
    fn weights_add_up_to_one() {
        let [left, right] = [([100, 300], vec![1.0, 3.0]), ([300, 100], vec![2.0, 7.0])]
            .map(|(factors, means)| (candidate(factors, 0), means));
        let middle = candidate([200, 200], 0);
        let between = expect(&middle, &[left.clone(), right]).unwrap();
        assert!((between.means[0] - 1.5).abs() < 1e-12 && (between.means[1] - 5.0).abs() < 1e-12, "{between:?}");
        let alone = expect(&middle, &[left]).unwrap();
        assert!((alone.means[0] - 1.0).abs() < 1e-12 && (alone.means[1] - 3.0).abs() < 1e-12, "{alone:?}");
        assert!(alone.variance > between.variance);
    }

    /// Between one that was measured and one that was foretold, as far away, the first is believed more.
    #[test]
    fn what_was_foretold_is_believed_less() {
        let [left, right] = [candidate([100, 300], 0), candidate([300, 100], 0)];
        let between = |is_foretold: bool| {
            let known = [(&left, [1.0], false), (&right, [2.0], is_foretold)];
            let known =
                known.iter().map(|&(candidate, ref means, is_foretold)| Neighbour { candidate, means, is_foretold });
            expected(&Metric::default(), &candidate([200, 200], 0), known).unwrap()
        };
        let (measured, foretold) = (between(false), between(true));
        assert!((measured.means[0] - 1.5).abs() < 1e-12, "{measured:?}");
        assert!(foretold.means[0] > 1.2 && foretold.means[0] < 1.49, "{foretold:?}");
        assert!(foretold.variance > measured.variance);
    }

    #[test]
    fn only_the_nearest_are_asked() {
        let known = around();
        let of = candidate([1000, 1000], 0);
        let mut some = known.clone();
        some.retain(|(other, _)| Metric::default().distance(&of, other) < 0.01);
        assert!((NEAREST..known.len()).contains(&some.len()), "{}", some.len());
        assert_eq!(expect(&of, &known), expect(&of, &some));
    }

    #[test]
    fn equals_and_nonsense_do_no_harm() {
        let same = (candidate([100, 100], 0), vec![2.0, 3.0]);
        let of_equals = expect(&same.0, &vec![same.clone(); 40]).unwrap();
        assert!((of_equals.means[0] - 2.0).abs() < 1e-9 && of_equals.variance > 0.0, "{of_equals:?}");
        assert_eq!(expect(&same.0, &[]), None);
        assert_eq!(expect(&same.0, &[(same.0.clone(), vec![f64::NAN])]), None);
    }
}
