//! From a plan's text to a checked plan.

use super::checks;
use super::fields::Fields;
use super::problem::{InvalidPlan, Problem};
use super::stage::{
    EvaluateStage, ExportStage, FactorSource, FinetuneStage, RecoverStage, RetrievalTask, SearchStage, Stage, Training,
    Work,
};
use super::{Plan, order};
use crate::units;
use ropewalk_shared::attention_factor::AttentionFactorPolicy;
use ropewalk_shared::grid::Grid;
use ropewalk_shared::job::{EvolutionOptions, SearchOptions, ShortWindow, StrategyKind};
use toml::{Table, Value};

/// Largest plan read, in bytes.
pub const MAX_BYTES: usize = 1 << 20;
/// Most stages of a plan.
const MAX_STAGES: usize = 200;
/// From this length on the paper halves the population and takes fewer documents.
const HALVED_FROM: u32 = 512 << 10;
/// Name of the model that the plan is run with, where a stage says what it starts from.
const MODEL: &str = "model";

impl Plan {
    /// Reads and checks the text of a plan.
    ///
    /// # Errors
    /// [`InvalidPlan`] with everything that is wrong with it.
    pub fn read(text: &str) -> Result<Self, InvalidPlan> {
        let fatal = |reason: String| InvalidPlan { problems: vec![Problem::of_plan("file", reason)] };
        if text.len() > MAX_BYTES {
            return Err(fatal(format!("has {} bytes, a plan has at most {MAX_BYTES}", text.len())));
        }
        let table: Table = text.parse().map_err(|error| fatal(format!("is no TOML: {error}")))?;
        let mut problems = Vec::new();
        let mut plan = Self::of_table(table, &mut problems);
        checks::names(&plan.stages, &mut problems);
        checks::references(&plan.stages, &mut problems);
        // Without names that mean something there is no order, and nothing to compare.
        InvalidPlan::unless_none(std::mem::take(&mut problems))?;
        plan.stages = in_order(plan.stages)?;
        trained_with(&mut plan.stages);
        checks::sense(&plan, &mut problems);
        InvalidPlan::unless_none(problems)?;
        Ok(plan)
    }

    fn of_table(table: Table, problems: &mut Vec<Problem>) -> Self {
        let mut fields = Fields::of_plan(table, problems);
        let name = fields.text("name").unwrap_or_else(|| "plan".to_owned());
        let seed = fields.whole("seed").unwrap_or(0);
        let held_out = fields.whole("held_out").unwrap_or(5usize);
        let original_length = fields.length("original_length");
        let tables = stages(&mut fields);
        fields.finish("a plan");
        let stages = tables.into_iter().enumerate();
        let stages = stages.filter_map(|(index, table)| stage(index, table, seed, problems)).collect();
        Self { name, seed, held_out, original_length, stages }
    }
}

fn stages(fields: &mut Fields<'_>) -> Vec<Table> {
    let what = "a plan needs at least one [[stage]]";
    let value = fields.take("stage");
    let Some(value) = fields.required("stage", value, what) else { return Vec::new() };
    let tables = value.try_into::<Vec<Table>>().unwrap_or_default();
    if tables.is_empty() || tables.len() > MAX_STAGES {
        fields.problem("stage", format!("must be given 1 to {MAX_STAGES} times, each as [[stage]]"));
        return Vec::new();
    }
    tables
}

fn stage(index: usize, table: Table, seed: u64, problems: &mut Vec<Problem>) -> Option<Stage> {
    // Until its name is known, messages count.
    let shown = match table.get("name") {
        Some(Value::String(name)) => name.clone(),
        _ => format!("{} (without a name)", index + 1),
    };
    let mut fields = Fields::of_stage(&shown, table, problems);
    let name = fields.text("name");
    let name = fields.required("name", name, "every stage has one");
    let from = fields.text("from").filter(|from| from != MODEL);
    let kind = fields.text("kind");
    let kind = fields.required("kind", kind, "search, finetune, recover, evaluate or export")?;
    let work = match kind.as_str() {
        "search" => search(&mut fields, seed).map(Work::Search),
        "finetune" => finetune(&mut fields).map(Work::Finetune),
        "recover" => recover(&mut fields, seed).map(Work::Recover),
        "evaluate" => evaluate(&mut fields, seed).map(Work::Evaluate),
        "export" => export(&mut fields).map(Work::Export),
        _ => {
            fields.problem("kind", format!("{kind:?} is none: search, finetune, recover, evaluate or export"));
            // Its fields are not known either.
            return None;
        }
    };
    fields.finish(&format!("a {kind} stage"));
    Some(Stage { name: name?, from, work: work? })
}

fn factors(fields: &mut Fields<'_>, field: &'static str) -> Option<FactorSource> {
    let text = fields.text(field);
    let text = fields.required(field, text, "the stage that searched the factors, or a factor file");
    text.map(|text| FactorSource::read(&text))
}

