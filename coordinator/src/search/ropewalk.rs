//! Ropewalk's own search: first the curve, then its pairs.
//!
//! ```text
//! generation 0       the seeds: given factors, PI, NTK, YaRN
//! 6 generations      the curve: where YaRN's ramp begins and ends, how high and how bent it is (a pattern search)
//! 2 S generations    steps down the slope, where they are wanted (S is 0 unless told otherwise): the gradient at the
//!                    best candidate, then three steps of different length
//! T generations      N1 candidates drawn around the best ones, N2 crossovers of the best: the pairs one by one, the
//!                    starting tokens, the attention factor where it is searched
//! ```
//!
//! Most of what a search can gain over YaRN lies in a few numbers that all pairs share, foremost the pair from which
//! factors have to reach the extension ratio. A population that varies every pair for itself needs many hundreds of
//! evaluations to move that pair by two; the curve finds it in some thirty. What is left is local, and drawn with each
//! pair's own spread. Where given factors are better than YaRN, the search goes on from them without a curve, and
//! generations around the best stand in for it.

mod cloud;
mod curve;
mod pattern;
mod settings;
mod slope;

pub use settings::{RopewalkSettings, planned};

use super::archive::{Archive, Evaluated};
use super::crossover::crossover;
use super::evolution::InvalidSettings;
use super::history::{self, GenerationSummary};
use super::mutation::Mutation;
use super::outcome::Outcome;
use super::racing::{Race, RaceMemory};
use super::rng::{Purpose, stream};
use super::score::Score;
use super::strategy::{Ask, InvalidState, Slope, Strategy, StrategyState, TellError};
use super::walk::next_unseen;
use cloud::Cloud;
use pattern::Pattern;
use rand::RngExt;
use ropewalk_shared::candidate::Candidate;
use ropewalk_shared::job::JobSpec;
use ropewalk_shared::model_description::ModelDescription;
use ropewalk_shared::work::Measure;
use serde::{Deserialize, Serialize};
use settings::in_place_of_a_curve;

/// Draws for a slot before it is widened, and before the space is walked.
const TRIES: u32 = 20;
/// Every so many draws around the best, one is a mutation as in algorithm 1, so that the search never only contracts.
const EXPLORER: u32 = 4;

/// A running search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ropewalk {
    settings: RopewalkSettings,
    archive: Archive,
    history: Vec<GenerationSummary>,
    /// The open generation; empty when the search has finished.
    pending: Vec<Candidate>,
    /// Of the curves of the open generation, those that were not asked: their candidates had been.
    skipped: Vec<usize>,
    /// The search for the curve, while it goes on.
    pattern: Option<Pattern>,
    /// Whether the gradient of the one pending candidate is asked for.
    wants_slope: bool,
    /// Gradients asked and told.
    gradients: u64,
    /// Generations opened around the best.
    clouds: u32,
    duplicates_avoided: u32,
    /// What is known for the next race.
    #[serde(default)]
    memory: RaceMemory,
}

// === impl Ropewalk ===

impl Ropewalk {
    /// Starts a search.
    ///
    /// # Errors
    /// [`InvalidSettings`] names what is wrong with them.
    pub fn new(settings: RopewalkSettings) -> Result<Self, InvalidSettings> {
        settings.check()?;
        let mut archive = Archive::new(settings.common.options.parents as usize);
        let room = usize::try_from(settings.common.room(0, 0)).unwrap_or(usize::MAX);
        let pending: Vec<Candidate> = settings.common.seeds.iter().take(room).cloned().collect();
        for candidate in &pending {
            archive.admit(candidate);
        }
        Ok(Self {
            settings,
            archive,
            history: Vec::new(),
            pending,
            skipped: Vec::new(),
            pattern: None,
            wants_slope: false,
            gradients: 0,
            clouds: 0,
            duplicates_avoided: 0,
            memory: RaceMemory::default(),
        })
    }

    /// Starts the search that a job describes.
    ///
    /// # Errors
    /// [`InvalidSettings`], which a checked job never causes.
    pub fn of_job(job: &JobSpec, description: &ModelDescription) -> Result<Self, InvalidSettings> {
        let search = Self::new(RopewalkSettings::of_job(job, description))?;
        let memory = RaceMemory::of(&description.geometry, description.original_length);
        Ok(Self { memory, ..search })
    }

    pub(super) fn race_memory(&self) -> &RaceMemory {
        &self.memory
    }

    /// Evaluations that may still be asked.
    fn room(&self) -> usize {
        let common = &self.settings.common;
        let spent = self.document_passes(common.documents.samples.into());
        usize::try_from(common.room(self.passes_per_sample(), spent)).unwrap_or(usize::MAX)
    }

