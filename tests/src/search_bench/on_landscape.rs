//! Searches on a landscape.

use super::course::{Tried, mean};
use super::roughness::Rough;
use anyhow::{Context as _, Result};
use rand::seq::SliceRandom as _;
use rayon::iter::{IntoParallelIterator as _, ParallelIterator as _};
use ropewalk_coordinator::search::rng::{Purpose, stream};
use ropewalk_coordinator::search::{Ask, Outcome, strategy};
use ropewalk_shared::candidate::Candidate;
use ropewalk_shared::job::JobSpec;
use ropewalk_shared::model_description::ModelDescription;
use ropewalk_shared::racing::Racing;
use ropewalk_shared::rope::Rescale;
use std::io::Write as _;
use std::ops::Range;

/// Where a search ended.
pub struct End {
    /// Document passes.
    pub passes: f64,
    /// Mean loss on the documents searched, in nats.
    pub searched: f64,
    /// On the others.
    pub held_out: f64,
    /// The winner, in points of the grid.
    pub candidate: Candidate,
    /// The winner.
    pub best: Rescale,
}

/// What comes of numbers, in their order; all cores take part.
pub fn side_by_side<T: Send>(numbers: Range<usize>, of: impl Fn(usize) -> Result<T> + Send + Sync) -> Result<Vec<T>> {
    numbers.into_par_iter().map(of).collect()
}

/// Tells how far it is.
pub fn progress(what: &str) {
    // Nobody need be reading.
    let _ = writeln!(std::io::stderr(), "landscape: {what}");
}

/// The documents of a search: all, in the order of its number. It searches the first of them, as many as its job has samples.
pub fn documents(of: usize, number: usize) -> Vec<usize> {
    let mut documents: Vec<usize> = (0..of).collect();
    documents.shuffle(&mut stream(number as u64, 0, 0, Purpose::Initial));
    documents
}

/// Runs the job with the random numbers and the documents of a number; `note` is told every candidate with its losses on the
/// documents searched, dropped or not.
///
/// # Errors
/// When the job cannot be run.
pub fn search(
    landscape: &Rough<'_>,
    (job, description): (&JobSpec, &ModelDescription),
    racing: Racing,
    number: usize,
    mut note: impl FnMut(Tried),
) -> Result<End> {
    let mut job = job.clone();
    (job.search.racing, job.search.seed) = (racing, number as u64);
    let documents = documents(landscape.documents(), number);
    let (searched, held_out) = documents.split_at(job.samples.len());
    let (grid, attention) = (job.search.grid, job.attention_factor(description));
    let mut strategy = strategy::begin(&job, description)?;
    let mut passes = 0;
    while let Ask::Evaluate { generation, candidates } = strategy.ask() {
        let race = strategy.race();
        let rescales: Vec<Rescale> = candidates.iter().map(|candidate| candidate.rescale(grid, attention)).collect();
        let losses = landscape.losses(number, &rescales, searched);
        let outcome = |(slot, losses): (usize, &Vec<f64>)| Outcome::of_known(race.as_ref(), slot, losses);
        let outcomes: Vec<Outcome> = losses.iter().enumerate().map(outcome).collect();
        passes += outcomes.iter().map(|outcome| outcome.passes).sum::<u64>();
        strategy.tell_outcomes(generation, &outcomes)?;
        for ((candidate, rescale), means) in candidates.into_iter().zip(rescales).zip(losses) {
            note(Tried { generation, candidate, rescale, means });
        }
    }
    let (candidate, _) = strategy.best().context("nothing was evaluated")?;
    let best = candidate.rescale(grid, attention);
    let at = |of: &[usize]| mean(&landscape.losses(number, std::slice::from_ref(&best), of)[0]);
    let (searched, held_out) = (at(searched), at(held_out));
    Ok(End { passes: passes as f64, searched, held_out, candidate: candidate.clone(), best })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_side_by_side_comes_in_order() {
        assert_eq!(side_by_side(3..10, |number| Ok(number * number)).unwrap(), [9, 16, 25, 36, 49, 64, 81]);
        let failed = side_by_side(0..4, |number| if number == 2 { anyhow::bail!("two") } else { Ok(()) });
        assert_eq!(failed.unwrap_err().to_string(), "two");
    }

    #[test]
    fn every_search_has_documents_of_its_own() {
        let (one, other) = (documents(15, 1), documents(15, 2));
        assert_ne!(one, other);
        assert_eq!(one, documents(15, 1));
        let mut all = one;
        all.sort_unstable();
        assert_eq!(all, (0..15).collect::<Vec<_>>());
    }
}
