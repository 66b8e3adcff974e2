//! The paper's evolutionary search (LongRoPE, algorithm 1).
//!
//! ```text
//! P0  = seeds, and mutations of them up to P candidates
//! T times:  evaluate what is new; the k best of everything evaluated are parents;
//!           N1 mutations of parents and N2 crossovers of parents, all under the constraint, are the next population
//! result = the best of everything evaluated
//! ```
//!
//! With the paper's parameters that is 64 + 40 * 32 = 1,344 evaluations. A candidate is asked once in a search, never
//! again. Where the operators keep drawing what was asked before, they are widened, and where even that fails the
//! space is walked, so that a small space is searched to its last candidate and then the search ends.

mod breed;
mod settings;

pub use settings::{DocumentOptions, EvolutionSettings, InvalidSettings};

use super::archive::{Archive, Evaluated};
use super::history::{self, GenerationSummary};
use super::outcome::Outcome;
use super::racing::{Race, RaceMemory};
use super::score::Score;
use super::strategy::{Ask, InvalidState, Strategy, StrategyState, TellError};
use ropewalk_shared::candidate::Candidate;
use ropewalk_shared::job::JobSpec;
use ropewalk_shared::model_description::ModelDescription;
use serde::{Deserialize, Serialize};

/// A running search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evolution {
    settings: EvolutionSettings,
    archive: Archive,
    history: Vec<GenerationSummary>,
    /// The open generation; empty when the search has finished.
    pending: Vec<Candidate>,
    /// Candidates thrown away while the open generation was bred.
    duplicates_avoided: u32,
    /// What is known for the next race.
    #[serde(default)]
    memory: RaceMemory,
}

// === impl Evolution ===

impl Evolution {
    /// Starts a search.
    ///
    /// # Errors
    /// [`InvalidSettings`] names what is wrong with them.
    pub fn new(settings: EvolutionSettings) -> Result<Self, InvalidSettings> {
        settings.check()?;
        let archive = Archive::new(settings.options.parents as usize);
        let mut search = Self {
            settings,
            archive,
            history: Vec::new(),
            pending: Vec::new(),
            duplicates_avoided: 0,
            memory: RaceMemory::default(),
        };
        search.open();
        Ok(search)
    }

    /// Starts the search that a job describes.
    ///
    /// # Errors
    /// [`InvalidSettings`], which a checked job never causes.
    pub fn of_job(job: &JobSpec, description: &ModelDescription) -> Result<Self, InvalidSettings> {
        let search = Self::new(EvolutionSettings::of_job(job, description))?;
        Ok(search.racing_with(RaceMemory::of(&description.geometry, description.original_length)))
    }

    /// The search with what is known for its first race.
    pub fn racing_with(self, memory: RaceMemory) -> Self {
        Self { memory, ..self }
    }

    /// Its settings.
    pub fn settings(&self) -> &EvolutionSettings {
        &self.settings
    }

    pub(super) fn race_memory(&self) -> &RaceMemory {
        &self.memory
    }

    /// Breeds the next generation, or leaves nothing pending when the search ends here.
    fn open(&mut self) {
        (self.pending, self.duplicates_avoided) = (Vec::new(), 0);
        if self.history.len() > self.settings.options.generations as usize
            || GenerationSummary::stalled(&self.history, self.settings.patience)
        {
            return;
        }
        let spent = self.document_passes(self.settings.documents.samples.into());
        let room = usize::try_from(self.settings.room(self.evaluations(), spent)).unwrap_or(usize::MAX);
        let brood = breed::generation(&self.settings, &mut self.archive, self.history.len() as u32, room);
        (self.pending, self.duplicates_avoided) = (brood.candidates, brood.duplicates_avoided);
    }

    /// Closes the open generation.
    fn close(&mut self, generation: u32, scores: &[Score], passes: u64) -> Result<(), TellError> {
        let (open, expected) = (self.generation(), self.pending.len());
        TellError::check((generation, scores.len()), (open, expected))?;
        let summary = GenerationSummary::close(generation, scores, self.duplicates_avoided, self.history.last());
        let evaluated = std::mem::take(&mut self.pending).into_iter().zip(scores);
        self.archive.absorb(evaluated.map(|(candidate, &score)| Evaluated { candidate, score }));
        self.history.push(summary.spending(passes));
        self.open();
        Ok(())
    }

    /// Checks what was read from storage, so that a damaged state is an error and no panic.
    pub(super) fn check(&self) -> Result<(), InvalidState> {
        self.settings.check()?;
        if !self.history.is_empty() && self.archive.top().is_empty() {
            return Err(InvalidState::NothingKnown);
        }
        if !self.memory.is_sound() {
            return Err(InvalidState::Losses);
        }
        let known = self.archive.top().iter().map(|evaluated| &evaluated.candidate);
        for candidate in known.chain(&self.pending) {
            self.settings.space.check(candidate)?;
        }
        Ok(())
    }
}

impl Strategy for Evolution {
    fn ask(&self) -> Ask {
        if self.pending.is_empty() {
            return Ask::Finished;
        }
        Ask::Evaluate { generation: self.generation(), candidates: self.pending.clone() }
    }

    fn tell(&mut self, generation: u32, scores: &[Score]) -> Result<(), TellError> {
        let passes = scores.len() as u64 * u64::from(self.settings.documents.samples);
        self.close(generation, scores, passes)
    }

    fn tell_outcomes(&mut self, generation: u32, outcomes: &[Outcome]) -> Result<(), TellError> {
        let scores: Vec<Score> = outcomes.iter().map(|outcome| outcome.score).collect();
        TellError::check((generation, scores.len()), (self.generation(), self.pending.len()))?;
        let parents = self.settings.options.parents as usize;
        self.memory.note_outcomes((&self.pending, outcomes), self.settings.documents, parents);
        self.close(generation, &scores, outcomes.iter().map(|outcome| outcome.passes).sum())
    }

    fn race(&self) -> Option<Race> {
        self.memory.race(self.settings.documents.racing, self.settings.options.parents as usize, &self.pending)
    }

    fn why_finished(&self) -> Option<String> {
        let generations = ((self.history.len() as u32).saturating_sub(1), self.settings.options.generations);
        let spent = (self.evaluations(), self.document_passes(self.settings.documents.samples.into()));
        let stalled = GenerationSummary::stalled(&self.history, self.settings.patience);
        self.pending.is_empty().then(|| self.settings.why_finished(generations, spent, stalled))
    }

    fn document_passes(&self, samples: u64) -> u64 {
        history::document_passes(&self.history).unwrap_or_else(|| self.evaluations().saturating_mul(samples))
    }

    fn best(&self) -> Option<(&Candidate, Score)> {
        self.archive.best().map(|best| (&best.candidate, best.score))
    }

    fn history(&self) -> &[GenerationSummary] {
        &self.history
    }

    fn snapshot(&self) -> StrategyState {
        StrategyState::EvolutionV1(Box::new(self.clone()))
    }
}
