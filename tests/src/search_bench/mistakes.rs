//! How rough a landscape has to be for races to err on it as much as on the model.

use super::course::{Tried, mean};
use super::landscape::Landscape;
use super::on_landscape::{documents, progress, search, side_by_side};
use super::replay::{Replay, replay};
use super::roughness::Rough;
use anyhow::{Context as _, Result};
use nalgebra::DMatrix;
use ropewalk_coordinator::search::RaceMemory;
use ropewalk_shared::job::JobSpec;
use ropewalk_shared::model_description::ModelDescription;
use ropewalk_shared::racing::Racing;
use serde::Serialize;

/// Replays of the record and of searches on the landscape that are compared.
const REPLAYS: usize = 60;
/// Their numbers, apart from those of pairs.
const FIRST: usize = 1 << 21;
/// Halvings of the interval of shares.
const HALVINGS: usize = 6;
/// Most noise, as a share of what the landscape misses.
const MOST: f64 = 1.0;

/// Of fast races that are replayed, in the mean.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Mistakes {
    /// Share of the document passes saved.
    pub saved: f64,
    /// Share of the parents that would not have been parents with everything evaluated.
    pub other_parents: f64,
    /// By how much the average of the parents lies too high, in per cent of perplexity.
    pub parents_higher: f64,
}

impl Mistakes {
    /// Those of races replayed on candidates that were evaluated on all documents: those of each number.
    fn of(
        (job, description): (&JobSpec, &ModelDescription),
        candidates: impl Fn(usize) -> Result<Vec<Tried>> + Send + Sync,
    ) -> Result<Self> {
        let parents = job.search.evolution.parents as usize;
        let replays = side_by_side(FIRST..FIRST + REPLAYS, |number| {
            let memory = RaceMemory::of(&description.geometry, description.original_length);
            let replay = replay(&candidates(number)?, Racing::Fast, parents, memory);
            replay.context("nobody could be dropped in what was recorded")
        })?;
        let over = |of: fn(&Replay) -> f64| mean(&replays.iter().map(of).collect::<Vec<_>>());
        Ok(Self {
            saved: over(|replay| replay.saved),
            other_parents: over(|replay| replay.other_parents),
            parents_higher: over(|replay| replay.parents_higher),
        })
    }

    /// Those on a record, each time on other documents, as many as the job has samples.
    ///
    /// # Errors
    /// When nobody could have been dropped.
    pub fn on_record(recorded: &[Tried], job: (&JobSpec, &ModelDescription)) -> Result<Self> {
        let of = recorded.first().map_or(0, |first| first.means.len());
        Self::of(job, |number| {
            let drawn = &documents(of, number)[..job.0.samples.len()];
            let on_drawn =
                |tried: &Tried| Tried { means: drawn.iter().map(|&one| tried.means[one]).collect(), ..tried.clone() };
            Ok(recorded.iter().map(on_drawn).collect())
        })
    }

    /// Those on searches on a landscape in which nothing was dropped.
    fn on_landscape(landscape: &Rough<'_>, job: (&JobSpec, &ModelDescription)) -> Result<Self> {
        Self::of(job, |number| {
            let mut all = Vec::new();
            search(landscape, job, Racing::Off, number, |tried| all.push(tried))?;
            Ok(all)
        })
    }
}

/// A landscape with as much noise as makes the parents of fast races lie as much too high as on the record
/// ([`Mistakes::on_record`]), but no more than the landscape misses where a candidate is left out (`left_out`). Also the
/// noise as a share of that, and the mistakes.
///
/// # Errors
/// When the job cannot be run.
pub fn as_rough<'a>(
    landscape: &'a Landscape,
    left_out: &DMatrix<f64>,
    recorded: Mistakes,
    job: (&JobSpec, &ModelDescription),
) -> Result<(Rough<'a>, f64, Mistakes)> {
    let with = |share: f64| -> Result<(Rough<'a>, f64, Mistakes)> {
        let rough = Rough::with(landscape, left_out, share);
        let mistakes = Mistakes::on_landscape(&rough, job)?;
        let [here, there] = [mistakes, recorded].map(|mistakes| mistakes.parents_higher);
        progress(&format!("with noise of {share:.3}, parents lie {here:.4} % too high, {there:.4} % on the record"));
        Ok((rough, share, mistakes))
    };
    halved(MOST, HALVINGS, with, |(_, _, mistakes)| mistakes.parents_higher < recorded.parents_higher)
}

