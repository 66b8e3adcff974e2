//! Ropewalk's own search: gradient steps, then a small population around where they lead.
//!
//! ```text
//! generation 0         the seeds: given factors, PI, NTK, YaRN
//! 24 generations       one candidate each, with its gradient: a step on the factors, and on the attention factor where
//!                      that is searched, down the slope; what is asked lies on the grid
//! one generation       the best of them with every other choice of starting tokens
//! T generations        N1 mutations and N2 crossovers of the best, as in algorithm 1
//! ```
//!
//! Experimental: on landscapes with one basin it is ahead of algorithm 1 at the same price; on real models the steps are
//! still too coarse for how narrow and badly scaled the valleys are, and this is not shown.
//!
//! One gradient costs three evaluations and informs every dimension, which no number of mutations does for its price.
//! Where no worker can compute gradients, or one is not finite, the steps end and the population gets what they would
//! have cost. `--max-evaluations` bounds the cost: a gradient counts three.

mod descent;

use super::archive::{Archive, Evaluated};
use super::evolution::{Evolution, EvolutionSettings, InvalidSettings};
use super::history::GenerationSummary;
use super::score::Score;
use super::strategy::{Ask, InvalidState, Slope, Strategy, StrategyState, TellError};
use descent::{Descent, STEPS};
use ropewalk_shared::candidate::Candidate;
use ropewalk_shared::job::{JobSpec, SearchOptions};
use ropewalk_shared::model_description::ModelDescription;
use ropewalk_shared::work::Measure;
use serde::{Deserialize, Serialize};

/// A running search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ropewalk {
    settings: EvolutionSettings,
    /// Gradients asked and told.
    gradients: u64,
    phase: Phase,
}

/// Where it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Phase {
    /// Everything before the population.
    Steps(Steps),
    /// The population, which has taken over what was found.
    Population(Evolution),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Steps {
    archive: Archive,
    history: Vec<GenerationSummary>,
    pending: Vec<Candidate>,
    /// Absent while the seeds are evaluated, and once the starting tokens are.
    descent: Option<Descent>,
}

/// What a search asks at most when nothing ends it early: evaluations, gradients counted three, and generations after
/// the first.
pub fn planned(search: &SearchOptions) -> (u64, u32) {
    let options = &search.evolution;
    let seeds = 4 + search.init.len() as u64;
    let sweep = (search.start_tokens.len() as u64).saturating_sub(1);
    let bred = u64::from(options.mutations) + u64::from(options.crossovers);
    let evaluations = seeds
        + u64::from(STEPS) * Measure::Gradient.cost()
        + sweep
        + u64::from(options.generations).saturating_mul(bred);
    (evaluations, options.generations.saturating_add(STEPS + 1))
}

// === impl Ropewalk ===

