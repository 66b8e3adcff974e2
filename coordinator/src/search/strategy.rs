//! The interface of every search strategy: ask for candidates, tell their scores.

use super::evolution::{Evolution, InvalidSettings};
use super::history::GenerationSummary;
use super::outcome::Outcome;
use super::pair_attention::PairAttention;
use super::racing::{Race, RaceMemory};
use super::ropewalk::Ropewalk;
use super::score::Score;
use ropewalk_shared::candidate::Candidate;
use ropewalk_shared::job::{JobSpec, StrategyKind};
use ropewalk_shared::model_description::ModelDescription;
use ropewalk_shared::space::OutsideSpace;
use ropewalk_shared::work::Measure;
use serde::{Deserialize, Serialize};

/// What a strategy wants next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// The score of each of these; none of them has ever been asked before.
    Evaluate {
        /// To be named when the scores are told.
        generation: u32,
        /// At least one; scores are told in this order.
        candidates: Vec<Candidate>,
    },
    /// Nothing more.
    Finished,
}

/// How a score changes with a candidate: derivatives of `ln score` by the logarithm of each factor and of the attention
/// factor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slope {
    /// `d ln score / d ln lambda_i`, one for each rotary pair.
    pub log_factors: Vec<f64>,
    /// `d ln score / d ln f`.
    pub log_attention_factor: f64,
}

/// A search strategy. Asking changes nothing; telling closes the generation and opens the next one.
pub trait Strategy: Send {
    /// What to evaluate now. The same answer until it is told.
    fn ask(&self) -> Ask;

    /// The scores of the asked candidates, in their order.
    ///
    /// # Errors
    /// [`TellError`] when these are not the scores that were asked for; nothing has changed then.
    fn tell(&mut self, generation: u32, scores: &[Score]) -> Result<(), TellError>;

    /// Why nothing more is asked, for people; `None` while something is.
    fn why_finished(&self) -> Option<String>;

    /// What is to be measured of the asked candidates.
    fn measure(&self) -> Measure {
        Measure::Loss
    }

    /// As [`Self::tell`], with the slopes of those candidates of which they were wanted and could be had.
    ///
    /// # Errors
    /// [`TellError`] when these are not the scores that were asked for; nothing has changed then.
    fn tell_slopes(&mut self, generation: u32, scores: &[Score], _: &[Option<Slope>]) -> Result<(), TellError> {
        self.tell(generation, scores)
    }

    /// As [`Self::tell_slopes`], with everything that came of the asked candidates.
    ///
    /// # Errors
    /// [`TellError`] when these are not the outcomes that were asked for; nothing has changed then.
    fn tell_outcomes(&mut self, generation: u32, outcomes: &[Outcome]) -> Result<(), TellError> {
        let scores: Vec<Score> = outcomes.iter().map(|outcome| outcome.score).collect();
        let slopes: Vec<Option<Slope>> = outcomes.iter().map(|outcome| outcome.slope.clone()).collect();
        self.tell_slopes(generation, &scores, &slopes)
    }

    /// Candidates that are asked in the next generation and evaluated on every sample, whatever comes of the open one, as long
    /// as it can be evaluated at all.
    fn certain_work(&self) -> Vec<Candidate> {
        Vec::new()
    }

    /// The rule by which candidates of the open generation are dropped; `None` where each is evaluated on every sample.
    fn race(&self) -> Option<Race> {
        None
    }

    /// Document passes of the closed generations, on `samples` samples.
    fn document_passes(&self, samples: u64) -> u64 {
        self.passes_per_sample().saturating_mul(samples)
    }

    /// Document passes spent so far for each sample; a gradient counts as [`Measure::cost`] says.
    fn passes_per_sample(&self) -> u64 {
        self.evaluations()
    }

    /// The best candidate so far that has a usable score; of equals, the one asked first.
    fn best(&self) -> Option<(&Candidate, Score)>;

    /// One summary for each closed generation.
    fn history(&self) -> &[GenerationSummary];

    /// Everything that decides what happens next: a strategy [restored](StrategyState::restore) from it asks the same.
    fn snapshot(&self) -> StrategyState;

    /// The generation now open, which is the number of those closed.
    fn generation(&self) -> u32 {
        self.history().len() as u32
    }

    /// Candidates evaluated so far.
    fn evaluations(&self) -> u64 {
        self.history().last().map_or(0, |last| last.total_evaluated)
    }
}