fn search(fields: &mut Fields<'_>, seed: u64) -> Option<SearchStage> {
    let length = fields.length("length");
    let length = fields.required("length", length, "the window to reach, in tokens");
    let halved = length.is_some_and(|length| length >= HALVED_FROM);
    let samples = fields.whole("samples").unwrap_or(if halved { 3 } else { 5 });
    let start = fields.text("start").map(|text| FactorSource::read(&text));
    let options = options(fields, seed, halved);
    Some(SearchStage { length: length?, samples, start, options })
}

fn recover(fields: &mut Fields<'_>, seed: u64) -> Option<RecoverStage> {
    let long = factors(fields, "long");
    let keep = fields.texts("keep").unwrap_or_default().iter().map(|text| FactorSource::read(text)).collect();
    let lengths = fields.lengths("lengths");
    let lengths = fields.required("lengths", lengths, "the short windows to recover, in tokens");
    let samples = fields.whole("samples").unwrap_or(5);
    let mut options = options(fields, seed, false);
    if !fields.was_given("start_tokens") {
        // No engine can leave starting tokens alone, and a table has sets for several lengths to be exported at once.
        options.start_tokens = vec![0];
    }
    let max_factor = options.max_factor;
    fields.required("max_factor", max_factor, "the reduced largest factor at short lengths");
    Some(RecoverStage { long: long?, keep, lengths: lengths?, samples, options })
}

/// The options of a search: the strategy's usual ones, or half the population where that is published.
fn options(fields: &mut Fields<'_>, seed: u64, halved: bool) -> SearchOptions {
    let strategy = fields.parsed::<StrategyKind>("strategy").unwrap_or_default();
    let share = if halved { 2 } else { 1 };
    let usual = strategy.options();
    let evolution = EvolutionOptions {
        population: fields.whole("population").unwrap_or(usual.population / share),
        mutations: fields.whole("mutations").unwrap_or(usual.mutations / share),
        crossovers: fields.whole("crossovers").unwrap_or(usual.crossovers / share),
        generations: fields.whole("generations").unwrap_or(usual.generations),
        parents: fields.whole("parents").unwrap_or(usual.parents),
        mutation_probability: fields.number("mutation_probability").unwrap_or(usual.mutation_probability),
    };
    let grid = match fields.number("step").map(Grid::with_step) {
        None => Grid::PAPER,
        Some(Ok(grid)) => grid,
        Some(Err(error)) => {
            fields.problem("step", error);
            Grid::PAPER
        }
    };
    let default = SearchOptions::default();
    let time_budget = fields.parsed::<String>("time_budget").and_then(|text| match units::seconds(&text) {
        Ok(seconds) => Some(seconds),
        Err(reason) => {
            fields.problem("time_budget", reason);
            None
        }
    });
    SearchOptions {
        strategy,
        seed: fields.whole("seed").unwrap_or(seed),
        evolution,
        grid,
        max_factor: fields.number("max_factor"),
        start_tokens: fields.wholes("start_tokens").unwrap_or_else(|| match strategy.searches_start_tokens() {
            true => default.start_tokens.clone(),
            false => vec![0],
        }),
        attention_factor: fields
            .parsed::<AttentionFactorPolicy>("attention_factor")
            .unwrap_or(default.attention_factor),
        pair_attention: fields.whole("pair_attention").unwrap_or_default(),
        patience: fields.whole("patience"),
        max_evaluations: fields.whole("max_evaluations"),
        time_budget_seconds: time_budget,
        racing: fields.parsed("racing").unwrap_or_default(),
        max_passes: fields.whole("max_passes"),
        objective: fields.parsed("objective").unwrap_or_default(),
        keep_short: keep_short(fields),
        ..default
    }
}

/// Short windows to keep; their samples are drawn with the documents.
fn keep_short(fields: &mut Fields<'_>) -> Vec<ShortWindow> {
    let mut windows = Vec::new();
    for text in fields.texts("keep_short").unwrap_or_default() {
        match units::short_window(&text) {
            Ok(window) => windows.push(window),
            Err(error) => fields.problem("keep_short", error),
        }
    }
    windows
}

fn finetune(fields: &mut Fields<'_>) -> Option<FinetuneStage> {
    let factors = factors(fields, "factors");
    let (command, checkpoint) = (fields.texts("command"), fields.text("checkpoint"));
    let training = match (command, checkpoint) {
        (Some(_), Some(_)) => {
            fields.problem("checkpoint", "contradicts command: a checkpoint that is there needs no training");
            return None;
        }
        (None, Some(path)) => Training::Checkpoint { path: path.into() },
        (Some(command), None) => {
            if command.first().is_none_or(String::is_empty) {
                fields.problem("command", "must name a program, then its arguments");
            }
            Training::Command { command, steps: fields.whole("steps"), length: fields.length("length") }
        }
        (None, None) => Training::Embedded { settings: settings(fields)? },
    };
    if !matches!(training, Training::Embedded { .. }) && fields.take("training").is_some() {
        fields.problem("training", "contradicts command and checkpoint: it is for the training of this program");
    }
    Some(FinetuneStage { factors: factors?, training })
}

