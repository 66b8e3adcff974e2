//! What a job was launched with, in short.

use crate::store::{Store, StoreError};
use maud::{Markup, html};
use ropewalk_shared::job::{JobSpec, StrategyKind};
use ropewalk_shared::plan::PlanJob;
use ropewalk_shared::status::JobStatus;
use ropewalk_shared::training::{Method, TrainingJob};

/// Names and values, in the order in which they are shown.
pub(super) type Facts = Vec<(&'static str, String)>;

/// The facts of a job, from its stored specification.
///
/// # Errors
/// [`StoreError`] when it cannot be read.
pub(super) fn facts(store: &Store, status: &JobStatus) -> Result<Facts, StoreError> {
    if status.training.is_some() {
        return store.training(&status.job_id).map(|job| of_training(&job));
    }
    if status.plan.is_some() {
        return store.plan(&status.job_id).map(|job| of_plan(&job));
    }
    store.spec(&status.job_id).map(|spec| of_search(&spec))
}

/// Facts as a list.
pub(super) fn list(facts: &Facts) -> Markup {
    html! { dl { @for (name, value) in facts { dt { (name) } dd { (value) } } } }
}

fn of_search(spec: &JobSpec) -> Facts {
    let search = &spec.search;
    let evolution = &search.evolution;
    let starts = search.start_tokens.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    let mut facts = vec![
        ("strategy", search.strategy.name().to_owned()),
        ("seed", search.seed.to_string()),
        ("documents", format!("{} searched on, {} held out", spec.samples.len(), spec.held_out.len())),
    ];
    if search.strategy == StrategyKind::LongRope {
        let sizes = format!(
            "{}, then {} mutations and {} crossovers of {} parents in {} generations",
            evolution.population, evolution.mutations, evolution.crossovers, evolution.parents, evolution.generations
        );
        facts.push(("population", sizes));
    }
    facts.push(("objective", search.objective.to_string()));
    facts.push(("starting tokens", starts));
    facts.push(("attention factor", search.attention_factor.to_string()));
    facts.push(("racing", search.racing.to_string()));
    let bounds = [
        search.max_evaluations.map(|most| format!("{most} evaluations")),
        search.max_passes.map(|most| format!("{most} document passes")),
        search.time_budget_seconds.map(|most| format!("{most} s")),
        search.patience.map(|most| format!("{most} generations without a better candidate")),
    ];
    let bounds: Vec<String> = bounds.into_iter().flatten().collect();
    if !bounds.is_empty() {
        facts.push(("ends after", bounds.join(", or ")));
    }
    facts.extend(search.keep_short.iter().map(|window| ("keeps", window.to_string())));
    facts.push(("model", spec.model.fingerprint.to_string()));
    facts
}

fn of_training(job: &TrainingJob) -> Facts {
    let settings = &job.settings;
    let method = match &settings.method {
        Method::Full => "all weights".to_owned(),
        Method::Lora(lora) => format!("LoRA of rank {}", lora.rank),
    };
    vec![
        ("trains", method),
        ("steps", format!("{} of {} sequences", settings.steps, settings.sequences_per_step)),
        ("learning rate", format!("{}, after {} steps", settings.learning_rate, settings.warmup_steps)),
        ("seed", settings.seed.to_string()),
        ("folder", format!("{}: stages/{}, models/{}", job.place.folder, job.place.stage, job.place.output)),
        ("model", job.model.fingerprint.to_string()),
    ]
}

fn of_plan(job: &PlanJob) -> Facts {
    vec![("folder", job.folder.clone()), ("stages", job.stages.to_string())]
}
