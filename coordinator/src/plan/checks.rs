//! Whether the stages of a plan fit each other, as far as the plan itself tells.

use super::Plan;
use super::problem::Problem;
use super::stage::{FactorSource, FinetuneStage, RecoverStage, SearchStage, Stage, Training, Work};
use ropewalk_shared::plain_name;
use std::collections::HashSet;

/// Two of them and a length are the name of a job, which has at most 60 characters.
const MAX_NAME: usize = 24;
const MAX_HELD_OUT: usize = 1000;
const MAX_LENGTHS: usize = 64;

/// Names that can be folders, each once.
pub(super) fn names(stages: &[Stage], problems: &mut Vec<Problem>) {
    let mut seen = HashSet::new();
    for stage in stages {
        let name = &stage.name;
        match plain_name::check(name, MAX_NAME) {
            Err(wrong) => problems.push(Problem::of_stage(name, "name", wrong)),
            Ok(()) if name == "model" => {
                problems.push(Problem::of_stage(name, "name", "is what the model at the start is called"))
            }
            Ok(()) => {}
        }
        if !seen.insert(name.to_lowercase()) {
            problems.push(Problem::of_stage(name, "name", "is given twice (capitals do not count)"));
        }
    }
}

/// Names that stages use: each is a stage of a kind that has what is wanted.
pub(super) fn references(stages: &[Stage], problems: &mut Vec<Problem>) {
    let find = |name: &str| stages.iter().find(|stage| stage.name == name);
    let names: Vec<&str> = stages.iter().map(|stage| stage.name.as_str()).collect();
    let unknown = |name: &str| format!("{name:?} is no stage of the plan; its stages are {}", names.join(", "));
    for stage in stages {
        if let Some(from) = &stage.from {
            match find(from).map(|found| &found.work) {
                Some(Work::Finetune(_)) => {}
                Some(other) => {
                    let kind = other.kind();
                    let reason =
                        format!("{from:?} is a {kind} stage, which makes no model; name model or a finetune stage");
                    problems.push(Problem::of_stage(&stage.name, "from", reason));
                }
                None => problems.push(Problem::of_stage(&stage.name, "from", unknown(from))),
            }
        }
        for name in stage.work.factor_sources().into_iter().filter_map(FactorSource::stage) {
            match find(name).map(|found| &found.work) {
                Some(Work::Search(_) | Work::Recover(_) | Work::Finetune(_)) => {}
                Some(other) => {
                    let reason = format!("{name:?} is a {} stage, which finds no factors", other.kind());
                    problems.push(Problem::of_stage(&stage.name, "factors", reason));
                }
                None => problems.push(Problem::of_stage(&stage.name, "factors", unknown(name))),
            }
        }
    }
}

/// Everything else that does not depend on a model.
pub(super) fn sense(plan: &Plan, problems: &mut Vec<Problem>) {
    if let Err(wrong) = plain_name::check(&plan.name, MAX_NAME) {
        problems.push(Problem::of_plan("name", wrong));
    }
    if !(1..=MAX_HELD_OUT).contains(&plan.held_out) {
        problems.push(Problem::of_plan(
            "held_out",
            format!("must be from 1 to {MAX_HELD_OUT}: results are judged on them"),
        ));
    }
    for stage in &plan.stages {
        let mut problem = |field: &str, reason: String| problems.push(Problem::of_stage(&stage.name, field, reason));
        if stage.work.searches().iter().any(|(_, samples, _)| *samples == 0) {
            problem("samples", "must be at least 1".to_owned());
        }
        match &stage.work {
            Work::Search(search) => {
                search_sense(plan, search, &mut problem);
                if search.options.pair_attention > 0 {
                    pair_attention_sense(plan, stage, &mut problem);
                }
            }
            Work::Recover(recover) => {
                recover_sense(plan, recover, &mut problem);
                if recover.options.pair_attention > 0 {
                    let reason = "a table of factors has attention factors of single pairs for all lengths or for none";
                    problem("pair_attention", reason.to_owned());
                }
            }
            Work::Finetune(tune) => finetune_sense(plan, tune, &mut problem),
            Work::Evaluate(evaluate) => {
                lengths("lengths", &evaluate.lengths, &mut problem);
                if evaluate.samples == 0 {
                    problem("samples", "must be at least 1".to_owned());
                }
                if let Some(task) = &evaluate.retrieval {
                    lengths("retrieval_lengths", &task.lengths, &mut problem);
                    if !(1..=64).contains(&task.depths) || !(1..=1000).contains(&task.trials) {
                        problem("depths", "must be from 1 to 64, and trials from 1 to 1000".to_owned());
                    }
                }
            }
            Work::Export(export) => {
                same_model(plan, stage, &export.factors, &mut problem);
                short_start_tokens(plan, &export.factors, &mut problem);
            }
        }
    }
}