impl Ropewalk {
    /// Starts a search.
    ///
    /// # Errors
    /// [`InvalidSettings`] names what is wrong with them.
    pub fn new(settings: EvolutionSettings) -> Result<Self, InvalidSettings> {
        settings.check()?;
        let mut archive = Archive::new(settings.options.parents as usize);
        let room = usize::try_from(settings.max_evaluations.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
        let pending: Vec<Candidate> = settings.seeds.iter().take(room).cloned().collect();
        for candidate in &pending {
            archive.admit(candidate);
        }
        let steps = Steps { archive, history: Vec::new(), pending, descent: None };
        Ok(Self { settings, gradients: 0, phase: Phase::Steps(steps) })
    }

    /// Starts the search that a job describes.
    ///
    /// # Errors
    /// [`InvalidSettings`], which a checked job never causes.
    pub fn of_job(job: &JobSpec, description: &ModelDescription) -> Result<Self, InvalidSettings> {
        let mut settings = EvolutionSettings::of_job(job, description);
        // Nothing is dropped here, so that a limit on passes is one on evaluations.
        let passes = job.search.max_passes.map(|max| max / (job.samples.len() as u64).max(1));
        settings.max_evaluations = settings.max_evaluations.into_iter().chain(passes).min();
        Self::new(settings)
    }

    /// What may still be spent after these generations, in evaluations.
    fn room(&self, history: &[GenerationSummary]) -> u64 {
        self.settings.max_evaluations.map_or(u64::MAX, |max| max.saturating_sub(self.spent(history)))
    }

    fn spent(&self, history: &[GenerationSummary]) -> u64 {
        let asked = history.last().map_or(0, |last| last.total_evaluated);
        asked + self.gradients * (Measure::Gradient.cost() - 1)
    }

    /// Decides what comes after a closed generation. `descent` is the one that goes on, if it does.
    fn next(&mut self, mut steps: Steps, was_descent: bool, descent: Option<Descent>) {
        let space = &self.settings.space;
        let room = self.room(&steps.history);
        if let Some(descent) = descent.filter(|descent| descent.taken() < STEPS && room >= Measure::Gradient.cost()) {
            let candidate = descent.candidate(space);
            // The start was evaluated as a seed, and is asked again for its slope; nothing else is asked twice.
            if descent.taken() == 0 || steps.archive.admit(&candidate) {
                (steps.pending, steps.descent) = (vec![candidate], Some(descent));
                self.phase = Phase::Steps(steps);
                return;
            }
        }
        if was_descent && let Some(best) = steps.archive.parents().first().map(|best| best.candidate.clone()) {
            let others = space.start_tokens.iter().filter(|&&choice| choice != best.start_tokens);
            let variants = others.map(|&start_tokens| Candidate { start_tokens, ..best.clone() });
            let room = usize::try_from(room).unwrap_or(usize::MAX);
            steps.pending = variants.filter(|variant| steps.archive.admit(variant)).take(room).collect();
            steps.descent = None;
            if !steps.pending.is_empty() {
                self.phase = Phase::Steps(steps);
                return;
            }
        }
        self.phase = Phase::Population(self.population(steps.archive, steps.history));
    }

    fn population(&self, archive: Archive, history: Vec<GenerationSummary>) -> Evolution {
        let options = &self.settings.options;
        let bred = u64::from(options.mutations) + u64::from(options.crossovers);
        // Steps that were not taken are worth generations.
        let saved = (u64::from(STEPS).saturating_sub(self.gradients) * Measure::Gradient.cost()) / bred.max(1);
        let asked = history.last().map_or(0, |last| last.total_evaluated);
        let mut settings = self.settings.clone();
        settings.max_evaluations = settings.max_evaluations.map(|_| asked.saturating_add(self.room(&history)));
        let generations = options.generations.saturating_add(u32::try_from(saved).unwrap_or(u32::MAX));
        Evolution::continued(settings, archive, history, generations)
    }

    /// Checks what was read from storage, so that a damaged state is an error and no panic.
    pub(super) fn check(&self) -> Result<(), InvalidState> {
        self.settings.check()?;
        match &self.phase {
            Phase::Population(evolution) => evolution.check(),
            Phase::Steps(steps) => {
                if !steps.history.is_empty() && steps.archive.top().is_empty() {
                    return Err(InvalidState::NothingKnown);
                }
                let known = steps.archive.top().iter().map(|evaluated| &evaluated.candidate);
                for candidate in known.chain(&steps.pending) {
                    self.settings.space.check(candidate)?;
                }
                if steps.descent.as_ref().is_some_and(|descent| !descent.fits(&self.settings.space)) {
                    return Err(InvalidState::NothingKnown);
                }
                Ok(())
            }
        }
    }
}

impl Strategy for Ropewalk {
    fn ask(&self) -> Ask {
        match &self.phase {
            Phase::Population(evolution) => evolution.ask(),
            Phase::Steps(steps) if steps.pending.is_empty() => Ask::Finished,
            Phase::Steps(steps) => Ask::Evaluate { generation: self.generation(), candidates: steps.pending.clone() },
        }
    }

    fn measure(&self) -> Measure {
        match &self.phase {
            Phase::Steps(Steps { descent: Some(_), .. }) => Measure::Gradient,
            _ => Measure::Loss,
        }
    }

    fn tell(&mut self, generation: u32, scores: &[Score]) -> Result<(), TellError> {
        self.tell_slopes(generation, scores, &vec![None; scores.len()])
    }

    fn tell_slopes(&mut self, generation: u32, scores: &[Score], slopes: &[Option<Slope>]) -> Result<(), TellError> {
        let open = self.generation();
        let steps = match &mut self.phase {
            Phase::Population(evolution) => return evolution.tell(generation, scores),
            Phase::Steps(steps) => steps,
        };
        let expected = steps.pending.len();
        TellError::check((generation, scores.len()), (open, expected))?;
        let mut steps = steps.clone();
        let summary = GenerationSummary::close(generation, scores, 0, steps.history.last());
        let asked = std::mem::take(&mut steps.pending);
        // The first step's candidate is a seed: its score is known.
        let repeated = steps.descent.as_ref().is_some_and(|descent| descent.taken() == 0);
        if !repeated {
            let evaluated = asked.into_iter().zip(scores);
            steps.archive.absorb(evaluated.map(|(candidate, &score)| Evaluated { candidate, score }));
        }
        steps.history.push(summary);
        let space = &self.settings.space;
        let (was_descent, descent) = match steps.descent.take() {
            Some(mut descent) => {
                self.gradients += 1;
                let slope = slopes.first().cloned().flatten().filter(|_| !scores[0].is_failed());
                let goes_on = slope.is_some_and(|slope| descent.step(space, &slope));
                (true, goes_on.then_some(descent))
            }
            None if generation == 0 => {
                let best = steps.archive.parents().first().filter(|best| !best.score.is_failed());
                (false, best.map(|best| Descent::from(&best.candidate, space)))
            }
            None => (false, None),
        };
        self.next(steps, was_descent, descent);
        Ok(())
    }

    fn passes_per_sample(&self) -> u64 {
        self.spent(self.history())
    }

    fn best(&self) -> Option<(&Candidate, Score)> {
        match &self.phase {
            Phase::Population(evolution) => evolution.best(),
            Phase::Steps(steps) => {
                let best = steps.archive.top().first().filter(|best| !best.score.is_failed())?;
                Some((&best.candidate, best.score))
            }
        }
    }

    fn history(&self) -> &[GenerationSummary] {
        match &self.phase {
            Phase::Population(evolution) => evolution.history(),
            Phase::Steps(steps) => &steps.history,
        }
    }

    fn snapshot(&self) -> StrategyState {
        StrategyState::RopewalkV1(Box::new(self.clone()))
    }
}
