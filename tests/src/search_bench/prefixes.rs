//! How well the beginnings of documents rank candidates, beside whole documents of the same cost.

use super::course::{Tried, generations, mean};
use super::losses::Losses;
use super::results::median;
use anyhow::Result;
use ropewalk_shared::sample::Sample;
use serde::Serialize;
use std::fmt::Write as _;

/// Every so many generations are looked at: of the others much the same would be said.
const EVERY: usize = 8;
/// Generations that are not looked at: the first ones have candidates that anything tells apart.
const FIRST: usize = 2;

/// What the first tokens of some documents say about a candidate.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prefixes {
    /// Tokens read of each document.
    pub tokens: usize,
    /// Documents read, the first ones.
    pub documents: usize,
    /// What that costs, in whole documents; attention is not counted in, which makes the second half of a document dearer.
    pub cost: f64,
    /// Spearman's rank correlation with the mean loss over all documents, within a generation: the median over generations.
    pub correlation: f64,
    /// Of the best quarter of a generation, the share that these rank in its better half; the mean over generations.
    pub kept: f64,
}

/// Measures candidates of a search that evaluated everything: documents cut to each of `lengths`, and whole.
///
/// # Errors
/// When one cannot be evaluated.
pub fn measure(tried: &[Tried], search: &[Sample], lengths: &[usize], losses: &mut Losses) -> Result<Vec<Prefixes>> {
    let generations: Vec<&[Tried]> = generations(tried).skip(FIRST).step_by(EVERY).collect();
    let whole = search.iter().map(|sample| sample.tokens().len()).max().unwrap_or(0);
    let mut rows = Vec::new();
    for &tokens in lengths.iter().filter(|&&tokens| tokens < whole).chain([&whole]) {
        let cut = |sample: &Sample| sample.beginning(tokens.min(sample.tokens().len()) as u32);
        let cuts: Vec<Sample> = search.iter().map(cut).collect::<Result<_, _>>()?;
        for documents in 1..search.len() {
            let (mut correlations, mut kept) = (Vec::new(), Vec::new());
            for generation in &generations {
                let truth: Vec<f64> = generation.iter().map(|candidate| mean(&candidate.means)).collect();
                let mut by_prefix = Vec::new();
                for candidate in *generation {
                    let read = cuts[..documents].iter();
                    let read: Vec<f64> = read
                        .map(|sample| Ok(losses.loss(&candidate.rescale, sample)?.mean()))
                        .collect::<Result<_>>()?;
                    by_prefix.push(mean(&read));
                }
                correlations.push(spearman(&by_prefix, &truth));
                kept.push(kept_of_best(&by_prefix, &truth));
            }
            let cost = (tokens * documents) as f64 / whole as f64;
            rows.push(Prefixes { tokens, documents, cost, correlation: median(correlations), kept: mean(&kept) });
        }
    }
    Ok(rows)
}

/// One line for each.
pub fn table(rows: &[Prefixes]) -> String {
    let mut text = String::from(
        "What beginnings of documents tell\ntokens  documents  cost  rank correlation  best quarter in the better half\n",
    );
    for Prefixes { tokens, documents, cost, correlation, kept } in rows {
        let kept = 100.0 * kept;
        let _ = writeln!(text, "{tokens:>6} {documents:>10} {cost:>5.2} {correlation:>17.3} {kept:>30.1} %");
    }
    text
}

/// Places in ascending order; of equals, the first one stands in front.
fn places(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut places = vec![0; values.len()];
    order.into_iter().enumerate().for_each(|(place, index)| places[index] = place);
    places
}

/// Spearman's rank correlation: `1 - 6 sum d² / (n (n² - 1))`; NaN of fewer than two.
fn spearman(a: &[f64], b: &[f64]) -> f64 {
    let differences = places(a).into_iter().zip(places(b)).map(|(a, b)| (a as f64 - b as f64).powi(2));
    let n = a.len() as f64;
    1.0 - 6.0 * differences.sum::<f64>() / (n * (n * n - 1.0))
}

fn kept_of_best(by_prefix: &[f64], truth: &[f64]) -> f64 {
    let (guessed, true_places) = (places(by_prefix), places(truth));
    let quarter = truth.len().div_ceil(4);
    let best = (0..truth.len()).filter(|&index| true_places[index] < quarter);
    best.filter(|&index| guessed[index] < truth.len().div_ceil(2)).count() as f64 / quarter.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From a textbook: ranks of ten pupils in two subjects, whose differences squared sum to 194.
    #[test]
    fn rank_correlation_is_spearmans() {
        let iq = [86.0, 97.0, 99.0, 100.0, 101.0, 103.0, 106.0, 110.0, 112.0, 113.0];
        let hours = [2.0, 20.0, 28.0, 27.0, 50.0, 29.0, 7.0, 17.0, 6.0, 12.0];
        assert!((spearman(&iq, &hours) + 29.0 / 165.0).abs() < 1e-12);
        assert!((spearman(&iq, &iq) - 1.0).abs() < 1e-12);
        assert!(spearman(&[1.0], &[1.0]).is_nan());
    }

    #[test]
    fn the_best_are_kept_or_lost() {
        let truth = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
        assert_eq!(kept_of_best(&truth, &truth), 1.0);
        // The second best is taken for the worst.
        assert_eq!(kept_of_best(&[1.0, 9.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], &truth), 0.5);
    }
}