/// The settings of the training in its own table, which the trainer itself knows and checks.
fn settings(fields: &mut Fields<'_>) -> Option<serde_json::Map<String, serde_json::Value>> {
    let table = fields.take("training");
    let table = fields.required("training", table, "the settings of the training, [stage.training]")?;
    match serde_json::to_value(table) {
        Ok(serde_json::Value::Object(mut settings)) => {
            let mut in_tokens = |name: &str, value: Option<&mut serde_json::Value>| {
                if let Some(value) = value
                    && let serde_json::Value::String(text) = value
                {
                    match units::tokens(text) {
                        Ok(length) => *value = length.into(),
                        Err(reason) => fields.problem(name, reason),
                    }
                }
            };
            in_tokens("training.length", settings.get_mut("length"));
            let mix = settings.get_mut("mix").and_then(serde_json::Value::as_object_mut);
            in_tokens("training.mix.skip_reach", mix.and_then(|mix| mix.get_mut("skip_reach")));
            Some(settings)
        }
        _ => {
            fields.problem("training", "must be a table, [stage.training]");
            None
        }
    }
}

fn evaluate(fields: &mut Fields<'_>, seed: u64) -> Option<EvaluateStage> {
    let factors = factors(fields, "factors");
    let lengths = fields.lengths("lengths");
    let lengths = fields.required("lengths", lengths, "where perplexity is measured, in tokens");
    let samples = fields.whole("samples").unwrap_or(usize::MAX);
    let retrieval_lengths = fields.lengths("retrieval_lengths");
    let (depths, trials) = (fields.whole("depths").unwrap_or(5), fields.whole("trials").unwrap_or(2));
    let seed = fields.whole("seed").unwrap_or(seed);
    if !fields.was_given("retrieval_lengths") {
        for field in ["depths", "trials", "seed"] {
            if fields.was_given(field) {
                fields.problem(field, "needs retrieval_lengths, the lengths at which numbers are hidden");
            }
        }
    }
    let retrieval = retrieval_lengths.map(|lengths| RetrievalTask { lengths, depths, trials, seed });
    Some(EvaluateStage { factors: factors?, lengths: lengths?, samples, retrieval })
}

fn export(fields: &mut Fields<'_>) -> Option<ExportStage> {
    let factors = factors(fields, "factors");
    let drop_start_tokens = fields.flag("drop_start_tokens").unwrap_or(true);
    Some(ExportStage { factors: factors?, drop_start_tokens })
}

/// Puts stages after those that they need.
fn in_order(stages: Vec<Stage>) -> Result<Vec<Stage>, InvalidPlan> {
    let index = |name: &str| stages.iter().position(|stage| stage.name == name);
    let needs: Vec<Vec<usize>> =
        stages.iter().map(|stage| stage.needs().into_iter().filter_map(index).collect()).collect();
    match order::order(&needs) {
        Ok(order) => Ok(order.into_iter().map(|at| stages[at].clone()).collect()),
        Err(cycle) => {
            let first = cycle.first().copied().unwrap_or(0);
            let path: Vec<&str> = cycle.iter().chain([&first]).map(|&at| stages[at].name.as_str()).collect();
            let problem = Problem::of_plan("stage", format!("a cycle: {}, each needs the next", path.join(" -> ")));
            Err(InvalidPlan { problems: vec![problem] })
        }
    }
}

/// A fine-tuned model's own factors are those it was trained with, and a search on it starts from them unless told otherwise.
fn trained_with(stages: &mut [Stage]) {
    let of = |stages: &[Stage], name: &str| match &stages.iter().find(|stage| stage.name == name)?.work {
        Work::Finetune(tune) => Some(tune.factors.clone()),
        _ => None,
    };
    for at in 0..stages.len() {
        let own = stages[at].from.as_deref().and_then(|from| of(stages, from));
        if let Work::Search(search) = &mut stages[at].work {
            // A strategy that takes no start has its own.
            search.start = search.start.take().or(own.filter(|_| search.options.strategy.takes_init()));
        }
        // Earlier stages are done: what a training trains with is a search, a recovery or a file by now.
        let (done, rest) = stages.split_at_mut(at);
        for source in rest[0].work.factor_sources_mut() {
            if let Some(factors) = source.stage().and_then(|name| of(done, name)) {
                *source = factors;
            }
        }
    }
}
