//! Attention factors of single pairs, after another search has found the factors.
//!
//! ```text
//! all generations of the other search
//! rounds of a star and its combinations, over the numbers of a profile: 2 of them, then 4, 8, …
//! ```
//!
//! The factors and starting tokens of the best candidate stay; what is searched is by how much each pair's cosine and sine
//! are multiplied. The profile is smooth at first and becomes finer as long as that pays: where a level gained less than
//! 0.02 %, the next is not opened. Where the other search varied the attention factor, it goes on varying with the
//! profile, which itself has the geometric mean 1.
//!
//! A share of the evaluations is set aside for it: limits on evaluations or passes end the other search earlier by as much.

mod profile;
mod settings;
mod shaping;

pub use profile::{BOUNDS, Profile};
pub use settings::{PairAttentionSettings, planned_generations};

use super::evolution::InvalidSettings;
use super::history::{self, GenerationSummary};
use super::outcome::Outcome;
use super::racing::Race;
use super::score::Score;
use super::strategy::{self, Ask, InvalidState, Slope, Strategy, StrategyState, TellError};
use ropewalk_shared::candidate::Candidate;
use ropewalk_shared::job::JobSpec;
use ropewalk_shared::model_description::ModelDescription;
use ropewalk_shared::work::Measure;
use serde::{Deserialize, Serialize};
use shaping::Shaping;

/// A running search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairAttention {
    settings: PairAttentionSettings,
    /// The search for the factors.
    factors: StrategyState,
    /// What follows it; absent while it goes on.
    shaping: Option<Shaping>,
}

// === impl PairAttention ===

impl PairAttention {
    /// Puts a search for profiles behind one for factors, which has just begun.
    ///
    /// # Errors
    /// [`InvalidSettings`] where nothing could be asked.
    pub fn after(factors: StrategyState, settings: PairAttentionSettings) -> Result<Self, InvalidSettings> {
        settings.check()?;
        Ok(Self { settings, factors, shaping: None })
    }

    /// Starts the search that a job describes.
    ///
    /// # Errors
    /// [`InvalidSettings`], which a checked job never causes.
    pub fn of_job(job: &JobSpec, description: &ModelDescription) -> Result<Self, InvalidSettings> {
        let factors = strategy::begin(&settings::job_of_factors(job), description)?.snapshot();
        Self::after(factors, PairAttentionSettings::of_job(job, description))
    }

    /// The search for the factors.
    fn factors(&self) -> &dyn Strategy {
        self.factors.as_strategy()
    }

    /// Begins with the profiles where the search for the factors has ended and found something.
    fn follow(&mut self) {
        let factors = self.factors();
        if self.shaping.is_some() || factors.ask() != Ask::Finished {
            return;
        }
        let Some((best, score)) = factors.best() else { return };
        let memory = self.factors.race_memory().cloned().unwrap_or_default();
        let mut shaping = Shaping::around(best, score, factors.history().to_vec(), memory);
        self.open(&mut shaping);
        self.shaping = Some(shaping);
    }

    /// Opens the next generation of profiles, or leaves nothing pending when the search ends here.
    fn open(&self, shaping: &mut Shaping) {
        (shaping.pending, shaping.skipped) = (Vec::new(), Vec::new());
        loop {
            let evaluations = self.spent(shaping);
            let passes = document_passes(&shaping.history, evaluations, self.settings.documents.samples);
            let room = self.settings.room(shaping.asked, evaluations, passes);
            if room == 0 || !shaping.is_at_work() {
                return;
            }
            let candidates = shaping.candidates(&self.settings.space);
            for (index, candidate) in candidates.iter().enumerate() {
                if (shaping.pending.len() as u64) < room && shaping.archive.admit(candidate) {
                    shaping.pending.push(candidate.clone());
                } else {
                    shaping.skipped.push(index);
                }
            }
            if !shaping.pending.is_empty() {
                return;
            }
            shaping.skipped.clear();
            shaping.settle(&vec![None; candidates.len()]);
        }
    }

    /// Evaluations of both searches, a gradient counted as it costs.
    fn spent(&self, shaping: &Shaping) -> u64 {
        self.factors().passes_per_sample() + shaping.asked
    }

    /// Closes the open generation of profiles.
    fn close(&mut self, scores: &[Score], passes: u64) {
        let Some(mut shaping) = self.shaping.take() else { return };
        shaping.close(scores, passes);
        self.open(&mut shaping);
        self.shaping = Some(shaping);
    }

