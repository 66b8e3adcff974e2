//! Checks of a job specification: every problem at once, each with its field and reason.

use super::{EvolutionOptions, JobSpec, SearchOptions, StrategyKind};
use crate::attention_factor::AttentionFactorPolicy;
use crate::model_description::ModelDescription;
use crate::plain_name;
use crate::rope::ATTENTION_LIMITS;
use crate::sample::MAX_SAMPLE_TOKENS;
use std::collections::HashSet;
use std::fmt;

/// Most samples of a job, those held out and those of short windows included.
pub const MAX_SAMPLES: usize = 10_000;
const MAX_POPULATION: u32 = 100_000;
const MAX_GENERATIONS: u32 = 1_000_000;
const MAX_SLOPE_STEPS: u32 = 1_000;
const MAX_PAIR_ATTENTION: u32 = 100_000;
const MAX_INIT: usize = 1_000;
const MAX_START_TOKEN_CHOICES: usize = 1_000;
const MAX_SHORT_WINDOWS: usize = 16;
const MAX_PERCENT: f64 = 10_000.0;

/// One thing that is wrong with a specification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The field, as in the job file and (with dashes) on the command line.
    pub field: &'static str,
    /// What is wrong with it and what would be right.
    pub reason: String,
}

/// A specification that cannot be run, with all its problems.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct InvalidJob {
    /// At least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for InvalidJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the job cannot be run:")?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.reason)
    }
}

/// Collects problems.
struct Checks(Vec<Problem>);

impl Checks {
    fn require(&mut self, holds: bool, field: &'static str, reason: impl FnOnce() -> String) {
        if !holds {
            self.0.push(Problem { field, reason: reason() });
        }
    }
}

impl JobSpec {
    /// As [`Self::check`] and [`Self::check_sense`], for what is about to be launched.
    ///
    /// # Errors
    /// [`InvalidJob`] with every problem found.
    pub fn check_new(&self) -> Result<ModelDescription, InvalidJob> {
        match (self.check(), self.check_sense()) {
            (checked, Ok(())) => checked,
            (Ok(_), Err(senseless)) => Err(senseless),
            (Err(InvalidJob { mut problems }), Err(senseless)) => {
                problems.extend(senseless.problems);
                Err(InvalidJob { problems })
            }
        }
    }

    /// Checks what nobody would launch on purpose. It may have been launched and stored before this was asked.
    ///
    /// # Errors
    /// [`InvalidJob`] with every problem found.
    pub fn check_sense(&self) -> Result<(), InvalidJob> {
        let mut checks = Checks(Vec::new());
        let smallest = self.search.start_tokens.iter().min();
        checks.require(smallest.is_none_or(|&start| start < self.target_length), "start_tokens", || {
            format!("all of them leave every one of the {} tokens unscaled: give a smaller choice", self.target_length)
        });
        let first = self.search.first_without_init();
        if let Some(max) = self.search.max_evaluations.filter(|&max| max > 0) {
            checks.require(max >= first, "max_evaluations", || {
                format!("{max} candidates do not make the first generation, which has {first}: give at least so many")
            });
        }
        if checks.0.is_empty() { Ok(()) } else { Err(InvalidJob { problems: checks.0 }) }
    }

    /// Checks the whole specification and returns the model's description, which it read on the way.
    ///
    /// # Errors
    /// [`InvalidJob`] with every problem found.
    pub fn check(&self) -> Result<ModelDescription, InvalidJob> {
        let mut checks = Checks(Vec::new());
        if let Err(wrong) = plain_name::check(&self.name, plain_name::MOST_OF_JOB) {
            checks.0.push(Problem { field: "name", reason: wrong.to_string() });
        }
        let model_name = &self.model.name;
        checks.require(plain_name::check(model_name, plain_name::MOST_OF_FOLDER).is_ok(), "model", || {
            format!("{model_name:?} cannot name a folder below a worker's model root; rename the model's folder")
        });
        self.check_samples(&mut checks);
        self.check_short_windows(&mut checks);
        self.search.evolution.check(&mut checks);
        self.check_budgets(&mut checks);
        let description = match self.description() {
            Ok(description) => {
                self.check_against(&description, &mut checks);
                Some(description)
            }
            Err(error) => {
                checks.0.push(Problem { field: "model", reason: error.to_string() });
                None
            }
        };
        match description {
            Some(description) if checks.0.is_empty() => Ok(description),
            _ => Err(InvalidJob { problems: checks.0 }),
        }
    }

