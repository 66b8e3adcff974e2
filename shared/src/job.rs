//! What a search job is: model, target, space, strategy, samples, and when to stop.

mod checks;
mod id;
mod objective;
mod short_window;

pub use checks::{InvalidJob, MAX_SAMPLES, Problem};
pub use id::{InvalidJobId, JobId};
pub use objective::{InvalidObjective, NothingToJudge, SearchObjective};
pub use short_window::{InvalidShortWindow, ShortWindow};

use crate::attention_factor::AttentionFactorPolicy;
use crate::fingerprint::Fingerprint;
use crate::grid::Grid;
use crate::model_description::{ConfigError, ModelDescription};
use crate::racing::Racing;
use crate::rope::Rescale;
use crate::sample::SampleId;
use crate::space::{ATTENTION_BOUNDS, PAPER_MAX_FACTOR_OF_RATIO, PAPER_START_TOKENS, SearchSpace};
use serde::{Deserialize, Serialize};

/// Everything that determines a search. Two equal specifications are the same job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobSpec {
    /// A short name for people: letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// The model whose window is stretched.
    pub model: ModelIdentity,
    /// The window to reach (L'), in tokens.
    pub target_length: u32,
    /// How to search.
    pub search: SearchOptions,
    /// Samples the search sees, each at least `target_length` tokens long.
    pub samples: Vec<SampleId>,
    /// Samples it never sees, for the final report.
    pub held_out: Vec<SampleId>,
}

/// Which model a job is about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelIdentity {
    /// The name under which workers find it: a folder below their model root.
    pub name: String,
    /// Digest of its configuration and weights.
    pub fingerprint: Fingerprint,
    /// The text of its config.json.
    pub config_json: String,
}

/// How to search. The defaults are the paper's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SearchOptions {
    /// The algorithm.
    pub strategy: StrategyKind,
    /// Seed of every random choice.
    pub seed: u64,
    /// Parameters of the population.
    pub evolution: EvolutionOptions,
    /// Gradient steps of a strategy that can take them; they need workers that compute on the CPU.
    #[serde(default, skip_serializing_if = "is_default")]
    pub slope_steps: u32,
    /// Evaluations set aside for attention factors of single pairs, which are searched after the factors; 0: one attention
    /// factor for all pairs.
    #[serde(default, skip_serializing_if = "is_default")]
    pub pair_attention: u32,
    /// Grid of the factors.
    #[serde(rename = "step")]
    pub grid: Grid,
    /// Largest factor; absent for 1.25 times the extension ratio, twice the ratio for LongRoPE2.
    pub max_factor: Option<f64>,
    /// Choices of starting tokens.
    pub start_tokens: Vec<u32>,
    /// How the attention factor is chosen.
    pub attention_factor: AttentionFactorPolicy,
    /// Candidates to start from, besides the baselines.
    pub init: Vec<Rescale>,
    /// Stop after this many generations without a better candidate.
    pub patience: Option<u32>,
    /// Never evaluate more candidates than this.
    pub max_evaluations: Option<u64>,
    /// Open no generation once the search has run for this long. Results then depend on the workers' speed.
    pub time_budget_seconds: Option<u64>,
    /// What is minimised.
    #[serde(default, skip_serializing_if = "is_default")]
    pub objective: SearchObjective,
    /// When a candidate is dropped before it was evaluated on every sample. Left out of stored specifications where
    /// none is, so that jobs from before there was racing keep their ids.
    #[serde(default, skip_serializing_if = "Racing::is_off")]
    pub racing: Racing,
    /// Never open a generation, or a part of one, that could take the search beyond so many document passes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_passes: Option<u64>,
    /// Short windows that must not get worse by more than their limits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keep_short: Vec<ShortWindow>,
}

/// Search algorithms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StrategyKind {
    /// The paper's algorithm 1.
    #[default]
    LongRope,
    /// The curve that all pairs share, then its pairs.
    Ropewalk,
    /// The authors' code: one factor at a time, from YaRN's.
    DimMono,
    /// The authors' code: the same between ones and a last piece of the extension ratio.
    DimPieceMono,
    /// The critical dimension and the factors above it; NTK below.
    #[serde(rename = "longrope2")]
    LongRope2,
}

/// Parameters of algorithm 1, as published for targets up to 256k.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvolutionOptions {
    /// Size of the first population (P).
    pub population: u32,
    /// Mutations a generation (N1).
    pub mutations: u32,
    /// Crossovers a generation (N2).
    pub crossovers: u32,
    /// Generations after the first population (T).
    pub generations: u32,
    /// The best candidates from which the next are made (k).
    pub parents: u32,
    /// Probability with which each dimension mutates (p).
    pub mutation_probability: f64,
}

/// Fields that came later are not written where they change nothing, so that the identity of a job stays what it was.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

// === defaults ===

impl Default for EvolutionOptions {
    fn default() -> Self {
        Self { population: 64, mutations: 16, crossovers: 16, generations: 40, parents: 32, mutation_probability: 0.3 }
    }
}

impl Default for SearchOptions {
    fn default() -> Self {
        Self {
            strategy: StrategyKind::default(),
            seed: 0,
            evolution: EvolutionOptions::default(),
            slope_steps: 0,
            pair_attention: 0,
            grid: Grid::PAPER,
            max_factor: None,
            start_tokens: PAPER_START_TOKENS.to_vec(),
            attention_factor: AttentionFactorPolicy::default(),
            init: Vec::new(),
            patience: None,
            max_evaluations: None,
            time_budget_seconds: None,
            objective: SearchObjective::default(),
            racing: Racing::default(),
            max_passes: None,
            keep_short: Vec::new(),
        }
    }
}

