//! Losses everywhere, from those that a search recorded: a landscape on which searches cost next to nothing.
//!
//! Each document's mean loss is taken for a Gaussian process over candidates and foretold from all that were recorded:
//!
//! ```text
//! loss(x) = average + sum_i k(x, x_i) w_i        (K + noise) w = recorded - average
//! ```
//!
//! `k` is Matérn's covariance of smoothness 5/2, of distances in the logarithms of factors, each weighed by how often its pair
//! turns over the original window, and in that of starting tokens. Reach and noise are those of a few that foretell each
//! recorded candidate best from all others.

use super::course::{Tried, mean};
use super::results::median;
use anyhow::{Context as _, Result, ensure};
use nalgebra::{DMatrix, Dyn, linalg::Cholesky};
use ropewalk_shared::model_description::ModelDescription;
use ropewalk_shared::rope::Rescale;

/// Distances at which candidates hardly say anything of each other, to choose from.
const REACHES: [f64; 3] = [2.0, 4.0, 8.0];
/// Shares of the variance that no neighbour explains, to choose from.
const NOISES: [f64; 2] = [1e-7, 1e-5];

/// Losses of documents by candidate.
#[derive(Clone, Debug)]
pub struct Landscape {
    /// Of each pair, what its distances are multiplied by.
    scales: Vec<f64>,
    reach: f64,
    noise: f64,
    /// Where losses were recorded.
    places: Places,
    /// `w`, one row a candidate and one column a document.
    weights: DMatrix<f64>,
    /// Of each document.
    averages: Vec<f64>,
    /// `K + noise`, decomposed.
    covariance: Cholesky<f64, Dyn>,
}

/// Places of candidates.
#[derive(Clone, Debug)]
struct Places {
    /// One row each.
    at: DMatrix<f64>,
    /// The square of each one's length.
    squares: Vec<f64>,
}

// === impl Landscape ===

impl Landscape {
    /// Fits a landscape to candidates that were evaluated on the same documents.
    ///
    /// # Errors
    /// When they are too few, were dropped, have attention factors of their own, or lie so that nothing fits.
    pub fn fit(tried: &[Tried], description: &ModelDescription) -> Result<Self> {
        let documents = tried.first().map_or(0, |first| first.means.len());
        let is_usable =
            |tried: &Tried| tried.means.len() == documents && tried.means.iter().all(|mean| mean.is_finite());
        ensure!(
            documents > 1 && tried.iter().all(is_usable),
            "a landscape needs candidates evaluated on all documents"
        );
        let own = |tried: &Tried| tried.candidate.attention.is_some() || !tried.rescale.pair_attention.is_empty();
        ensure!(!tried.iter().any(own), "attention factors must be the same for all candidates of a landscape");
        let turns = |pair| description.geometry.turns(pair, description.original_length);
        let scales: Vec<f64> = (0..description.geometry.pairs()).map(|pair| turns(pair).sqrt()).collect();
        let choices = REACHES.into_iter().flat_map(|reach| NOISES.map(|noise| (reach, noise)));
        let fits = choices.filter_map(|choice| Self::with(tried, &scales, choice));
        let fits = fits.map(|fit| (middle(&fit.left_out()), fit));
        let best = fits.min_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, fit)| fit);
        best.context("no landscape fits what was recorded")
    }

    /// The same, with the same reach, to more candidates.
    ///
    /// # Errors
    /// When nothing fits.
    pub fn fit_again(&self, tried: &[Tried]) -> Result<Self> {
        Self::with(tried, &self.scales, (self.reach, self.noise)).context("no landscape fits what was read")
    }

    fn with(tried: &[Tried], scales: &[f64], (reach, noise): (f64, f64)) -> Option<Self> {
        let of_document = |document: usize| tried.iter().map(|tried| tried.means[document]).collect::<Vec<_>>();
        let averages: Vec<f64> = (0..tried.first()?.means.len()).map(|document| mean(&of_document(document))).collect();
        let losses = DMatrix::from_fn(tried.len(), averages.len(), |row, document| {
            tried[row].means[document] - averages[document]
        });
        let candidates: Vec<Rescale> = tried.iter().map(|tried| tried.rescale.clone()).collect();
        let places = Places::of(&candidates, scales);
        let noises = DMatrix::from_diagonal_element(tried.len(), tried.len(), noise);
        let covariance = (places.covariances(&places, reach) + noises).cholesky()?;
        let weights = covariance.solve(&losses);
        Some(Self { scales: scales.to_vec(), reach, noise, places, weights, averages, covariance })
    }

    /// By how much it is off where a recorded candidate is left out, in nats: one row each, and one column a document.
    /// `w_i / (K^-1)_ii`, which takes longer than the fit.
    pub fn left_out(&self) -> DMatrix<f64> {
        let of_inverse = self.covariance.inverse().diagonal();
        let mut errors = self.weights.clone();
        for (mut row, own) in errors.row_iter_mut().zip(of_inverse.iter()) {
            row /= *own;
        }
        errors
    }

    /// Number of documents.
    pub fn documents(&self) -> usize {
        self.averages.len()
    }

    /// Mean losses in nats: of each candidate, on each of `documents`.
    pub fn losses(&self, candidates: &[Rescale], documents: &[usize]) -> Vec<Vec<f64>> {
        let near = self.places.covariances(&Places::of(candidates, &self.scales), self.reach);
        let foretold = near.tr_mul(&self.weights.select_columns(documents));
        let averages = || documents.iter().map(|&document| self.averages[document]);
        let of_candidate = |candidate| averages().zip(foretold.row(candidate).iter()).map(|(a, b)| a + b).collect();
        (0..candidates.len()).map(of_candidate).collect()
    }

    /// Mean losses over all documents, in nats.
    pub fn means(&self, candidates: &[Rescale]) -> Vec<f64> {
        let all: Vec<usize> = (0..self.documents()).collect();
        self.losses(candidates, &all).iter().map(|losses| mean(losses)).collect()
    }
}

