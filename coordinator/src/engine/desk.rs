//! What every step of a job needs beside the job: the store, the queue, and the writes of this round.

use super::factors::final_factors;
use super::job::ActiveJob;
use super::planned::planned_evaluations;
use super::short::Kept;
use super::stage::{Raced, Stage};
use super::tally::Tally;
use super::time::Now;
use crate::scheduler::{Lane, Scheduler, UnitKey};
use crate::search::Ask;
use crate::store::{Batch, ClosedGeneration, Ended, GenerationRecord, Stage as StoredStage, Store, StoreError};
use ropewalk_shared::event::JobEvent;
use ropewalk_shared::job::JobId;
use ropewalk_shared::outcome::{Loss, LossSlope};
use ropewalk_shared::rope::RescaleId;
use ropewalk_shared::sample::SampleId;
use ropewalk_shared::work::Measure;
use std::collections::HashMap;
use std::sync::Arc;

/// Why a search ends whose first candidates, the published methods among them, all gave infinity or no number.
const NO_NUMBER: &str = "no candidate of the first generation gave a finite loss, so the search was ended: the model's \
    weights may hold NaN, or a worker's number format is too narrow for it (as f16 may be); check the model with \
    `ropewalk eval --dtype f32`, and search again with workers of that format";

/// Why candidates failed; nothing for those of which it was forgotten.
pub(super) type Failures = HashMap<(JobId, RescaleId), Option<String>>;

/// The engine without its jobs.
#[derive(Debug)]
pub(super) struct Desk {
    pub store: Arc<Store>,
    pub scheduler: Scheduler,
    /// What was done since the start.
    pub tally: Tally,
    /// Everything this round changes.
    pub batch: Batch,
    /// Results and failures of this round, which the store does not show yet.
    fresh_results: HashMap<(JobId, RescaleId, SampleId), Loss>,
    fresh_failures: Failures,
    fresh_slopes: HashMap<(JobId, RescaleId, SampleId), LossSlope>,
}

// === impl Desk ===

impl Desk {
    pub fn new(store: Arc<Store>, scheduler: Scheduler) -> Self {
        Self {
            store,
            scheduler,
            tally: Tally::default(),
            batch: Batch::default(),
            fresh_results: HashMap::new(),
            fresh_failures: HashMap::new(),
            fresh_slopes: HashMap::new(),
        }
    }

    /// The writes of this round; the next one begins.
    pub fn take_batch(&mut self) -> Batch {
        self.fresh_results.clear();
        self.fresh_failures.clear();
        self.fresh_slopes.clear();
        std::mem::take(&mut self.batch)
    }

    /// Where this round stands.
    pub fn round(&self) -> (Batch, Failures) {
        (self.batch.clone(), self.fresh_failures.clone())
    }

    /// Takes back what was written since, results left out.
    pub fn return_to(&mut self, (batch, failures): (Batch, Failures)) {
        (self.batch, self.fresh_failures) = (batch, failures);
    }

    // --- results ---

    /// The result of a unit, whatever stage it belonged to.
    pub fn known_result(&self, job: &JobId, rescale: RescaleId, sample: SampleId) -> Result<Option<Loss>, StoreError> {
        match self.fresh_results.get(&(job.clone(), rescale, sample)) {
            Some(loss) => Ok(Some(*loss)),
            None => self.store.result(job, rescale, sample),
        }
    }

    fn known_slope(&self, job: &JobId, rescale: RescaleId, sample: SampleId) -> Result<Option<LossSlope>, StoreError> {
        match self.fresh_slopes.get(&(job.clone(), rescale, sample)) {
            Some(slope) => Ok(Some(slope.clone())),
            None => self.store.slope(job, rescale, sample),
        }
    }

    pub fn known_failure(&self, job: &JobId, rescale: RescaleId) -> Result<Option<String>, StoreError> {
        match self.fresh_failures.get(&(job.clone(), rescale)) {
            Some(reason) => Ok(reason.clone()),
            None => self.store.candidate_failure(job, rescale),
        }
    }

    /// Forgets of all candidates of a job that they failed; whether there were any.
    pub fn forget_failures(&mut self, job: &JobId) -> Result<bool, StoreError> {
        // Nothing of a job that is over is of this round.
        let failed = self.store.failed_candidates(job)?;
        for &rescale in &failed {
            self.batch.forget_candidate_failure(job, rescale);
            self.fresh_failures.insert((job.clone(), rescale), None);
        }
        Ok(!failed.is_empty())
    }

    /// Takes in the result of an open unit. A loss that was known before, as that of a candidate whose gradient is asked
    /// for later, stands.
    pub fn settle(
        &mut self,
        job: &mut ActiveJob,
        unit: UnitKey,
        (loss, slope): (Loss, Option<LossSlope>),
        sample: SampleId,
    ) {
        let Some(rescale) = job.stage.slot(unit.slot).map(|slot| slot.id) else { return };
        // Of losses alone nothing is known while the unit is open, and the store need not be asked. What cannot be read
        // now was not found when the stage was opened either.
        let known = slope.as_ref().and_then(|_| self.known_result(&job.id, rescale, sample).ok().flatten());
        if job.stage.complete(unit, known.unwrap_or(loss), slope.clone()) {
            if let Some(slope) = slope {
                self.batch.slope(&job.id, rescale, sample, &slope);
                self.fresh_slopes.insert((job.id.clone(), rescale, sample), slope);
            }
            if known.is_none() {
                job.passes += 1;
                self.note_result(job, rescale, sample, loss);
            }
            if let Raced::Next(next) = job.stage.judge(unit.slot) {
                self.want_now(job, next);
            }
        }
    }

