//! A plan: the stages that stretch a model's window step by step, and what each of them starts from.
//!
//! ```text
//! model -> search -> finetune -> search (second) -> recover -> evaluate, export
//! ```
//!
//! LongRoPE reaches 2,048k tokens (section 3.4 of its paper) not by one search but by several, with fine-tuning between
//! them. A plan is a TOML file with one `[[stage]]` for each step. It is read and checked as a whole, and everything that
//! is wrong with it is told at once: a stage may only run after days of others.
//!
//! Pure: what a plan is, whether it makes sense, and the [identity](identity) of a stage's result. Running it is the command
//! line's part.

mod checks;
mod fields;
pub mod identity;
mod job;
mod of_model;
mod order;
pub mod presets;
mod problem;
mod read;
mod stage;

#[cfg(feature = "local")]
pub(crate) use checks::table_order;
pub use job::{job, stand_ins};
pub use problem::{InvalidPlan, Problem};
pub use stage::{
    EvaluateStage, ExportStage, FactorSource, FinetuneStage, RecoverStage, RetrievalTask, SearchStage, Stage, Training,
    Work,
};

use serde::Serialize;

/// A checked plan. Its stages stand in an order in which each comes after all that it needs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// A short name, part of the names of jobs.
    pub name: String,
    /// Seed of the draw of documents, and of every stage that has none of its own.
    pub seed: u64,
    /// Documents of the longest length that no search sees: what results are judged on.
    pub held_out: usize,
    /// The window of the models that the plan is for, in tokens; absent for any.
    pub original_length: Option<u32>,
    /// What is done.
    pub stages: Vec<Stage>,
}

// === impl Plan ===

impl Plan {
    /// The stage of this name.
    pub fn stage(&self, name: &str) -> Option<&Stage> {
        self.stages.iter().find(|stage| stage.name == name)
    }

    /// Names of the stage and of all that need its result, directly or not, in the plan's order.
    pub fn dependents(&self, name: &str) -> Vec<&str> {
        let mut found = vec![name];
        // Each stage stands after all that it needs.
        for stage in &self.stages {
            if stage.needs().iter().any(|need| found.contains(need)) && !found.contains(&stage.name.as_str()) {
                found.push(&stage.name);
            }
        }
        self.stages.iter().map(|stage| stage.name.as_str()).filter(|name| found.contains(name)).collect()
    }

    /// The length that the factors of a stage are searched for, in tokens; `None` for files, which say it themselves.
    pub fn length_of(&self, source: &FactorSource) -> Option<u32> {
        checks::length_of(self, source)
    }

    /// The longest document that any stage reads, in tokens: documents as long are set aside for the results.
    pub fn longest(&self) -> u32 {
        self.stages.iter().flat_map(|stage| stage.work.document_lengths()).max().unwrap_or(0)
    }

    /// Whether any stage trains on documents here.
    pub fn trains(&self) -> bool {
        self.stages.iter().any(|stage| matches!(&stage.work, Work::Finetune(tune) if tune.needs_data()))
    }
}