/// What comes of the number from 0 to `most` at which what comes of it stops being too little, nearly.
fn halved<T>(
    most: f64,
    halvings: usize,
    mut of: impl FnMut(f64) -> Result<T>,
    is_too_little: impl Fn(&T) -> bool,
) -> Result<T> {
    let mut found = of(0.0)?;
    if !is_too_little(&found) {
        return Ok(found);
    }
    let (mut low, mut high) = (0.0, most);
    for _ in 0..halvings {
        let middle = f64::midpoint(low, high);
        found = of(middle)?;
        *(if is_too_little(&found) { &mut low } else { &mut high }) = middle;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::landscape::tests::{CONFIG, description, tried};
    use ropewalk_shared::fingerprint::Fingerprint;
    use ropewalk_shared::job::{ModelIdentity, SearchOptions};
    use ropewalk_shared::sample::SampleId;

    /// A short search on two of the three documents.
    fn job() -> JobSpec {
        let mut search = SearchOptions::default();
        search.evolution.generations = 12;
        JobSpec {
            name: "landscape".into(),
            model: ModelIdentity {
                name: "model".into(),
                fingerprint: Fingerprint::from([7; 32]),
                config_json: CONFIG.to_owned(),
            },
            target_length: 1024,
            search,
            samples: [1, 2].map(|number| SampleId::from([number; 32])).to_vec(),
            held_out: vec![SampleId::from([3; 32])],
        }
    }

    /// What was recorded on a landscape that is rough to a known share is found to be about as rough.
    #[test]
    fn a_landscape_becomes_as_rough_as_the_record() {
        let (job, description) = (job(), description());
        let landscape = Landscape::fit(&tried(60), &description).unwrap();
        // Documents err apart: what one tells says nothing of the other.
        let left_out = DMatrix::from_fn(300, 3, |row, document| if row % 3 == document { 0.2 } else { 0.0 });
        let record = |share: f64| {
            let mut all = Vec::new();
            let rough = Rough::with(&landscape, &left_out, share);
            search(&rough, (&job, &description), Racing::Off, 5, |tried| all.push(tried)).unwrap();
            Mistakes::on_record(&all, (&job, &description)).unwrap()
        };
        let (little, much) = (record(0.01), record(0.4));
        assert!(little.parents_higher < much.parents_higher, "{little:?} {much:?}");
        let found = |recorded| as_rough(&landscape, &left_out, recorded, (&job, &description)).unwrap();
        let ((_, of_little, _), (_, of_much, mistakes)) = (found(little), found(much));
        assert!(of_little < 0.1 && (0.2..0.8).contains(&of_much), "{of_little} {of_much}");
        let ratio = mistakes.parents_higher / much.parents_higher;
        assert!((0.8..1.25).contains(&ratio), "{mistakes:?} {much:?}");
    }
    #[test]
    fn a_number_is_found_by_halves() {
        let found = halved(1.0, 10, |number| Ok((number, number * number)), |(_, square)| *square < 0.25).unwrap();
        assert!((found.0 - 0.5).abs() < 2e-3, "{found:?}");
        let least = halved(1.0, 10, Ok, |_| false).unwrap();
        assert_eq!(least, 0.0, "none is needed");
        let most = halved(1.0, 10, Ok, |_| true).unwrap();
        assert!((0.99..=1.0).contains(&most), "{most}");
        assert!(
            halved(1.0, 3, |number| if number > 0.6 { anyhow::bail!("too far") } else { Ok(number) }, |_| true)
                .is_err()
        );
    }
}
