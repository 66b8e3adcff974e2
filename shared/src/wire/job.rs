//! Job specifications on the wire. [`JobSpec::check`] judges them; here stand the bounds of a message.

use super::field::{InvalidField, at_most, digest, digests, invalid, line, present, value};
use super::{FieldProblem, pb};
use crate::fingerprint::Fingerprint;
use crate::grid::Grid;
use crate::job::{EvolutionOptions, JobSpec, ModelIdentity, SearchObjective, SearchOptions, ShortWindow, StrategyKind};
use crate::racing::Racing;
use crate::rope::Rescale;
use crate::sample::SampleId;

/// Most factors of a rescale: half the largest head dimension of any configuration.
pub(super) const MAX_FACTORS: u64 = 1 << 13;
/// Largest config.json, in bytes.
pub const MAX_CONFIG_BYTES: usize = 1 << 20;
const MAX_NAME: usize = 200;
const MAX_LIST: usize = 20_000;
const MAX_WINDOWS: u64 = 64;

// === Rescale ===

impl TryFrom<pb::Rescale> for Rescale {
    type Error = InvalidField;
    fn try_from(message: pb::Rescale) -> Result<Self, InvalidField> {
        let count = message.factors.len();
        at_most("rescale.factors", count as u64, MAX_FACTORS)?;
        if count == 0 {
            return Err(invalid("rescale.factors", FieldProblem::Missing));
        }
        at_most("rescale.pair_attention", message.pair_attention.len() as u64, count as u64)?;
        let rescale = Self {
            factors: message.factors,
            start_tokens: message.start_tokens,
            attention_factor: message.attention_factor,
            pair_attention: message.pair_attention,
        };
        // How many factors the model needs is checked where the model is known.
        rescale.check(count).map_err(value("rescale"))?;
        Ok(rescale)
    }
}

impl From<&Rescale> for pb::Rescale {
    fn from(rescale: &Rescale) -> Self {
        Self {
            factors: rescale.factors.clone(),
            start_tokens: rescale.start_tokens,
            attention_factor: rescale.attention_factor,
            pair_attention: rescale.pair_attention.clone(),
        }
    }
}

// === ModelIdentity ===

impl TryFrom<pb::Model> for ModelIdentity {
    type Error = InvalidField;
    fn try_from(message: pb::Model) -> Result<Self, InvalidField> {
        at_most("model.config_json", message.config_json.len() as u64, MAX_CONFIG_BYTES as u64)?;
        Ok(Self {
            name: line("model.name", message.name, MAX_NAME)?,
            fingerprint: Fingerprint::from(digest::<32>("model.fingerprint", &message.fingerprint)?),
            config_json: message.config_json,
        })
    }
}

impl From<&ModelIdentity> for pb::Model {
    fn from(model: &ModelIdentity) -> Self {
        Self {
            name: model.name.clone(),
            fingerprint: model.fingerprint.as_bytes().to_vec(),
            config_json: model.config_json.clone(),
        }
    }
}

// === SearchOptions ===

impl TryFrom<pb::SearchOptions> for SearchOptions {
    type Error = InvalidField;
    fn try_from(message: pb::SearchOptions) -> Result<Self, InvalidField> {
        let strategy = match message.strategy() {
            pb::Strategy::Longrope => StrategyKind::LongRope,
            pb::Strategy::Ropewalk => StrategyKind::Ropewalk,
            pb::Strategy::DimMono => StrategyKind::DimMono,
            pb::Strategy::DimPieceMono => StrategyKind::DimPieceMono,
            pb::Strategy::Longrope2 => StrategyKind::LongRope2,
            pb::Strategy::Unspecified => {
                return Err(invalid("search.strategy", FieldProblem::Unknown(message.strategy)));
            }
        };
        let racing = match pb::Racing::try_from(message.racing) {
            // Those who know of none say nothing.
            Ok(pb::Racing::Unspecified | pb::Racing::Off) => Racing::Off,
            Ok(pb::Racing::Safe) => Racing::Safe,
            Ok(pb::Racing::Fast) => Racing::Fast,
            Err(_) => return Err(invalid("search.racing", FieldProblem::Unknown(message.racing))),
        };
        at_most("search.start_tokens", message.start_tokens.len() as u64, MAX_LIST as u64)?;
        at_most("search.init", message.init.len() as u64, MAX_LIST as u64)?;
        at_most("search.keep_short", message.keep_short.len() as u64, MAX_WINDOWS)?;
        Ok(Self {
            strategy,
            seed: message.seed,
            evolution: present("search.evolution", message.evolution)?.into(),
            slope_steps: message.slope_steps,
            pair_attention: message.pair_attention,
            grid: Grid::with_step(message.step).map_err(value("search.step"))?,
            max_factor: message.max_factor,
            start_tokens: message.start_tokens,
            attention_factor: message.attention_factor.parse().map_err(value("search.attention_factor"))?,
            init: message.init.into_iter().map(Rescale::try_from).collect::<Result<_, _>>()?,
            patience: message.patience,
            max_evaluations: message.max_evaluations,
            time_budget_seconds: message.time_budget_seconds,
            objective: objective("search.objective", &message.objective)?,
            racing,
            max_passes: message.max_passes,
            keep_short: message.keep_short.into_iter().map(ShortWindow::try_from).collect::<Result<_, _>>()?,
        })
    }
}