    /// Opens the next generation, or leaves nothing pending when the search ends here.
    fn open(&mut self) {
        (self.pending, self.skipped, self.duplicates_avoided) = (Vec::new(), Vec::new(), 0);
        self.wants_slope = false;
        if self.room() == 0 {
            return;
        }
        while let Some(pattern) = self.pattern.take_if(|pattern| !pattern.is_over()) {
            if self.open_curves(pattern) {
                return;
            }
        }
        self.pattern = None;
        if let Some(best) = self.archive.best()
            && self.gradients < u64::from(self.settings.slope_steps)
            && self.room() as u64 >= Measure::Gradient.cost()
        {
            // Its score is known; it is asked again for its slope.
            (self.pending, self.wants_slope) = (vec![best.candidate.clone()], true);
            return;
        }
        let stalled = self.clouds > 0 && GenerationSummary::stalled(&self.history, self.settings.common.patience);
        if self.clouds < self.settings.common.options.generations && !stalled {
            self.open_cloud();
            self.clouds += 1;
        }
    }

    /// Opens a generation of curves; false when every one of them had been asked, and the pattern was told so.
    fn open_curves(&mut self, mut pattern: Pattern) -> bool {
        let space = &self.settings.common.space;
        let start_tokens = self.archive.parents().first().map_or(0, |best| best.candidate.start_tokens);
        let room = self.room();
        let curves = pattern.curves(space);
        for (index, curve) in curves.iter().enumerate() {
            let candidate = curve.candidate(space, start_tokens);
            if self.pending.len() < room && self.archive.admit(&candidate) {
                self.pending.push(candidate);
            } else {
                self.skipped.push(index);
            }
        }
        if self.pending.is_empty() {
            pattern.tell(&vec![None; curves.len()], space);
            self.skipped.clear();
        }
        self.pattern = Some(pattern);
        !self.pending.is_empty()
    }

    /// Opens the steps along a slope; false when there is none to go.
    fn open_steps(&mut self, from: &Candidate, slope: &Slope) -> bool {
        let room = self.room();
        let steps = slope::steps(from, slope, &self.settings.angles, &self.settings.common.space);
        self.pending = steps.into_iter().filter(|step| self.archive.admit(step)).take(room).collect();
        !self.pending.is_empty()
    }

    fn open_cloud(&mut self) {
        let settings = &self.settings.common;
        let (space, options) = (&settings.space, &settings.options);
        let parents = self.archive.parents().to_vec();
        let Some(cloud) = Cloud::around(&parents, &self.settings.angles, self.clouds, space) else { return };
        let generation = self.history.len() as u32;
        let room = self.room();
        let explorer = Mutation::with_probability(options.mutation_probability);
        let slots = (0..options.mutations).map(|slot| (slot, Purpose::Mutation));
        let slots = slots.chain((0..options.crossovers).map(|slot| (slot, Purpose::Crossover)));
        for (slot, purpose) in slots.take(room) {
            let mut rng = stream(settings.seed, generation, slot, purpose);
            let mut found = None;
            for attempt in 0..2 * TRIES {
                let ranked = |rng: &mut _| &parents[RngExt::random_range(rng, 0..parents.len())].candidate;
                let child = match purpose {
                    // What was drawn before is drawn anew, in the end with every pair mutating.
                    _ if attempt >= TRIES => Mutation::with_probability(1.0).apply(space, ranked(&mut rng), &mut rng),
                    Purpose::Crossover if parents.len() > 1 => {
                        crossover(space, ranked(&mut rng), ranked(&mut rng), &mut rng)
                    }
                    _ if slot % EXPLORER == EXPLORER - 1 => explorer.apply(space, ranked(&mut rng), &mut rng),
                    _ => cloud.draw(&mut rng),
                };
                if self.archive.admit(&child) {
                    found = Some(child);
                    break;
                }
                self.duplicates_avoided += 1;
            }
            // Small spaces are searched to their last candidate.
            let found = found.or_else(|| {
                let next = next_unseen(space, &self.archive, &parents[0].candidate)?;
                self.archive.admit(&next).then_some(next)
            });
            self.pending.extend(found);
        }
    }

    fn check_told(&self, generation: u32, count: usize) -> Result<(), TellError> {
        TellError::check((generation, count), (self.generation(), self.pending.len()))
    }

    /// Closes the open generation, whose scores these are.
    fn close(&mut self, scores: &[Score], slopes: &[Option<Slope>], passes: u64) {
        let generation = self.generation();
        let summary = GenerationSummary::close(generation, scores, self.duplicates_avoided, self.history.last());
        let summary = summary.spending(passes);
        let asked = std::mem::take(&mut self.pending);
        let space = &self.settings.common.space;
        if std::mem::take(&mut self.wants_slope) {
            self.history.push(summary);
            self.gradients += 1;
            let slope = slopes.first().cloned().flatten();
            // Without a slope that can be followed the steps end here.
            if !slope.zip(asked.first()).is_some_and(|(slope, from)| self.open_steps(from, &slope)) {
                self.settings.slope_steps = 0;
                self.open();
            }
            return;
        }
        if let Some(pattern) = &mut self.pattern {
            let mut told = scores.iter();
            let count = scores.len() + self.skipped.len();
            let of_curves =
                (0..count).map(|index| if self.skipped.contains(&index) { None } else { told.next().copied() });
            pattern.tell(&of_curves.collect::<Vec<_>>(), space);
        } else if generation == 0 {
            let yarn = self.settings.start.candidate(space, space.nearest_start(0));
            let score = asked.iter().zip(scores).find(|(candidate, _)| **candidate == yarn).map(|(_, &score)| score);
            let is_best = |score: &Score| scores.iter().take(self.settings.given).all(|given| score <= given);
            let score = score.filter(|score| !score.is_failed() && is_best(score));
            self.pattern = score.map(|score| Pattern::around(self.settings.start, score, space));
            if self.pattern.is_none() {
                let options = &mut self.settings.common.options;
                options.generations = options.generations.saturating_add(in_place_of_a_curve(options));
            }
        }
        let evaluated = asked.into_iter().zip(scores);
        self.archive.absorb(evaluated.map(|(candidate, &score)| Evaluated { candidate, score }));
        self.history.push(summary);
        self.open();
    }

