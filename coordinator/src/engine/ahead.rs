//! Work that is sure to be wanted later, whatever comes of what is under way: it fills the time in which workers would wait
//! for a generation to close.
//!
//! Its results are stored like all others, and what opens later finds them. They decide nothing before: which candidates
//! are asked, dropped or given up is the same whether there was time for them or not.

use super::desk::Desk;
use super::job::ActiveJob;
use super::report_plan;
use super::short::{Kept, without_shipped};
use super::stage::Raced;
use super::time::Now;
use crate::scheduler::{Lane, UnitKey};
use crate::store::{Ended, Stage as StoredStage, StoreError};
use ropewalk_shared::outcome::Loss;
use ropewalk_shared::rope::{Rescale, RescaleId};
use ropewalk_shared::sample::SampleId;
use std::collections::HashMap;
use std::ops::Range;

/// What is wanted later of one job. Which of its units are open, the queue knows.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    rescales: Vec<Rescale>,
    by_id: HashMap<RescaleId, u32>,
    /// All samples of the job in their order, and their places.
    samples: Vec<SampleId>,
    places: HashMap<SampleId, u32>,
    /// Whether the units of the report are among them.
    has_report: bool,
}

// === impl Ahead ===

impl Ahead {
    /// Nothing yet, of a job with these samples in their order.
    pub fn new<'a>(samples: impl Iterator<Item = &'a SampleId>) -> Self {
        let samples: Vec<SampleId> = samples.copied().collect();
        Self { places: samples.iter().copied().zip(0..).collect(), samples, ..Self::default() }
    }

    /// One of the samples of the job.
    pub fn sample(&self, index: u32) -> Option<SampleId> {
        self.samples.get(index as usize).copied()
    }

    pub fn rescale(&self, slot: u32) -> Option<&Rescale> {
        self.rescales.get(slot as usize)
    }

    /// The unit of a candidate on a sample, if it may be among them.
    pub fn unit(&self, rescale: RescaleId, sample: SampleId) -> Option<UnitKey> {
        Some(UnitKey::ahead(*self.by_id.get(&rescale)?, *self.places.get(&sample)?))
    }

    fn slot(&mut self, rescale: Rescale) -> u32 {
        let rescales = &mut self.rescales;
        *self.by_id.entry(rescale.id()).or_insert_with(|| {
            rescales.push(rescale);
            rescales.len() as u32 - 1
        })
    }
}

// === impl Desk ===

impl Desk {
    /// Queues a unit of the current stage, unless somebody evaluates it already.
    pub fn want_now(&mut self, job: &ActiveJob, unit: UnitKey) {
        self.scheduler.add(&job.id, unit);
        let ids = job.stage.slot(unit.slot).map(|slot| slot.id).zip(job.stage_sample(unit.sample));
        if let Some(early) = ids.and_then(|(rescale, sample)| job.ahead.unit(rescale, sample)) {
            self.scheduler.promote(&job.id, early, unit);
        }
    }

    /// Queues what is sure to be wanted after the stage that was just opened.
    pub fn open_ahead(&mut self, job: &mut ActiveJob) -> Result<(), StoreError> {
        if job.record.stage == StoredStage::Report {
            // Everything is wanted now.
            return Ok(());
        }
        // Without these no generation closes.
        self.measure_shipped(job)?;
        if !self.scheduler.options().fill_gaps {
            return Ok(());
        }
        let judged = job.spec.judged_samples().count();
        for rescale in job.certain_candidates() {
            self.add_ahead(job, rescale, 0..judged)?;
        }
        if !std::mem::replace(&mut job.ahead.has_report, true) {
            for rescale in report_plan::certain(&job.spec, &job.description) {
                self.add_ahead(job, rescale, 0..judged + job.spec.held_out.len())?;
            }
        }
        Ok(())
    }

    /// Queues a candidate on some samples, as far as it is neither known nor wanted now.
    pub fn add_ahead(
        &mut self,
        job: &mut ActiveJob,
        rescale: Rescale,
        samples: Range<usize>,
    ) -> Result<(), StoreError> {
        let id = rescale.id();
        if self.known_failure(&job.id, id)?.is_some() {
            return Ok(());
        }
        let slot = job.ahead.slot(rescale);
        for index in samples.start as u32..samples.end as u32 {
            let Some(sample) = job.stage_sample(index) else { break };
            let is_wanted_now = job.stage.unit(id, sample).is_some_and(|unit| self.scheduler.holds(&job.id, unit));
            if !is_wanted_now && self.known_result(&job.id, id, sample)?.is_none() {
                self.scheduler.add(&job.id, UnitKey::ahead(slot, index));
            }
        }
        Ok(())
    }

    /// Takes in a result that is wanted later; where it has become one of the current stage since, there too.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn settle_ahead(
        &mut self,
        job: &mut ActiveJob,
        rescale: RescaleId,
        sample: SampleId,
        loss: Loss,
    ) -> Result<(), StoreError> {
        job.passes += 1;
        self.note_result(job, rescale, sample, loss);
        self.measure_shipped(job)?;
        let Some(unit) = job.stage.unit(rescale, sample) else { return Ok(()) };
        // In a race, its turn may not have come; when it comes, this is known.
        if job.stage.complete(unit, loss, None)
            && let Raced::Next(next) = job.stage.judge(unit.slot)
        {
            self.want_now(job, next);
        }
        Ok(())
    }

    /// Leaves to a later stage what nobody could evaluate in time: it is tried again there, and judged as ever. Without the
    /// model as shipped no candidate can be judged, and the job fails.
    pub fn leave_for_later(&mut self, job: &mut ActiveJob, unit: UnitKey, reason: String, now: Now) {
        self.scheduler.withdraw(&job.id, Lane::Ahead, unit.slot);
        let id = job.ahead.rescale(unit.slot).map(Rescale::id);
        // At the target length the same factors are a method to compare with, and can wait.
        let is_limit =
            |window: &Kept| Some(window.shipped.id()) == id && window.samples.contains(&(unit.sample as usize));
        if !job.stage.knows_limits() && job.stage.kept().iter().any(is_limit) {
            self.end(job, Ended::Failed(without_shipped(&reason)), now);
        }
    }
}