// === impl Places ===

impl Places {
    fn of(candidates: &[Rescale], scales: &[f64]) -> Self {
        let coordinate = |row: usize, column: usize| match candidates[row].factors.get(column) {
            Some(factor) => factor.ln() * scales[column],
            None => f64::from(candidates[row].start_tokens).ln_1p(),
        };
        let at = DMatrix::from_fn(candidates.len(), scales.len() + 1, coordinate);
        let squares = at.row_iter().map(|row| row.norm_squared()).collect();
        Self { at, squares }
    }

    /// Covariances of these, one row each, with others, one column each.
    fn covariances(&self, others: &Self, reach: f64) -> DMatrix<f64> {
        let mut products = &self.at * others.at.transpose();
        for (mut column, other) in products.column_iter_mut().zip(&others.squares) {
            for (product, own) in column.iter_mut().zip(&self.squares) {
                // |a - b|^2, which rounding may leave below nothing.
                *product = covariance((own + other - 2.0 * *product).max(0.0), reach);
            }
        }
        products
    }
}

/// What a landscape is off by in the mean over documents, where a candidate is left out: the middle one, without its sign.
pub fn middle(left_out: &DMatrix<f64>) -> f64 {
    median(left_out.row_iter().map(|row| row.mean().abs()).collect())
}

/// Of two places, by the square of their distance.
fn covariance(square: f64, reach: f64) -> f64 {
    let far = (5.0 * square).sqrt() / reach;
    (1.0 + far + far * far / 3.0) * (-far).exp()
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use rand::RngExt as _;
    use ropewalk_coordinator::search::rng::{Purpose, stream};
    use ropewalk_shared::candidate::Candidate;

    /// Of a model with four pairs.
    pub const CONFIG: &str = r#"{"model_type": "llama", "vocab_size": 100, "hidden_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 256}"#;

    /// That model.
    pub fn description() -> ModelDescription {
        ModelDescription::from_config_json(CONFIG).unwrap()
    }

    /// Smooth in the logarithms of factors, and another bowl for each document.
    fn truth(factors: &[f64], document: usize) -> f64 {
        let bowl = |(pair, factor): (usize, &f64)| 0.1 * (factor.ln() - 0.2 * (pair + document) as f64).powi(2);
        2.0 + document as f64 + factors.iter().enumerate().map(bowl).sum::<f64>()
    }

    /// So many candidates, with their losses on three documents.
    pub fn tried(count: u32) -> Vec<Tried> {
        let one = |number| {
            let mut rng = stream(7, number, 0, Purpose::Initial);
            let factors: Vec<f64> = (0..4).map(|_| rng.random_range(1.0..3.0)).collect();
            let candidate = Candidate { factors: vec![0; 4], start_tokens: 0, attention: None, pair_attention: vec![] };
            let means = (0..3).map(|document| truth(&factors, document)).collect();
            Tried { generation: 0, candidate, rescale: Rescale::with_factors(factors), means }
        };
        (0..count).map(one).collect()
    }

    #[test]
    fn losses_are_foretold_between_what_was_recorded() {
        let description = description();
        let all = tried(220);
        let (recorded, others) = all.split_at(200);
        let landscape = Landscape::fit(recorded, &description).unwrap();
        let landscape = landscape.fit_again(recorded).unwrap();
        assert_eq!(landscape.documents(), 3);
        let off = |tried: &Tried| {
            let foretold = landscape.losses(std::slice::from_ref(&tried.rescale), &[0, 1, 2]);
            foretold[0].iter().zip(&tried.means).map(|(foretold, mean)| (foretold - mean).abs()).fold(0.0, f64::max)
        };
        // Candidates differ by 0.2 nats or so.
        let kept = recorded.iter().map(off).fold(0.0, f64::max);
        assert!(kept < 1e-2, "what was recorded is kept: {kept}");
        let mut errors: Vec<f64> = others.iter().map(off).collect();
        errors.sort_by(f64::total_cmp);
        assert!(errors[10] < 0.01, "{errors:?}");
        // What it says of itself is of that size too, for the mean of the three.
        let left_out = middle(&landscape.left_out());
        assert!(left_out > 1e-5 && left_out < 0.01, "{left_out}");
    }

    #[test]
    fn what_nothing_can_be_fitted_to_is_refused() {
        let description = description();
        let refused = |change: &dyn Fn(&mut Vec<Tried>)| {
            let mut all = tried(20);
            change(&mut all);
            Landscape::fit(&all, &description).unwrap_err().to_string()
        };
        assert!(refused(&|all| all.clear()).contains("all documents"));
        assert!(refused(&|all| all[3].means.truncate(2)).contains("all documents"), "one that was dropped");
        assert!(refused(&|all| all[3].means[1] = f64::INFINITY).contains("all documents"));
        assert!(refused(&|all| all[3].candidate.attention = Some(1000)).contains("attention factors"));
    }
}
