//! Launching searches.

use super::core::{Core, Launched};
use super::error::EngineError;
use super::job::ActiveJob;
use super::jobs::Job;
use super::objective;
use super::planned::{planned_evaluations, planned_generations};
use super::time::Now;
use crate::search::racing::WINDOW;
use crate::store::MAX_RECORD_BYTES;
use ropewalk_shared::job::JobSpec;
use ropewalk_shared::sample::{SampleId, SampleShape};
use std::collections::HashMap;

/// Most units of one stage. A unit waiting takes about a hundred bytes of memory.
const MAX_UNITS: u64 = 1_000_000;

// === impl Core ===

impl Core {
    /// Starts a job, or finds the one that was started with the same specification. One that was cancelled or has
    /// failed goes on from where it stood; one that is done stays done.
    ///
    /// # Errors
    /// [`EngineError`] with everything that is wrong with the specification, or samples that are missing or short.
    pub fn launch(&mut self, spec: JobSpec, now: Now) -> Result<Launched, EngineError> {
        let description = spec.check()?;
        let id = spec.id();
        if self.jobs.contains_key(&id) {
            self.relaunch(&id, now)?;
            return Ok(Launched { job: id, created: false });
        }
        spec.check_sense()?;
        check_size(&spec)?;
        check_state(&spec, description.geometry.pairs())?;
        let sample_shapes = self.sample_shapes(&spec)?;
        objective::check(&spec, &sample_shapes)?;
        let mut job = ActiveJob::begin(spec, description, sample_shapes, now)?;
        let launched = self.desk.launch(&mut job, now);
        self.or_broken(launched)?;
        tracing::info!(job = %id, "launched");
        self.jobs.insert(id.clone(), Job::of(job));
        Ok(Launched { job: id, created: true })
    }

    fn sample_shapes(&self, spec: &JobSpec) -> Result<HashMap<SampleId, SampleShape>, EngineError> {
        let mut shapes = HashMap::new();
        let mut missing = Vec::new();
        let long = spec.samples.iter().chain(&spec.held_out).map(|sample| (*sample, spec.target_length));
        let windows = spec.search.keep_short.iter();
        let short = windows
            .flat_map(|window| window.samples.iter().chain(&window.held_out).map(|sample| (*sample, window.length)));
        for (sample, target_length) in long.chain(short) {
            match self.desk.store.sample_shape(sample)? {
                None => missing.push(sample),
                Some(SampleShape { tokens, .. }) if tokens < target_length => {
                    let tokens = tokens as usize;
                    return Err(EngineError::ShortSample { sample, tokens, target_length });
                }
                Some(shape) => {
                    shapes.insert(sample, shape);
                }
            }
        }
        match missing.first() {
            Some(&first) => Err(EngineError::MissingSamples { missing: missing.len(), first }),
            None => Ok(shapes),
        }
    }
}

fn check_size(spec: &JobSpec) -> Result<(), EngineError> {
    let candidates = largest_generation(spec);
    let samples = spec.judged_samples().count() as u64;
    if candidates.saturating_mul(samples) <= MAX_UNITS {
        return Ok(());
    }
    Err(EngineError::TooManyUnits { candidates, samples, most: MAX_UNITS })
}

/// What could be stored once and never read again is not begun.
fn check_state(spec: &JobSpec, pairs: usize) -> Result<(), EngineError> {
    let bytes = most_state_bytes(spec, pairs);
    if bytes <= MAX_RECORD_BYTES { Ok(()) } else { Err(EngineError::TooMuchState { bytes, most: MAX_RECORD_BYTES }) }
}

/// What the state of a search takes at most, in bytes of JSON. It is written as a whole, and nothing of a job is larger.
pub(super) fn most_state_bytes(spec: &JobSpec, pairs: usize) -> u64 {
    let (search, samples) = (&spec.search, spec.samples.len() as u64);
    // Two numbers of up to ten digits for each pair, and their names.
    let candidate = 22 * pairs as u64 + 200;
    let parents = u64::from(search.evolution.parents).min(planned_evaluations(spec));
    let seeds = search.first_generation().max(4 + search.init.len() as u64);
    let candidates = seeds + largest_generation(spec) + parents;
    // Those raced against are kept with their losses, up to 25 digits each.
    let raced = if search.racing.is_off() { 0 } else { WINDOW as u64 + parents };
    let lists = candidates.saturating_mul(candidate) + raced.saturating_mul(candidate + 100 + 50 * samples);
    // A digest of each candidate that was asked, a summary of each generation, and the angles of the pairs.
    let asked = planned_evaluations(spec).saturating_mul(36);
    let history = u64::from(planned_generations(spec)).saturating_mul(500);
    let one = lists.saturating_add(asked).saturating_add(history).saturating_add(26 * pairs as u64);
    // The search for attention factors of pairs goes on from the state of the other, which is kept.
    if search.pair_attention > 0 { one.saturating_mul(2) } else { one }
}

fn largest_generation(spec: &JobSpec) -> u64 {
    let evolution = &spec.search.evolution;
    let generation = u64::from(evolution.mutations) + u64::from(evolution.crossovers);
    generation.max(spec.search.first_generation()).min(planned_evaluations(spec))
}