/// The strategy that a job names, at its beginning.
///
/// # Errors
/// [`InvalidSettings`], which a checked job never causes.
pub fn begin(job: &JobSpec, description: &ModelDescription) -> Result<Box<dyn Strategy>, InvalidSettings> {
    let strategy: Box<dyn Strategy> = match job.search.strategy {
        _ if job.search.pair_attention > 0 => Box::new(PairAttention::of_job(job, description)?),
        StrategyKind::Ropewalk => Box::new(Ropewalk::of_job(job, description)?),
        _ => Box::new(Evolution::of_job(job, description)?),
    };
    // What is asked of a stored state is asked of every one, lest a job begins that no restart brings back.
    strategy.snapshot().check().map_err(|error| InvalidSettings::Unrestorable(error.to_string()))?;
    Ok(strategy)
}

/// Scores that do not fit what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TellError {
    /// Another generation is open.
    #[error("scores told for generation {told}, generation {open} is open")]
    Generation {
        /// The generation told.
        told: u32,
        /// The generation now open.
        open: u32,
    },
    /// Too few or too many scores.
    #[error("{got} scores told, {expected} candidates were asked")]
    Count {
        /// Scores told.
        got: usize,
        /// Candidates asked.
        expected: usize,
    },
    /// The search has ended.
    #[error("scores told for generation {0}, but the search has finished")]
    Finished(u32),
}

/// A strategy at rest. The variants are closed and versioned: what is not known cannot be read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StrategyState {
    /// The paper's evolutionary search.
    EvolutionV1(Box<Evolution>),
    /// The curve, then its pairs.
    RopewalkV2(Box<Ropewalk>),
    /// One of the others, then attention factors of single pairs.
    PairAttentionV1(Box<PairAttention>),
}

/// A stored strategy that contradicts itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidState {
    /// A candidate that the search could not have asked.
    #[error("stored search state is damaged: a candidate lies outside the search space: {0}")]
    Candidate(#[from] OutsideSpace),
    /// Generations were closed, but nothing of them is known.
    #[error("stored search state is damaged: generations without candidates")]
    NothingKnown,
    /// Losses that cannot be those of candidates on the same samples.
    #[error("stored search state is damaged: losses of different samples")]
    Losses,
    /// Options with which no search can have been started.
    #[error("stored search state is damaged: {0}")]
    Settings(#[from] InvalidSettings),
}

// === impl TellError ===

impl TellError {
    /// Whether a number of scores for a generation is what was asked; `expected` is 0 when the search has finished.
    pub(super) fn check((told, got): (u32, usize), (open, expected): (u32, usize)) -> Result<(), Self> {
        if expected == 0 {
            return Err(Self::Finished(told));
        }
        if told != open {
            return Err(Self::Generation { told, open });
        }
        if got != expected {
            return Err(Self::Count { got, expected });
        }
        Ok(())
    }
}

// === impl StrategyState ===

impl StrategyState {
    /// Sets the strategy going again.
    ///
    /// # Errors
    /// [`InvalidState`] when the state cannot have come from a search.
    pub fn restore(self) -> Result<Box<dyn Strategy>, InvalidState> {
        self.check()?;
        Ok(match self {
            Self::EvolutionV1(evolution) => evolution,
            Self::RopewalkV2(ropewalk) => ropewalk,
            Self::PairAttentionV1(both) => both,
        })
    }

    pub(super) fn check(&self) -> Result<(), InvalidState> {
        match self {
            Self::EvolutionV1(evolution) => evolution.check(),
            Self::RopewalkV2(ropewalk) => ropewalk.check(),
            Self::PairAttentionV1(both) => both.check(),
        }
    }

    pub(super) fn as_strategy(&self) -> &dyn Strategy {
        match self {
            Self::EvolutionV1(evolution) => evolution.as_ref(),
            Self::RopewalkV2(ropewalk) => ropewalk.as_ref(),
            Self::PairAttentionV1(both) => both.as_ref(),
        }
    }

    pub(super) fn as_strategy_mut(&mut self) -> &mut dyn Strategy {
        match self {
            Self::EvolutionV1(evolution) => evolution.as_mut(),
            Self::RopewalkV2(ropewalk) => ropewalk.as_mut(),
            Self::PairAttentionV1(both) => both.as_mut(),
        }
    }

    /// What is known for the next race, for whoever goes on from it.
    pub(super) fn race_memory(&self) -> Option<&RaceMemory> {
        match self {
            Self::EvolutionV1(evolution) => Some(evolution.race_memory()),
            Self::RopewalkV2(ropewalk) => Some(ropewalk.race_memory()),
            Self::PairAttentionV1(_) => None,
        }
    }
}
