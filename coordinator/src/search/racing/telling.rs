//! Which samples tell most of what a candidate loses on all.

use super::{FLOOR, MIN_FREEDOM, middle, size};
use crate::search::neighbours::average;

/// Share of a sample's own sum of squares below which the samples before it tell all of it.
const TOLD: f64 = 1e-9;

/// The order of samples in which the first ones tell most: to those that are chosen, the one is added whose differences to what
/// was expected leave least of the mean differences unexplained, by weighted least squares. `past` has those differences,
/// candidate by candidate; the order is that of the numbers where they are too few.
pub fn order(samples: usize, past: &[Vec<f64>]) -> Vec<usize> {
    let mut left: Vec<usize> = (0..samples).collect();
    let usual = middle(past.iter().map(|differences| size(differences)));
    let Some(usual) = usual.filter(|_| past.len() >= MIN_FREEDOM + samples) else { return left };
    let mut products = products(samples, past, FLOOR * FLOOR * usual);
    let own: Vec<f64> = (0..samples).map(|sample| products[sample][sample]).collect();
    let mut order = Vec::with_capacity(samples);
    while !left.is_empty() {
        let gain = |sample: usize| match products[sample][sample] {
            square if square > TOLD * own[sample] => products[sample][samples].powi(2) / square,
            _ => 0.0,
        };
        let best = (1..left.len()).fold(0, |best, at| if gain(left[at]) > gain(left[best]) { at } else { best });
        let chosen = left.remove(best);
        order.push(chosen);
        if products[chosen][chosen] > TOLD * own[chosen] {
            take_out(&mut products, chosen);
        }
    }
    order
}

/// Products of the differences on any two samples, and in the last row and column of the mean difference, added up by weights that
/// stop growing where its square falls below `floor`.
fn products(samples: usize, past: &[Vec<f64>], floor: f64) -> Vec<Vec<f64>> {
    let mut products = vec![vec![0.0; samples + 1]; samples + 1];
    for differences in past {
        let target = average(differences);
        let weight = 1.0 / (floor + target.powi(2)).max(f64::MIN_POSITIVE);
        let row: Vec<f64> = differences.iter().copied().chain([target]).collect();
        for (products, a) in products.iter_mut().zip(&row) {
            for (product, b) in products.iter_mut().zip(&row) {
                *product += weight * a * b;
            }
        }
    }
    products
}

/// Leaves of all products what the chosen sample does not explain.
fn take_out(products: &mut [Vec<f64>], chosen: usize) {
    let by = products[chosen].clone();
    for row in products.iter_mut() {
        let share = row[chosen] / by[chosen];
        for (product, by) in row.iter_mut().zip(&by) {
            *product -= share * by;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::least_squares::Fit;
    use crate::search::rng::{Purpose, stream};
    use rand::RngExt as _;

    /// Of sample 2 all others are noisy copies, sample 1 says nothing of them.
    fn past(count: usize) -> Vec<Vec<f64>> {
        let mut rng = stream(3, 0, 0, Purpose::Initial);
        let mut draw = |size: f64| rng.random_range(-size..size);
        let mut one = || {
            let truth = draw(1.0);
            vec![truth + draw(0.8), draw(0.3), truth, truth + draw(0.4)]
        };
        (0..count).map(|_| one()).collect()
    }

    #[test]
    fn what_tells_most_comes_first() {
        assert_eq!(order(4, &past(200))[0], 2);
        assert_eq!(order(4, &past(MIN_FREEDOM + 3)), [0, 1, 2, 3], "too little is known");
    }

    /// The second is the one with which a fit leaves least, as fits of each pair say.
    #[test]
    fn each_explains_most_of_what_is_left() {
        let past = past(200);
        let targets: Vec<f64> = past.iter().map(|differences| average(differences)).collect();
        let sizes = past.iter().map(|differences| differences.iter().map(|by| by.abs()).sum::<f64>() / 4.0);
        let mut sizes: Vec<f64> = sizes.map(|size| size * size).collect();
        sizes.sort_by(f64::total_cmp);
        let weights: Vec<f64> = targets.iter().map(|target| 1.0 / (sizes[100] / 4.0 + target * target)).collect();
        let unexplained = |second: usize| {
            let rows: Vec<[f64; 2]> = past.iter().map(|differences| [differences[2], differences[second]]).collect();
            let rows: Vec<&[f64]> = rows.iter().map(|row| row.as_slice()).collect();
            let fit = Fit::of(&rows, &targets, &weights).unwrap();
            let squares = rows.iter().zip(&targets).zip(&weights);
            squares.map(|((row, target), weight)| weight * (target - fit.predict(row)).powi(2)).sum::<f64>()
        };
        let best = [0, 1, 3].into_iter().min_by(|&a, &b| unexplained(a).total_cmp(&unexplained(b))).unwrap();
        assert_eq!(order(4, &past)[..2], [2, best]);
    }

    #[test]
    fn every_sample_comes_once_whatever_the_numbers() {
        let copies: Vec<Vec<f64>> = (0..80).map(|number| vec![1.0 + f64::from(number % 2); 3]).collect();
        for past in [copies, vec![vec![0.0; 3]; 80], vec![vec![1e300, -1e300, 0.0]; 80]] {
            let mut all = order(3, &past);
            all.sort_unstable();
            assert_eq!(all, [0, 1, 2]);
        }
    }
}
