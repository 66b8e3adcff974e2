//! What would stop a stage late, and can be seen in the files and the model before anything runs.

use super::evaluate::{grass, pass_keys};
use super::export::checkpoint;
use crate::cli::prepare::ModelFolder;
use crate::documents::DocumentTokenizer;
use crate::export::hf;
use crate::plan::{ExportStage, FactorSource, Plan, RetrievalTask, Stage, Work, table_order};
use ropewalk_shared::attention_factor::AttentionFactorPolicy;
use ropewalk_shared::factor_file::FactorFile;
use ropewalk_shared::fingerprint::Fingerprint;
use ropewalk_shared::retrieval::Template;
use std::collections::HashMap;
use std::path::PathBuf;

/// The factor files that a plan names, as far as they can be read.
pub(super) type FactorFiles = HashMap<PathBuf, FactorFile>;

/// Notes it by the field that it is about.
pub(super) fn check(
    plan: &Plan,
    stage: &Stage,
    (base, fingerprint): (&ModelFolder, Fingerprint),
    files: &FactorFiles,
    problem: &mut impl FnMut(&str, String),
) {
    match &stage.work {
        Work::Recover(recover) => {
            // Of stages alone the plan itself was checked.
            let of_file = |path: &PathBuf| files.get(path)?.target_length;
            let length = |source: &FactorSource| match source {
                FactorSource::File(path) => of_file(path),
                source => plan.length_of(source),
            };
            table_order(recover, length, problem);
        }
        Work::Evaluate(evaluate) => {
            if let Some(task) = &evaluate.retrieval {
                prompts(task, base, problem);
            }
        }
        Work::Export(export) => {
            // The weights of a model that a stage makes are not there yet.
            let fingerprint = stage.from.is_none().then_some(fingerprint);
            match &export.factors {
                FactorSource::File(path) => export_of_file(export, files.get(path), (base, fingerprint), problem),
                source => export_of_stage(plan, source, base, problem),
            }
        }
        Work::Search(_) | Work::Finetune(_) => {}
    }
}

/// Prompts need a tokenizer, and room for their text.
fn prompts(task: &RetrievalTask, base: &ModelFolder, problem: &mut impl FnMut(&str, String)) {
    let built = || {
        let tokenizer = DocumentTokenizer::open(&base.path, &base.description).map_err(|error| error.to_string())?;
        let grass = grass(&tokenizer).map_err(|failure| failure.to_string())?;
        let (template, length) = (Template::passkey(), task.lengths.iter().copied().min().unwrap_or(0));
        pass_keys(&template, (&tokenizer, &grass), length)
            .build(task.seed, 0.0, 0)
            .map(|_| ())
            .map_err(|failure| failure.to_string())
    };
    if let Err(reason) = built() {
        problem("retrieval_lengths", reason);
    }
}

/// Factors that are there can be put into the model now.
fn export_of_file(
    export: &ExportStage,
    factors: Option<&FactorFile>,
    (base, fingerprint): (&ModelFolder, Option<Fingerprint>),
    problem: &mut impl FnMut(&str, String),
) {
    // What cannot be read, or names no length, is a problem already.
    if let Some(factors) = factors.filter(|factors| factors.target_length.is_some())
        && let Err(failure) = checkpoint((base, fingerprint), factors, export)
    {
        problem("factors", failure.to_string());
    }
}

/// Phi's own code computes the attention factor and takes no other.
fn export_of_stage(plan: &Plan, source: &FactorSource, base: &ModelFolder, problem: &mut impl FnMut(&str, String)) {
    let model = &base.description;
    if !hf::computes_attention(&model.model_type) {
        return;
    }
    let Some(searched) = source.stage().and_then(|name| plan.stage(name)) else { return };
    let (policy, length) = match &searched.work {
        Work::Search(search) => (search.options.attention_factor, search.length),
        Work::Recover(recover) => return export_of_stage(plan, &recover.long, base, problem),
        _ => return,
    };
    let ratio = f64::from(length) / f64::from(model.original_length);
    let computed = AttentionFactorPolicy::LongRope.value(ratio, model.original_length);
    let fits = policy != AttentionFactorPolicy::Search
        && hf::is_same_attention(policy.value(ratio, model.original_length), computed);
    if !fits {
        problem(
            "factors",
            format!(
                "{} searches with attention_factor = \"{policy}\", and Phi models compute theirs themselves ({computed}); give it \
                 attention_factor = \"longrope\", or leave out the export",
                searched.name
            ),
        );
    }
}