    fn check_samples(&self, checks: &mut Checks) {
        checks.require(!self.samples.is_empty(), "samples", || "the search needs at least one sample".into());
        let count = self.all_samples().count();
        checks.require(count <= MAX_SAMPLES, "samples", || {
            format!("{count} samples, at most {MAX_SAMPLES} are accepted")
        });
        let distinct: HashSet<_> = self.all_samples().collect();
        // The beginning of a document that is longer than the document is the document: said below.
        let short_fit = self.search.keep_short.iter().all(|window| window.length < self.target_length);
        checks.require(distinct.len() == count || !short_fit, "samples", || {
            "a sample is named twice; held-out samples must differ from those of the search".into()
        });
    }

    fn check_short_windows(&self, checks: &mut Checks) {
        let windows = &self.search.keep_short;
        checks.require(windows.len() <= MAX_SHORT_WINDOWS, "keep_short", || {
            format!("{} windows, at most {MAX_SHORT_WINDOWS} are accepted", windows.len())
        });
        let lengths: HashSet<u32> = windows.iter().map(|window| window.length).collect();
        checks.require(lengths.len() == windows.len(), "keep_short", || "a length is given twice".into());
        for window in windows.iter().take(MAX_SHORT_WINDOWS) {
            checks.require((2..self.target_length).contains(&window.length), "keep_short", || {
                format!(
                    "{window}: the length must be from 2 tokens to below the target length of {}",
                    self.target_length
                )
            });
            checks.require((0.0..=MAX_PERCENT).contains(&window.percent), "keep_short", || {
                format!("{window}: the limit must be from 0 to {MAX_PERCENT} percent")
            });
            checks.require(!window.samples.is_empty(), "keep_short", || format!("{window} has no sample to judge by"));
        }
    }

    /// The model as shipped is measured beside the candidates, at the target length and in the short windows.
    fn check_shipped(&self, description: &ModelDescription, checks: &mut Checks) {
        let short = self.search.keep_short.iter().take(MAX_SHORT_WINDOWS).map(|window| window.length);
        for length in short.chain([self.target_length]) {
            if let Err(error) = description.shipped_rescale(length as usize).check(description.geometry.pairs()) {
                let reason =
                    format!("the RoPE scaling of its config.json cannot be applied to {length} tokens: {error}");
                checks.0.push(Problem { field: "model", reason });
            }
        }
    }

    /// What the strategies that keep to a form cannot do.
    fn check_strategy(&self, description: &ModelDescription, checks: &mut Checks) {
        let (search, ratio) = (&self.search, self.extension_ratio(description));
        let strategy = search.strategy;
        checks.require(strategy.searches_start_tokens() || search.start_tokens.len() == 1, "start_tokens", || {
            format!(
                "{} choices are given, but this strategy does not search them: give one, for example 0",
                search.start_tokens.len()
            )
        });
        let ends_at_ratio = strategy.ends_at_ratio();
        checks.require(!ends_at_ratio || ratio > 1.0, "strategy", || {
            format!(
                "the last factors of {} have the extension ratio, and a window of {} tokens is not extended: search with \
                 longrope, dim-mono or ropewalk",
                strategy.name(),
                self.target_length
            )
        });
        let max = search.max_factor.unwrap_or(f64::INFINITY);
        checks.require(!ends_at_ratio || search.grid.floor(max) >= search.grid.nearest(ratio), "max_factor", || {
            format!("{max} lies below the extension ratio of {ratio}, which the last factors have in this strategy: no monotone candidate is left")
        });
        let from_dimensions = strategy == StrategyKind::LongRope2;
        checks.require(strategy.takes_init() || search.init.is_empty(), "init", || {
            "longrope2 starts from its critical dimensions, and given factors have none: leave them out, or search with longrope".into()
        });
        checks.require(!from_dimensions || description.geometry.pairs() > 1, "strategy", || {
            "longrope2 needs at least two rotary pairs".into()
        });
    }

    /// A budget that does not buy the first generation buys nothing.
    fn check_budgets(&self, checks: &mut Checks) {
        let (search, samples) = (&self.search, self.samples.len() as u64);
        let first = search.first_generation();
        if let Some(max) = search.max_passes {
            checks.require(max >= first * samples, "max_passes", || {
                let smaller = match search.strategy {
                    StrategyKind::Ropewalk => "or fewer samples",
                    _ => "fewer samples or a smaller population",
                };
                format!(
                    "{max} document passes buy {} candidates on {samples} samples, and the first generation has {first}: \
                     give at least {}, {smaller}",
                    max / samples.max(1),
                    first * samples
                )
            });
        }
    }

