//! The factor file of a job, built from what is stored and nothing else, so that it is the same byte for byte however
//! often the coordinator was stopped on the way.

use super::job::ActiveJob;
use super::objective;
use super::report_plan::baselines;
use super::short;
use ropewalk_shared::factor_file::{FactorFile, FactorModel, Measured, Objective, SearchRecord};
use ropewalk_shared::rope::Rescale;
use std::collections::BTreeMap;

const CREATED_BY: &str = concat!("ropewalk ", env!("CARGO_PKG_VERSION"));

/// The best factors so far, without a report.
pub(super) fn factors_so_far(job: &ActiveJob) -> Option<FactorFile> {
    let (rescale, value) = job.best_so_far()?;
    Some(factor_file(job, rescale, value))
}

/// The winner with the full report, for a job whose report stage is complete.
pub(super) fn final_factors(job: &ActiveJob) -> Option<FactorFile> {
    let (rescale, value) = job.winner()?;
    let reported = Reported { job };
    let measured = reported.measure(&rescale);
    let mut file = factor_file(job, rescale, value);
    file.baselines = reported.baselines();
    if let Some(objective) = &mut file.objective {
        (objective.held_out, objective.held_out_text) = (measured.held_out, measured.held_out_text);
        objective.kept_short = short::report(job, job.stage.slots().first());
    }
    Some(file)
}

fn factor_file(job: &ActiveJob, rescale: Rescale, value: f64) -> FactorFile {
    let (spec, description) = (&job.spec, &job.description);
    let evaluations = job.strategy.evaluations();
    FactorFile {
        model: Some(FactorModel {
            name: spec.model.name.clone(),
            model_type: description.model_type.clone(),
            fingerprint: spec.model.fingerprint,
            geometry: description.geometry.into(),
        }),
        original_length: Some(description.original_length),
        target_length: Some(spec.target_length),
        extension_ratio: Some(spec.extension_ratio(description)),
        objective: Some(Objective {
            kind: spec.search.objective.to_string(),
            value,
            samples: spec.samples.len(),
            held_out: None,
            held_out_text: None,
            kept_short: Vec::new(),
        }),
        search: Some(SearchRecord {
            strategy: SearchRecord::strategy_in_files(spec.search.strategy).into(),
            seed: spec.search.seed,
            generations: (job.strategy.history().len() as u32).saturating_sub(1),
            evaluations,
            // What the search is made of, and not what was measured: a candidate given up counts in full, one dropped
            // in a race as far as it came, a gradient three times.
            passes: job.strategy.document_passes(spec.samples.len() as u64),
            job: job.id.to_string(),
        }),
        created_by: Some(CREATED_BY.into()),
        ..FactorFile::from_rescale(rescale)
    }
}

/// A job whose report is complete.
struct Reported<'a> {
    job: &'a ActiveJob,
}

// === impl Reported ===

impl Reported<'_> {
    fn measure(&self, rescale: &Rescale) -> Measured {
        let id = rescale.id();
        let slot = self.job.stage.slots().iter().find(|slot| slot.id == id);
        objective::measured(self.job, slot, rescale.attention_factor)
    }

    fn baselines(&self) -> BTreeMap<String, Measured> {
        let winner = self.job.winner().map(|(rescale, _)| rescale);
        let entries = baselines(&self.job.spec, &self.job.description, winner.as_ref());
        entries.into_iter().map(|(name, rescale)| (name, self.measure(&rescale))).collect()
    }
}