impl From<&SearchOptions> for pb::SearchOptions {
    fn from(search: &SearchOptions) -> Self {
        let strategy = match search.strategy {
            StrategyKind::LongRope => pb::Strategy::Longrope,
            StrategyKind::Ropewalk => pb::Strategy::Ropewalk,
            StrategyKind::DimMono => pb::Strategy::DimMono,
            StrategyKind::DimPieceMono => pb::Strategy::DimPieceMono,
            StrategyKind::LongRope2 => pb::Strategy::Longrope2,
        };
        let racing = match search.racing {
            Racing::Off => pb::Racing::Off,
            Racing::Safe => pb::Racing::Safe,
            Racing::Fast => pb::Racing::Fast,
        };
        Self {
            strategy: strategy.into(),
            seed: search.seed,
            evolution: Some(search.evolution.into()),
            slope_steps: search.slope_steps,
            pair_attention: search.pair_attention,
            step: search.grid.step(),
            max_factor: search.max_factor,
            start_tokens: search.start_tokens.clone(),
            attention_factor: search.attention_factor.to_string(),
            init: search.init.iter().map(Into::into).collect(),
            patience: search.patience,
            max_evaluations: search.max_evaluations,
            time_budget_seconds: search.time_budget_seconds,
            objective: search.objective.to_string(),
            racing: racing.into(),
            max_passes: search.max_passes,
            keep_short: search.keep_short.iter().map(Into::into).collect(),
        }
    }
}

/// An objective; those who know of none say nothing.
pub(super) fn objective(field: &'static str, text: &str) -> Result<SearchObjective, InvalidField> {
    match text {
        "" => Ok(SearchObjective::Perplexity),
        text => text.parse().map_err(value(field)),
    }
}

impl TryFrom<pb::ShortWindow> for ShortWindow {
    type Error = InvalidField;
    fn try_from(message: pb::ShortWindow) -> Result<Self, InvalidField> {
        let pb::ShortWindow { length, percent, samples, held_out } = message;
        let samples = digests("search.keep_short.samples", &samples, MAX_LIST)?;
        Ok(Self { length, percent, samples, held_out: digests("search.keep_short.held_out", &held_out, MAX_LIST)? })
    }
}

impl From<&ShortWindow> for pb::ShortWindow {
    fn from(window: &ShortWindow) -> Self {
        let bytes = |ids: &[SampleId]| ids.iter().map(|id| id.as_bytes().to_vec()).collect();
        let (samples, held_out) = (bytes(&window.samples), bytes(&window.held_out));
        Self { length: window.length, percent: window.percent, samples, held_out }
    }
}

impl From<pb::Evolution> for EvolutionOptions {
    fn from(message: pb::Evolution) -> Self {
        let pb::Evolution { population, mutations, crossovers, generations, parents, mutation_probability } = message;
        Self { population, mutations, crossovers, generations, parents, mutation_probability }
    }
}

impl From<EvolutionOptions> for pb::Evolution {
    fn from(options: EvolutionOptions) -> Self {
        let EvolutionOptions { population, mutations, crossovers, generations, parents, mutation_probability } =
            options;
        Self { population, mutations, crossovers, generations, parents, mutation_probability }
    }
}

// === JobSpec ===

impl TryFrom<pb::JobSpec> for JobSpec {
    type Error = InvalidField;
    fn try_from(message: pb::JobSpec) -> Result<Self, InvalidField> {
        Ok(Self {
            name: line("name", message.name, MAX_NAME)?,
            model: present("model", message.model)?.try_into()?,
            target_length: message.target_length,
            search: present("search", message.search)?.try_into()?,
            samples: digests("samples", &message.samples, MAX_LIST)?,
            held_out: digests("held_out", &message.held_out, MAX_LIST)?,
        })
    }
}

impl From<&JobSpec> for pb::JobSpec {
    fn from(spec: &JobSpec) -> Self {
        Self {
            name: spec.name.clone(),
            model: Some((&spec.model).into()),
            target_length: spec.target_length,
            search: Some((&spec.search).into()),
            samples: spec.samples.iter().map(|id| id.as_bytes().to_vec()).collect(),
            held_out: spec.held_out.iter().map(|id| id.as_bytes().to_vec()).collect(),
        }
    }
}