    /// Checks what was read from storage, so that a damaged state is an error and no panic.
    pub(super) fn check(&self) -> Result<(), InvalidState> {
        self.settings.check()?;
        if matches!(self.factors, StrategyState::PairAttentionV1(_)) {
            return Err(InvalidState::NothingKnown);
        }
        self.factors.check()?;
        let Some(shaping) = &self.shaping else { return Ok(()) };
        let known = shaping.archive.top().iter().map(|evaluated| &evaluated.candidate);
        for candidate in known.chain(&shaping.pending).chain([&shaping.base]) {
            self.settings.check_candidate(candidate)?;
        }
        if !shaping.memory.is_sound() {
            return Err(InvalidState::Losses);
        }
        if shaping.is_sound() { Ok(()) } else { Err(InvalidState::NothingKnown) }
    }
}

/// Document passes of closed generations, as far as they were counted.
fn document_passes(history: &[GenerationSummary], evaluations: u64, samples: u32) -> u64 {
    history::document_passes(history).unwrap_or_else(|| evaluations.saturating_mul(samples.into()))
}

impl Strategy for PairAttention {
    fn ask(&self) -> Ask {
        match &self.shaping {
            None => self.factors().ask(),
            Some(shaping) if shaping.pending.is_empty() => Ask::Finished,
            Some(shaping) => Ask::Evaluate { generation: self.generation(), candidates: shaping.pending.clone() },
        }
    }

    fn tell(&mut self, generation: u32, scores: &[Score]) -> Result<(), TellError> {
        self.tell_slopes(generation, scores, &[])
    }

    fn tell_slopes(&mut self, generation: u32, scores: &[Score], slopes: &[Option<Slope>]) -> Result<(), TellError> {
        let Some(shaping) = &self.shaping else {
            self.factors.as_strategy_mut().tell_slopes(generation, scores, slopes)?;
            self.follow();
            return Ok(());
        };
        TellError::check((generation, scores.len()), (self.generation(), shaping.pending.len()))?;
        self.close(scores, scores.len() as u64 * u64::from(self.settings.documents.samples));
        Ok(())
    }

    fn tell_outcomes(&mut self, generation: u32, outcomes: &[Outcome]) -> Result<(), TellError> {
        let open = self.generation();
        let Some(shaping) = &mut self.shaping else {
            self.factors.as_strategy_mut().tell_outcomes(generation, outcomes)?;
            self.follow();
            return Ok(());
        };
        TellError::check((generation, outcomes.len()), (open, shaping.pending.len()))?;
        let parents = self.settings.parents;
        shaping.memory.note_outcomes((&shaping.pending, outcomes), self.settings.documents, parents);
        let scores: Vec<Score> = outcomes.iter().map(|outcome| outcome.score).collect();
        self.close(&scores, outcomes.iter().map(|outcome| outcome.passes).sum());
        Ok(())
    }

    fn measure(&self) -> Measure {
        if self.shaping.is_some() { Measure::Loss } else { self.factors().measure() }
    }

    fn certain_work(&self) -> Vec<Candidate> {
        if self.shaping.is_some() { Vec::new() } else { self.factors().certain_work() }
    }

    fn race(&self) -> Option<Race> {
        match &self.shaping {
            None => self.factors().race(),
            // The values of a star say how far to go along a number, be they good or bad.
            Some(shaping) if shaping.star.is_at_star() => None,
            Some(shaping) => {
                shaping.memory.race(self.settings.documents.racing, self.settings.parents, &shaping.pending)
            }
        }
    }

    fn why_finished(&self) -> Option<String> {
        let Some(shaping) = &self.shaping else { return self.factors().why_finished() };
        shaping.pending.is_empty().then(|| {
            if !shaping.is_at_work() {
                return shaping.why_over().into();
            }
            if shaping.asked >= self.settings.evaluations.into() {
                return format!("the {} evaluations for attention factors of pairs are spent", shaping.asked);
            }
            "the limits leave no room for more attention factors of pairs".into()
        })
    }

    fn document_passes(&self, samples: u64) -> u64 {
        match &self.shaping {
            None => self.factors().document_passes(samples),
            Some(shaping) => history::document_passes(&shaping.history)
                .unwrap_or_else(|| self.spent(shaping).saturating_mul(samples)),
        }
    }

    fn passes_per_sample(&self) -> u64 {
        self.shaping.as_ref().map_or_else(|| self.factors().passes_per_sample(), |shaping| self.spent(shaping))
    }

    fn best(&self) -> Option<(&Candidate, Score)> {
        match &self.shaping {
            None => self.factors().best(),
            Some(shaping) => shaping.archive.best().map(|best| (&best.candidate, best.score)),
        }
    }

    fn history(&self) -> &[GenerationSummary] {
        self.shaping.as_ref().map_or_else(|| self.factors().history(), |shaping| &shaping.history)
    }

    fn snapshot(&self) -> StrategyState {
        StrategyState::PairAttentionV1(Box::new(self.clone()))
    }
}