    fn check_against(&self, description: &ModelDescription, checks: &mut Checks) {
        let original = description.original_length;
        // A short window of an extended model is searched too, up to a factor that is then stated.
        let recovers = self.search.max_factor.is_some();
        checks.require(self.target_length > original || recovers, "target_length", || {
            format!(
                "{} is not above the model's original length of {original} tokens: nothing to extend (to recover a \
                 short window of an extended model, say how large factors may be)",
                self.target_length
            )
        });
        checks.require(self.target_length >= 2, "target_length", || "must be at least 2 tokens".into());
        checks.require(self.target_length as usize <= MAX_SAMPLE_TOKENS, "target_length", || {
            format!("{} is above the largest supported length, {MAX_SAMPLE_TOKENS}", self.target_length)
        });
        self.search.check(self.extension_ratio(description), description.geometry.pairs(), checks);
        self.check_strategy(description, checks);
        self.check_shipped(description, checks);
        let space = self.space(description);
        checks.require(space.max_point >= space.grid.one(), "max_factor", || {
            "must be at least 1: factors below 1 would shorten the window".into()
        });
    }
}

impl SearchOptions {
    fn check(&self, ratio: f64, pairs: usize, checks: &mut Checks) {
        if let Some(max) = self.max_factor {
            checks.require((1.0..=1e5).contains(&max), "max_factor", || {
                format!("{max} must be a finite number from 1 to 100000")
            });
        }
        checks.require(ratio <= 1e5, "target_length", || format!("an extension of {ratio:.0} times is out of bounds"));
        let starts = &self.start_tokens;
        checks.require(!starts.is_empty() && starts.len() <= MAX_START_TOKEN_CHOICES, "start_tokens", || {
            format!("must list 1 to {MAX_START_TOKEN_CHOICES} choices, for example 0,4,16")
        });
        checks.require(starts.windows(2).all(|two| two[0] < two[1]), "start_tokens", || {
            "must be ascending without repetition".into()
        });
        if let AttentionFactorPolicy::Fixed(value) = self.attention_factor {
            let (low, high) = ATTENTION_LIMITS;
            checks.require((low..=high).contains(&value), "attention_factor", || {
                format!("{value} must be from {low} to {high}")
            });
        }
        checks.require(self.init.len() <= MAX_INIT, "init", || format!("at most {MAX_INIT} candidates are accepted"));
        for rescale in self.init.iter().take(MAX_INIT) {
            if let Err(error) = rescale.check(pairs) {
                checks.0.push(Problem { field: "init", reason: error.to_string() });
            }
        }
        checks.require(self.slope_steps <= MAX_SLOPE_STEPS, "slope_steps", || {
            format!("{} must be at most {MAX_SLOPE_STEPS}", self.slope_steps)
        });
        checks.require(self.slope_steps == 0 || self.strategy == StrategyKind::Ropewalk, "slope_steps", || {
            "only the strategy ropewalk takes steps down a slope".into()
        });
        checks.require(self.pair_attention <= MAX_PAIR_ATTENTION, "pair_attention", || {
            format!("{} evaluations must be at most {MAX_PAIR_ATTENTION}", self.pair_attention)
        });
        checks.require(self.pair_attention == 0 || self.strategy.searches_pair_attention(), "pair_attention", || {
            format!(
                "the strategy {} has one attention factor for all pairs: search with ropewalk or longrope2",
                self.strategy.name()
            )
        });
        checks.require(self.pair_attention == 0 || pairs > 1, "pair_attention", || {
            "a model with one rotary pair has one attention factor".into()
        });
        checks.require(self.patience != Some(0), "patience", || "must be at least 1 generation".into());
        checks.require(self.max_evaluations != Some(0), "max_evaluations", || "must be at least 1".into());
        checks.require(self.time_budget_seconds != Some(0), "time_budget", || "must be at least 1 second".into());
    }
}

impl EvolutionOptions {
    fn check(&self, checks: &mut Checks) {
        let counts = [
            ("population", self.population, 1),
            ("mutations", self.mutations, 0),
            ("crossovers", self.crossovers, 0),
            ("parents", self.parents, 1),
        ];
        for (field, value, least) in counts {
            checks.require((least..=MAX_POPULATION).contains(&value), field, || {
                format!("{value} must be from {least} to {MAX_POPULATION}")
            });
        }
        checks.require(self.generations <= MAX_GENERATIONS, "generations", || {
            format!("{} must be at most {MAX_GENERATIONS}", self.generations)
        });
        checks.require(
            self.generations == 0 || self.mutations.saturating_add(self.crossovers) > 0,
            "mutations",
            || "with no mutations and no crossovers a generation would be empty".into(),
        );
        let p = self.mutation_probability;
        checks.require(p > 0.0 && p <= 1.0, "mutation_probability", || format!("{p} must be above 0 and at most 1"));
    }
}