    /// Checks what was read from storage, so that a damaged state is an error and no panic.
    pub(super) fn check(&self) -> Result<(), InvalidState> {
        let common = &self.settings.common;
        self.settings.check()?;
        let known = self.archive.top().iter().map(|evaluated| &evaluated.candidate);
        for candidate in known.chain(&self.pending) {
            common.space.check(candidate)?;
        }
        let sound = self.pattern.as_ref().is_none_or(Pattern::is_sound)
            && (self.history.is_empty() || !self.archive.top().is_empty());
        if !self.memory.is_sound() {
            return Err(InvalidState::Losses);
        }
        if sound { Ok(()) } else { Err(InvalidState::NothingKnown) }
    }
}

impl Strategy for Ropewalk {
    fn ask(&self) -> Ask {
        if self.pending.is_empty() {
            return Ask::Finished;
        }
        Ask::Evaluate { generation: self.generation(), candidates: self.pending.clone() }
    }

    fn measure(&self) -> Measure {
        if self.wants_slope { Measure::Gradient } else { Measure::Loss }
    }

    fn tell(&mut self, generation: u32, scores: &[Score]) -> Result<(), TellError> {
        self.tell_slopes(generation, scores, &[])
    }

    fn tell_slopes(&mut self, generation: u32, scores: &[Score], slopes: &[Option<Slope>]) -> Result<(), TellError> {
        let each = self.measure().cost() * u64::from(self.settings.common.documents.samples);
        self.check_told(generation, scores.len())?;
        self.close(scores, slopes, scores.len() as u64 * each);
        Ok(())
    }

    fn tell_outcomes(&mut self, generation: u32, outcomes: &[Outcome]) -> Result<(), TellError> {
        self.check_told(generation, outcomes.len())?;
        // What is asked for its slope was evaluated before.
        if !self.wants_slope {
            let (documents, options) = (self.settings.common.documents, self.settings.common.options);
            self.memory.note_outcomes((&self.pending, outcomes), documents, options.parents as usize);
        }
        let scores: Vec<Score> = outcomes.iter().map(|outcome| outcome.score).collect();
        let slopes: Vec<Option<Slope>> = outcomes.iter().map(|outcome| outcome.slope.clone()).collect();
        self.close(&scores, &slopes, outcomes.iter().map(|outcome| outcome.passes).sum());
        Ok(())
    }

    fn race(&self) -> Option<Race> {
        // The values of a star say how far to go along a number, be they good or bad.
        if self.pattern.as_ref().is_some_and(Pattern::is_at_star) {
            return None;
        }
        let common = &self.settings.common;
        self.memory.race(common.documents.racing, common.options.parents as usize, &self.pending)
    }

    fn certain_work(&self) -> Vec<Candidate> {
        // The first star stands around YaRN's curve, if no given factors can stand in for it.
        if !self.history.is_empty() || self.settings.given > 0 {
            return Vec::new();
        }
        let mut then = self.clone();
        let scores = vec![Score::new(1.0); self.pending.len()];
        let is_star = then.tell(0, &scores).is_ok() && then.pattern.as_ref().is_some_and(Pattern::is_at_star);
        if is_star { then.pending } else { Vec::new() }
    }

    fn why_finished(&self) -> Option<String> {
        let common = &self.settings.common;
        let spent = (self.passes_per_sample(), self.document_passes(common.documents.samples.into()));
        let stalled = GenerationSummary::stalled(&self.history, common.patience);
        // The curve before them has no number of generations that it must reach, and ends first.
        let planned = if self.pattern.is_some() { u32::MAX } else { common.options.generations };
        let generations = (self.clouds, planned);
        self.pending.is_empty().then(|| common.why_finished(generations, spent, stalled))
    }

    fn document_passes(&self, samples: u64) -> u64 {
        history::document_passes(&self.history).unwrap_or_else(|| self.passes_per_sample().saturating_mul(samples))
    }

    fn passes_per_sample(&self) -> u64 {
        self.evaluations() + self.gradients * (Measure::Gradient.cost() - 1)
    }

    fn best(&self) -> Option<(&Candidate, Score)> {
        self.archive.best().map(|best| (&best.candidate, best.score))
    }

    fn history(&self) -> &[GenerationSummary] {
        &self.history
    }

    fn snapshot(&self) -> StrategyState {
        StrategyState::RopewalkV2(Box::new(self.clone()))
    }
}