/// Engines are given factors that were searched on these very weights.
fn same_model(plan: &Plan, stage: &Stage, source: &FactorSource, problem: &mut impl FnMut(&str, String)) {
    let Some(searched) = source.stage().and_then(|name| plan.stage(name)) else { return };
    if searched.from != stage.from {
        let of = |from: &Option<String>| from.clone().unwrap_or_else(|| "model".to_owned());
        let (theirs, ours) = (of(&searched.from), of(&stage.from));
        problem("from", format!("is {ours}, but the factors of {} were searched on {theirs}", searched.name));
    }
}

/// Of a table the short sets are exported as they are, and no engine can leave starting tokens alone: better said now than
/// after days.
fn short_start_tokens(plan: &Plan, source: &FactorSource, problem: &mut impl FnMut(&str, String)) {
    let Some(Stage { name, work: Work::Recover(recover), .. }) = source.stage().and_then(|name| plan.stage(name))
    else {
        return;
    };
    if recover.options.start_tokens != [0] {
        problem(
            "factors",
            format!("{name} searches starting tokens, which no engine can leave alone; give it start_tokens = [0]"),
        );
    }
}

fn lengths(field: &str, lengths: &[u32], problem: &mut impl FnMut(&str, String)) {
    if lengths.is_empty() || lengths.len() > MAX_LENGTHS {
        problem(field, format!("must list 1 to {MAX_LENGTHS} lengths"));
    }
    if !lengths.is_sorted_by(|a, b| a < b) {
        problem(field, "must be ascending without repetition".to_owned());
    }
    if lengths.iter().any(|&length| length < 2) {
        problem(field, "a document of less than 2 tokens has nothing to predict".to_owned());
    }
}

/// The length that a stage's factors were searched for.
pub(super) fn length_of(plan: &Plan, source: &FactorSource) -> Option<u32> {
    match &plan.stage(source.stage()?)?.work {
        Work::Search(search) => Some(search.length),
        Work::Recover(recover) => length_of(plan, &recover.long),
        _ => None,
    }
}

fn search_sense(plan: &Plan, search: &SearchStage, problem: &mut impl FnMut(&str, String)) {
    if let Some((start, length)) = search.start.as_ref().and_then(|start| Some((start, length_of(plan, start)?)))
        && length > search.length
    {
        problem("length", format!("{} is below the {length} tokens of its start, {start}", search.length));
    }
    let strategy = search.options.strategy;
    if search.start.is_some() && !strategy.takes_init() {
        problem("start", format!("the strategy {} has a start of its own: leave it out", strategy.name()));
    }
}

/// Attention factors of pairs end in the weights: what is searched, trained or joined to a table from these factors would go
/// on without them.
fn pair_attention_sense(plan: &Plan, stage: &Stage, problem: &mut impl FnMut(&str, String)) {
    let goes_on = |other: &&Stage| {
        let finds = matches!(other.work, Work::Search(_) | Work::Finetune(_) | Work::Recover(_));
        finds && other.work.factor_sources().into_iter().any(|source| source.stage() == Some(stage.name.as_str()))
    };
    if let Some(other) = plan.stages.iter().find(goes_on) {
        let (name, kind) = (&other.name, other.work.kind());
        problem(
            "pair_attention",
            format!(
                "{name} ({kind}) starts from these factors and would leave out the attention factors of their pairs; \
                     search those in the last search alone"
            ),
        );
    }
}

fn recover_sense(plan: &Plan, recover: &RecoverStage, problem: &mut impl FnMut(&str, String)) {
    lengths("lengths", &recover.lengths, problem);
    table_order(recover, |source| length_of(plan, source), problem);
}

/// Windows of a table ascend, as far as the lengths of their factors are known.
pub(crate) fn table_order(
    recover: &RecoverStage,
    length_of: impl Fn(&FactorSource) -> Option<u32>,
    problem: &mut impl FnMut(&str, String),
) {
    let mut last = recover.lengths.last().copied().unwrap_or(0);
    for source in &recover.keep {
        let Some(length) = length_of(source) else { continue };
        if length <= last {
            problem(
                "keep",
                format!("{source} is for {length} tokens, which must be above {last}, the length before it"),
            );
        }
        last = length;
    }
    if let Some(length) = length_of(&recover.long).filter(|&length| length <= last) {
        problem("long", format!("{} is for {length} tokens, which must be above {last}", recover.long));
    }
}

fn finetune_sense(plan: &Plan, tune: &FinetuneStage, problem: &mut impl FnMut(&str, String)) {
    if let (Some(length), Some(searched)) = (tune.length(), length_of(plan, &tune.factors))
        && length > searched
    {
        let field = if matches!(tune.training, Training::Embedded { .. }) { "training.length" } else { "length" };
        problem(field, format!("{length} is above the {searched} tokens that {} was searched for", tune.factors));
    }
}
