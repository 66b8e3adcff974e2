//! Stages: what each kind does and what it starts from.

use ropewalk_shared::job::SearchOptions;
use serde::Serialize;
use std::fmt;
use std::path::PathBuf;

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stage {
    /// Its name: letters, digits, `-`, `_` and `.`, the first a letter or digit.
    pub name: String,
    /// The stage whose model it works on; absent for the model that the plan is run with.
    pub from: Option<String>,
    /// What it does.
    #[serde(flatten)]
    pub work: Work,
}

/// What a stage does.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Work {
    /// Searches factors for one length.
    Search(SearchStage),
    /// Trains the model with given factors.
    Finetune(FinetuneStage),
    /// Searches factors for short lengths, and joins them with the long ones to a table.
    Recover(RecoverStage),
    /// Measures what came out.
    Evaluate(EvaluateStage),
    /// Writes a model's folder with the factors in it.
    Export(ExportStage),
}

/// Where factors come from.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FactorSource {
    /// What a search or recovery found.
    Stage(String),
    /// A factor file.
    File(PathBuf),
}

/// A search. From a fine-tuned model this is the paper's second search, which starts from the factors of the training.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SearchStage {
    /// The window to reach, in tokens.
    pub length: u32,
    /// Documents that candidates are judged on.
    pub samples: usize,
    /// Factors to start from besides the published methods, rescaled to this length.
    pub start: Option<FactorSource>,
    /// How to search.
    pub options: SearchOptions,
}

/// Training with given factors.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FinetuneStage {
    /// Factors that the model is trained with.
    pub factors: FactorSource,
    /// How.
    pub training: Training,
}

/// Who trains.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Training {
    /// This program, on this machine.
    Embedded {
        /// Settings of the training, as the plan states them.
        settings: serde_json::Map<String, serde_json::Value>,
    },
    /// Another program.
    Command {
        /// The program and its arguments.
        command: Vec<String>,
        /// Optimiser steps, handed on to it.
        steps: Option<u32>,
        /// Tokens of its sequences, handed on to it.
        length: Option<u32>,
    },
    /// It was done before.
    Checkpoint {
        /// The model's folder.
        path: PathBuf,
    },
}

/// Short-window recovery (section 3.4 of the paper): at inference the set is chosen by the current length.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RecoverStage {
    /// Factors of the longest window.
    pub long: FactorSource,
    /// Factors of windows between that go into the table as they are, each up to the length it was searched for.
    pub keep: Vec<FactorSource>,
    /// Lengths to search at, ascending.
    pub lengths: Vec<u32>,
    /// Documents that candidates are judged on.
    pub samples: usize,
    /// How to search; the largest factor is a reduced one.
    pub options: SearchOptions,
}

/// Measurements on documents that no search saw.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EvaluateStage {
    /// The factors that are judged.
    pub factors: FactorSource,
    /// Lengths at which perplexity is measured, in tokens.
    pub lengths: Vec<u32>,
    /// Held-out documents that are used, at most those that the plan sets aside.
    pub samples: usize,
    /// Retrieval, where it is asked for.
    pub retrieval: Option<RetrievalTask>,
}

/// Pass keys to find, before and after.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RetrievalTask {
    /// Lengths of the prompts, in tokens.
    pub lengths: Vec<u32>,
    /// Depths of the key, evenly from start to end.
    pub depths: u32,
    /// Prompts for each length and depth.
    pub trials: u32,
    /// Seed of the keys.
    pub seed: u64,
}

/// A model's folder with the factors applied.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExportStage {
    /// The factors.
    pub factors: FactorSource,
    /// Whether starting tokens, which no engine can leave alone, are given up; else they are refused.
    pub drop_start_tokens: bool,
}

// === impl Stage ===

impl Stage {
    /// The stages whose results it needs.
    pub fn needs(&self) -> Vec<&str> {
        let factors = self.work.factor_sources().into_iter().filter_map(FactorSource::stage);
        self.from.as_deref().into_iter().chain(factors).collect()
    }
}

// === impl Work ===

impl Work {
    /// The name of the kind, as in the file.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Search(_) => "search",
            Self::Finetune(_) => "finetune",
            Self::Recover(_) => "recover",
            Self::Evaluate(_) => "evaluate",
            Self::Export(_) => "export",
        }
    }

    /// Where its factors come from.
    pub fn factor_sources(&self) -> Vec<&FactorSource> {
        match self {
            Self::Search(search) => search.start.iter().collect(),
            Self::Finetune(tune) => vec![&tune.factors],
            Self::Recover(recover) => std::iter::once(&recover.long).chain(&recover.keep).collect(),
            Self::Evaluate(evaluate) => vec![&evaluate.factors],
            Self::Export(export) => vec![&export.factors],
        }
    }

    pub(super) fn factor_sources_mut(&mut self) -> Vec<&mut FactorSource> {
        match self {
            Self::Search(search) => search.start.iter_mut().collect(),
            Self::Finetune(tune) => vec![&mut tune.factors],
            Self::Recover(recover) => std::iter::once(&mut recover.long).chain(&mut recover.keep).collect(),
            Self::Evaluate(evaluate) => vec![&mut evaluate.factors],
            Self::Export(export) => vec![&mut export.factors],
        }
    }

    /// Its searches: the length, how many documents, and how.
    pub fn searches(&self) -> Vec<(u32, usize, &SearchOptions)> {
        match self {
            Self::Search(search) => vec![(search.length, search.samples, &search.options)],
            Self::Recover(recover) => {
                recover.lengths.iter().map(|&length| (length, recover.samples, &recover.options)).collect()
            }
            Self::Finetune(_) | Self::Evaluate(_) | Self::Export(_) => Vec::new(),
        }
    }

    /// Lengths of the documents of `--valid` that it reads, in tokens.
    pub fn document_lengths(&self) -> Vec<u32> {
        match self {
            Self::Search(search) => vec![search.length],
            Self::Recover(recover) => recover.lengths.clone(),
            Self::Evaluate(evaluate) => evaluate.lengths.clone(),
            Self::Finetune(_) | Self::Export(_) => Vec::new(),
        }
    }
}

// === impl FinetuneStage ===

impl FinetuneStage {
    /// Whether training documents are needed.
    pub fn needs_data(&self) -> bool {
        !matches!(self.training, Training::Checkpoint { .. })
    }

    /// Tokens of a training sequence, where the plan says so.
    pub fn length(&self) -> Option<u32> {
        match &self.training {
            Training::Embedded { settings } => settings.get("length")?.as_u64().and_then(|n| u32::try_from(n).ok()),
            Training::Command { length, .. } => *length,
            Training::Checkpoint { .. } => None,
        }
    }
}

// === impl FactorSource ===

impl FactorSource {
    /// What a plan's text means: what looks like a file is one, all else names a stage.
    pub(super) fn read(text: &str) -> Self {
        let file = text.contains(['/', '\\']) || text.ends_with(".json") || text.ends_with(".csv");
        if file { Self::File(text.into()) } else { Self::Stage(text.to_owned()) }
    }

    /// The stage, where it is one.
    pub fn stage(&self) -> Option<&str> {
        match self {
            Self::Stage(name) => Some(name),
            Self::File(_) => None,
        }
    }
}

impl fmt::Display for FactorSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stage(name) => f.write_str(name),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}