    /// Writes a result.
    pub fn note_result(&mut self, job: &ActiveJob, rescale: RescaleId, sample: SampleId, loss: Loss) {
        self.batch.result(&job.id, rescale, sample, loss);
        self.fresh_results.insert((job.id.clone(), rescale, sample), loss);
    }

    /// Gives the candidate of a unit up.
    pub fn give_up(&mut self, job: &mut ActiveJob, unit: UnitKey, reason: String, now: Now) {
        if unit.lane == Lane::Ahead {
            return self.leave_for_later(job, unit, reason, now);
        }
        let slot = unit.slot;
        let Some((id, rescale)) = job.stage.slot(slot).map(|slot| (slot.id, slot.rescale.clone())) else { return };
        if job.stage.fail(slot, reason.clone()) {
            self.scheduler.withdraw(&job.id, Lane::Now, slot);
            // Whose slope cannot be had was evaluated before, and its losses stand.
            if job.stage.measure() == Measure::Loss {
                self.batch.candidate_failure(&job.id, id, &reason);
                self.fresh_failures.insert((job.id.clone(), id), Some(reason.clone()));
            }
            job.event(&mut self.batch, now, JobEvent::CandidateFailed { rescale, reason });
            self.tally.candidates_failed += 1;
        }
    }

    // --- stages ---

    /// Begins a job that was just launched.
    pub fn launch(&mut self, job: &mut ActiveJob, now: Now) -> Result<(), StoreError> {
        self.batch.spec(&job.id, &job.spec);
        job.store_generation(&mut self.batch);
        job.event(
            &mut self.batch,
            now,
            JobEvent::Launched {
                planned_evaluations: planned_evaluations(&job.spec),
                samples: job.spec.samples.len() as u64,
                held_out: job.spec.held_out.len() as u64,
            },
        );
        self.announce_generation(job, now);
        self.open_stage(job)?;
        self.advance(job, now)
    }

    /// The stage of a job as far as it is known.
    pub fn known_stage(&self, job: &ActiveJob) -> Result<Stage, StoreError> {
        let (samples, measure) = (job.stage_samples(), job.stage_measure());
        let mut stage = Stage::new(job.stage_rescales(), &samples, measure).weighted(job.stage_weights());
        stage = stage.racing(job.stage_race());
        if job.record.stage == StoredStage::Search {
            let mut kept = Kept::of(job);
            self.note_shipped(job, &mut kept)?;
            stage = stage.keeping(kept);
        }
        for index in 0..stage.slots().len() as u32 {
            let Some(id) = stage.slot(index).map(|slot| slot.id) else { continue };
            if let Some(reason) = self.known_failure(&job.id, id)? {
                stage.fail(index, reason);
                continue;
            }
            for (sample, place) in samples.iter().zip(0..) {
                if let Some(loss) = self.known_result(&job.id, id, *sample)? {
                    let slope = match measure {
                        Measure::Gradient => self.known_slope(&job.id, id, *sample)?,
                        Measure::Loss => None,
                    };
                    stage.complete(UnitKey::now(index, place), loss, slope);
                }
            }
            stage.judge(index);
        }
        Ok(stage)
    }

    /// Fills a job's stage with what is known of it, and queues the rest.
    pub fn open_stage(&mut self, job: &mut ActiveJob) -> Result<(), StoreError> {
        let (stage, measure) = (self.known_stage(job)?, job.stage_measure());
        // Of all samples: the later units of the job have them too.
        let tokens = job
            .spec
            .all_samples()
            .map(|sample| job.sample_shapes.get(sample).map_or(0, |shape| shape.tokens))
            .collect();
        let units: Vec<UnitKey> = stage.open_units().collect();
        let measures = vec![measure; stage.slots().len()];
        self.scheduler.open(&job.id, job.spec.model.fingerprint, tokens, measures, units.iter().copied());
        self.scheduler.set_paused(&job.id, job.record.paused);
        job.stage = stage;
        if measure == Measure::Loss {
            units.into_iter().for_each(|unit| self.want_now(job, unit));
        }
        self.open_ahead(job)
    }

    /// Closes stages that are complete and opens the next, until one needs work or the job is over.
    pub fn advance(&mut self, job: &mut ActiveJob, now: Now) -> Result<(), StoreError> {
        self.look_for_shipped(job, now)?;
        while job.record.ended.is_none() && job.stage.is_complete() && job.stage.knows_limits() {
            match job.record.stage {
                StoredStage::Search if job.stage.slots().is_empty() => self.begin_report(job, now)?,
                StoredStage::Search => self.close_generation(job, now)?,
                StoredStage::Report => self.finish(job, now),
            }
        }
        Ok(())
    }

