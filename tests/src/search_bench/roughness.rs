//! What a landscape leaves out: losses of the model that change from one candidate to the next as no process foretells.
//!
//! A landscape is the smoothest of what the losses can be between recorded candidates, and races foretell on it more than they do
//! on the model. So each candidate of a search gets noise of its own: what the landscape is off by on each document where
//! one of the recorded candidates is left out, drawn from all but the worst tenth of them, with either sign and times
//! a share. Mostly the landscape is off by little and sometimes by much, which races feel otherwise than noise that is always
//! of one size.
//! Candidate and number of the search decide what is drawn: whoever asks again is told the same.

use super::landscape::Landscape;
use nalgebra::DMatrix;
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;
use ropewalk_shared::rope::Rescale;

/// Share of the recorded candidates that are drawn from. The others have no like among those recorded, as candidates of a search
/// have.
const USUAL: f64 = 0.9;

/// A landscape with noise for each candidate and document.
#[derive(Clone, Debug)]
pub struct Rough<'a> {
    landscape: &'a Landscape,
    /// Rows that are drawn from, one column a document; none without noise.
    noise: DMatrix<f64>,
}

// === impl Rough ===

impl<'a> Rough<'a> {
    /// The landscape as it is.
    pub fn smooth(landscape: &'a Landscape) -> Self {
        Self { landscape, noise: DMatrix::zeros(0, landscape.documents()) }
    }

    /// One with noise of a share of what the landscape is off by, given row by row ([`Landscape::left_out`]).
    pub fn with(landscape: &'a Landscape, left_out: &DMatrix<f64>, share: f64) -> Self {
        let mut order: Vec<usize> = (0..left_out.nrows()).collect();
        let size = |row: usize| left_out.row(row).norm_squared();
        order.sort_by(|&a, &b| size(a).total_cmp(&size(b)));
        order.truncate((USUAL * order.len() as f64).ceil() as usize);
        Self { landscape, noise: left_out.select_rows(&order) * share }
    }

    /// Number of documents.
    pub fn documents(&self) -> usize {
        self.landscape.documents()
    }

    /// Mean losses in nats in the search of a number: of each candidate, on each of `documents`.
    pub fn losses(&self, search: usize, candidates: &[Rescale], documents: &[usize]) -> Vec<Vec<f64>> {
        let mut losses = self.landscape.losses(candidates, documents);
        if self.noise.is_empty() {
            return losses;
        }
        for (losses, candidate) in losses.iter_mut().zip(candidates) {
            let mut rng = stream(search, candidate);
            let noise = self.noise.row(rng.random_range(0..self.noise.nrows()));
            let sign = if rng.random_bool(0.5) { 1.0 } else { -1.0 };
            losses.iter_mut().zip(documents).for_each(|(loss, &document)| *loss += sign * noise[document]);
        }
        losses
    }
}

/// The random numbers of a candidate in the search of a number.
fn stream(search: usize, candidate: &Rescale) -> ChaCha8Rng {
    let mut hash = blake3::Hasher::new_derive_key("ropewalk noise of a landscape v1");
    hash.update(&(search as u64).to_le_bytes());
    hash.update(&candidate.start_tokens.to_le_bytes());
    for factor in &candidate.factors {
        hash.update(&factor.to_le_bytes());
    }
    ChaCha8Rng::from_seed(*hash.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::landscape::tests::{description, tried};

    /// Two documents that are off together, and one that is off alone; of one candidate in twenty, by far more.
    fn left_out() -> DMatrix<f64> {
        let rows = [[0.3, 0.3, 0.0], [0.1, -0.1, 0.0], [0.0, 0.0, 0.2]];
        DMatrix::from_fn(400, 3, |row, document| if row % 20 == 7 { 100.0 } else { rows[row % 20 % 3][document] })
    }

    fn noise(rough: &Rough<'_>, search: usize, at: &Rescale) -> Vec<f64> {
        let all = [0, 1, 2];
        let smooth = Rough::smooth(rough.landscape).losses(search, std::slice::from_ref(at), &all);
        let losses = rough.losses(search, std::slice::from_ref(at), &all);
        losses[0].iter().zip(&smooth[0]).map(|(rough, smooth)| rough - smooth).collect()
    }

    #[test]
    fn noise_is_a_share_of_what_was_left_out() {
        let landscape = Landscape::fit(&tried(40), &description()).unwrap();
        let rough = Rough::with(&landscape, &left_out(), 0.5);
        let at = tried(1).remove(0).rescale;
        let mut seen = [[0u32; 2]; 3];
        for search in 0..3000 {
            let noise = noise(&rough, search, &at);
            let is = |of: [f64; 3], sign: f64| noise.iter().zip(of).all(|(noise, of)| (noise - sign * of).abs() < 1e-9);
            let kinds = [[0.15, 0.15, 0.0], [0.05, -0.05, 0.0], [0.0, 0.0, 0.1]];
            let found = (0..3)
                .flat_map(|kind| [(kind, 0, 1.0), (kind, 1, -1.0)])
                .find(|&(kind, _, sign)| is(kinds[kind], sign));
            let (kind, sign, _) = found.unwrap_or_else(|| panic!("{noise:?} is none of what was left out"));
            seen[kind][sign] += 1;
        }
        // Of 20 rows, 7, 6 and 6 are of each kind, and one is left out: it is among the worst tenth, with another.
        assert!(seen.iter().flatten().all(|&count| (350..650).contains(&count)), "{seen:?}");
    }

    #[test]
    fn the_same_candidate_has_the_same_noise_in_the_same_search() {
        let landscape = Landscape::fit(&tried(40), &description()).unwrap();
        let landscape = &landscape;
        // No two rows alike.
        let rough =
            Rough::with(landscape, &DMatrix::from_fn(400, 3, |row, document| 0.1 + (row + document) as f64 / 1e3), 1.0);
        let all: Vec<Rescale> = tried(3).into_iter().map(|tried| tried.rescale).collect();
        let told = rough.losses(7, &all, &[0, 1, 2]);
        // Whoever asks about some documents of some candidates in another order.
        let again = rough.losses(7, &[all[2].clone(), all[0].clone()], &[2, 0]);
        assert_eq!(again, [vec![told[2][2], told[2][0]], vec![told[0][2], told[0][0]]]);
        let noises =
            [(7, 0), (7, 1), (8, 0), (8, 1)].map(|(search, candidate)| noise(&rough, search, &all[candidate])[0]);
        for (place, noise) in noises.iter().enumerate() {
            assert!(noises[..place].iter().all(|other| (other - noise).abs() > 1e-6), "{noises:?}");
        }
    }

    #[test]
    fn without_a_share_it_is_smooth() {
        let landscape = Landscape::fit(&tried(40), &description()).unwrap();
        let at = tried(1).remove(0).rescale;
        assert_eq!(noise(&Rough::with(&landscape, &left_out(), 0.0), 3, &at), [0.0; 3]);
    }
}