// === impl SearchOptions ===

impl SearchOptions {
    /// Evaluations for attention factors of single pairs where their number is left to this program: the smoothest level of
    /// detail, which is most of what there is to gain.
    pub fn usual_pair_attention(attention_factor: AttentionFactorPolicy) -> u32 {
        if attention_factor == AttentionFactorPolicy::Search { 10 } else { 7 }
    }

    /// Candidates of the first generation, at most.
    pub fn first_generation(&self) -> u64 {
        let given = if self.strategy == StrategyKind::Ropewalk { self.init.len() as u64 } else { 0 };
        self.first_without_init() + given
    }

    /// The same where no factors are given.
    pub fn first_without_init(&self) -> u64 {
        match self.strategy {
            // The published methods.
            StrategyKind::Ropewalk => 4,
            _ => self.evolution.population.into(),
        }
    }
}

// === impl StrategyKind ===

impl StrategyKind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::LongRope, Self::Ropewalk, Self::DimMono, Self::DimPieceMono, Self::LongRope2];

    /// The name on the command line and in plans.
    pub fn name(self) -> &'static str {
        match self {
            Self::LongRope => "longrope",
            Self::Ropewalk => "ropewalk",
            Self::DimMono => "dim-mono",
            Self::DimPieceMono => "dim-piece-mono",
            Self::LongRope2 => "longrope2",
        }
    }

    /// Whether it can start from given factors.
    pub fn takes_init(self) -> bool {
        self != Self::LongRope2
    }

    /// Whether its last factors have the extension ratio, so that there must be one.
    pub fn ends_at_ratio(self) -> bool {
        matches!(self, Self::DimPieceMono | Self::LongRope2)
    }

    /// Whether attention factors of single pairs can be searched after the factors that it finds.
    pub fn searches_pair_attention(self) -> bool {
        matches!(self, Self::Ropewalk | Self::LongRope2)
    }

    /// Whether starting tokens are a part of what it searches.
    pub fn searches_start_tokens(self) -> bool {
        matches!(self, Self::LongRope | Self::Ropewalk)
    }

    /// The parameters that it runs with unless told otherwise: for algorithm 1 the paper's.
    pub fn options(self) -> EvolutionOptions {
        let paper = EvolutionOptions::default();
        match self {
            Self::LongRope | Self::DimMono | Self::DimPieceMono | Self::LongRope2 => paper,
            Self::Ropewalk => EvolutionOptions { mutations: 12, crossovers: 4, generations: 5, parents: 8, ..paper },
        }
    }
}

/// A text that names no search algorithm.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is none: longrope, ropewalk, dim-mono, dim-piece-mono or longrope2")]
pub struct UnknownStrategy(String);

impl std::str::FromStr for StrategyKind {
    type Err = UnknownStrategy;
    fn from_str(text: &str) -> Result<Self, UnknownStrategy> {
        let known = Self::ALL.into_iter().find(|kind| kind.name() == text);
        known.ok_or_else(|| UnknownStrategy(text.chars().take(40).collect()))
    }
}

// === impl EvolutionOptions ===

impl EvolutionOptions {
    /// Candidates evaluated when nothing stops the search early.
    pub fn evaluations(&self) -> u64 {
        let generation = u64::from(self.mutations) + u64::from(self.crossovers);
        u64::from(self.population) + u64::from(self.generations) * generation
    }
}

// === impl JobSpec ===

impl JobSpec {
    /// The model's window and RoPE, read from its config.json.
    ///
    /// # Errors
    /// [`ConfigError`] when the configuration cannot be used.
    pub fn description(&self) -> Result<ModelDescription, ConfigError> {
        ModelDescription::from_config_json(&self.model.config_json)
    }

    /// `s = L' / L`; 1 for a window that is not extended.
    pub fn extension_ratio(&self, description: &ModelDescription) -> f64 {
        (f64::from(self.target_length) / f64::from(description.original_length)).max(1.0)
    }

    /// The attention factor of every candidate that has none of its own.
    pub fn attention_factor(&self, description: &ModelDescription) -> f64 {
        self.search.attention_factor.value(self.extension_ratio(description), description.original_length)
    }

    /// The space that is searched.
    pub fn space(&self, description: &ModelDescription) -> SearchSpace {
        let search = &self.search;
        let usual = match search.strategy {
            StrategyKind::LongRope2 => 2.0,
            _ => PAPER_MAX_FACTOR_OF_RATIO,
        };
        let max_factor = search.max_factor.unwrap_or(usual * self.extension_ratio(description));
        SearchSpace {
            grid: search.grid,
            pairs: description.geometry.pairs(),
            max_point: search.grid.floor(max_factor),
            start_tokens: search.start_tokens.clone(),
            attention: (search.attention_factor == AttentionFactorPolicy::Search).then_some(ATTENTION_BOUNDS),
        }
    }

    /// Samples on which candidates are evaluated: those of the search, then those of the short windows.
    pub fn judged_samples(&self) -> impl Iterator<Item = &SampleId> {
        self.samples.iter().chain(self.search.keep_short.iter().flat_map(|window| &window.samples))
    }

    /// All its samples in the order in which they are numbered: those judged on, then those held out, in the end those held
    /// out of the short windows.
    pub fn all_samples(&self) -> impl Iterator<Item = &SampleId> {
        let short = self.search.keep_short.iter().flat_map(|window| &window.held_out);
        self.judged_samples().chain(&self.held_out).chain(short)
    }

    /// The job's identity, derived from everything that determines its result.
    pub fn id(&self) -> JobId {
        JobId::of(self)
    }
}

#[cfg(test)]
mod tests;