    fn close_generation(&mut self, job: &mut ActiveJob, now: Now) -> Result<(), StoreError> {
        if job.strategy.generation() == 0 && job.stage.has_no_number() {
            self.end(job, Ended::Failed(NO_NUMBER.into()), now);
            return Ok(());
        }
        let (generation, outcomes) = (job.strategy.generation(), job.stage.outcomes());
        let best_before = job.strategy.best().map(|(_, score)| score);
        let candidates = match job.strategy.ask() {
            Ask::Evaluate { candidates, .. } => candidates,
            Ask::Finished => Vec::new(),
        };
        if let Err(error) = job.strategy.tell_outcomes(generation, &outcomes) {
            // The stage was made from what the strategy asked.
            self.end(job, Ended::Failed(format!("internal error: {error}; please report it")), now);
            return Ok(());
        }
        if let Some(summary) = job.strategy.history().last().cloned() {
            let best = job.strategy.best().map(|(_, score)| score);
            let improved = best.is_some_and(|best| best_before.is_none_or(|before| best < before));
            job.event(
                &mut self.batch,
                now,
                JobEvent::GenerationClosed {
                    generation,
                    evaluated: summary.evaluated,
                    failed: summary.failed,
                    dropped: summary.dropped,
                    generation_best: summary.generation_best.value(),
                    median: summary.median.value(),
                    best: summary.best.value(),
                    improved,
                    total_evaluated: summary.total_evaluated,
                    document_passes: job.strategy.document_passes(job.spec.samples.len() as u64),
                },
            );
            if let Some((rescale, perplexity)) = job.winner().filter(|_| improved) {
                job.event(&mut self.batch, now, JobEvent::NewBest { generation, perplexity, rescale });
            }
            let scores = outcomes.iter().map(|outcome| outcome.score).collect();
            let closed = Some(ClosedGeneration { scores, summary });
            self.batch.generation(&job.id, generation, &GenerationRecord { candidates, closed });
        }
        job.store_generation(&mut self.batch);
        job.count_time(now);
        if job.time_is_up() || job.strategy.ask() == Ask::Finished {
            return self.begin_report(job, now);
        }
        self.announce_generation(job, now);
        self.open_stage(job)
    }

    pub fn announce_generation(&mut self, job: &mut ActiveJob, now: Now) {
        if let Ask::Evaluate { generation, candidates } = job.strategy.ask() {
            let candidates = candidates.len() as u32;
            job.event(&mut self.batch, now, JobEvent::GenerationOpened { generation, candidates });
        }
    }

    fn begin_report(&mut self, job: &mut ActiveJob, now: Now) -> Result<(), StoreError> {
        if job.winner().is_none() {
            let nearest = job.strategy.history().last().and_then(|last| last.best.excess());
            let usual = match nearest {
                None => "every perplexity was infinite or not a number".to_owned(),
                Some(excess) => format!(
                    "none kept the short windows within their limits, and the nearest one is {:.2} % above; give a larger \
                     percentage",
                    100.0 * excess.exp_m1()
                ),
            };
            let said = job.stage.any_failure().unwrap_or(&usual);
            let reason = format!("no candidate could be evaluated: {said}");
            self.end(job, Ended::Failed(reason), now);
            return Ok(());
        }
        let because = if job.time_is_up() { None } else { job.strategy.why_finished() };
        let because = because.unwrap_or_else(|| "the time budget is spent".into());
        job.record.stage = StoredStage::Report;
        self.open_stage(job)?;
        let (done, all) = job.stage.progress();
        job.event(&mut self.batch, now, JobEvent::Reporting { because, units: all - done });
        Ok(())
    }

    fn finish(&mut self, job: &mut ActiveJob, now: Now) {
        let file = final_factors(job);
        let Some((text, file)) = file.and_then(|file| Some((file.to_json().ok()?, file))) else {
            return self.end(job, Ended::Failed("the factors cannot be written as JSON; please report it".into()), now);
        };
        self.batch.factors(&job.id, &text);
        let objective = file.objective.as_ref();
        let perplexity = objective.map(|objective| objective.value).filter(|value| value.is_finite());
        let held_out = objective.and_then(|objective| objective.held_out);
        job.event(&mut self.batch, now, JobEvent::Done { perplexity, held_out });
        self.end(job, Ended::Done, now);
    }

    /// Ends a job; its leases are revoked.
    pub fn end(&mut self, job: &mut ActiveJob, ended: Ended, now: Now) {
        match &ended {
            Ended::Done => {}
            Ended::Cancelled => job.event(&mut self.batch, now, JobEvent::Cancelled),
            Ended::Failed(reason) => job.event(&mut self.batch, now, JobEvent::Failed { reason: reason.clone() }),
        }
        job.count_time(now);
        self.scheduler.close(&job.id);
        job.record.ended = Some(ended);
        job.record.finished_ms = Some(now.unix_ms);
        job.record.final_status = Some(job.status(0, now));
        job.is_dirty = true;
    }
}
