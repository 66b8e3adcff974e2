//! One job that is not over: its specification, its search, and what it is evaluating.

use super::ahead::Ahead;
use super::error::EngineError;
use super::planned::{planned_evaluations, planned_generations};
use super::report_plan::baselines;
use super::short::Kept;
use super::stage::Stage;
use super::time::{Now, utc};
use crate::search::{Ask, Race, Strategy, strategy::begin};
use crate::store::{Batch, Ended, GenerationRecord, JobRecord, Stage as StoredStage, Store, StoreError};
use ropewalk_shared::event::JobEvent;
use ropewalk_shared::grid::Grid;
use ropewalk_shared::job::{JobId, JobSpec};
use ropewalk_shared::model_description::ModelDescription;
use ropewalk_shared::rope::{Rescale, RescaleId};
use ropewalk_shared::sample::{SampleId, SampleShape};
use ropewalk_shared::status::{JobState, JobStatus};
use ropewalk_shared::work::Measure;
use std::collections::HashMap;
use std::time::Duration;

/// A job under way.
pub(super) struct ActiveJob {
    pub id: JobId,
    pub spec: JobSpec,
    pub description: ModelDescription,
    pub record: JobRecord,
    pub strategy: Box<dyn Strategy>,
    pub stage: Stage,
    /// What is sure to be wanted after it.
    pub ahead: Ahead,
    /// Length and counted part of every sample of the job.
    pub sample_shapes: HashMap<SampleId, SampleShape>,
    /// Units with a result.
    pub passes: u64,
    /// What it waits for, and since when.
    pub waiting: Option<(String, Duration)>,
    /// Up to when its running time is counted.
    pub counted_to: Duration,
    /// Whether its record has to be written.
    pub is_dirty: bool,
    /// Second results that were flagged, so that a worker that repeats itself does not fill the store.
    pub conflicts: std::collections::HashSet<(RescaleId, SampleId)>,
}

// === impl ActiveJob ===

impl ActiveJob {
    /// A job that begins.
    pub fn begin(
        spec: JobSpec,
        description: ModelDescription,
        sample_shapes: HashMap<SampleId, SampleShape>,
        now: Now,
    ) -> Result<Self, EngineError> {
        let strategy = begin(&spec, &description).map_err(|error| {
            let reason = error.to_string();
            let problem = ropewalk_shared::job::Problem { field: "search", reason };
            EngineError::InvalidJob(ropewalk_shared::job::InvalidJob { problems: vec![problem] })
        })?;
        Ok(Self {
            id: spec.id(),
            stage: Stage::new([], &[], Measure::Loss),
            ahead: Ahead::new(spec.all_samples()),
            spec,
            description,
            record: JobRecord::new(now.unix_ms),
            strategy,
            sample_shapes,
            passes: 0,
            waiting: None,
            counted_to: now.since_start,
            is_dirty: true,
            conflicts: Default::default(),
        })
    }

    /// A job as it is stored. Its stage is still empty.
    pub fn restore(store: &Store, id: JobId, record: JobRecord, now: Now) -> Result<Self, StoreError> {
        let corrupt =
            |what: &'static str, reason: String| StoreError::Corrupt { path: store.path().to_owned(), what, reason };
        let spec = store.spec(&id)?;
        let description = spec.check().map_err(|error| corrupt("a job specification", error.to_string()))?;
        let state = store.strategy(&id)?.ok_or_else(|| corrupt("a search state", "it is missing".into()))?;
        let strategy = state.restore().map_err(|error| corrupt("a search state", error.to_string()))?;
        let mut sample_shapes = HashMap::new();
        for sample in spec.all_samples() {
            let shape = store.sample_shape(*sample)?;
            let shape = shape.ok_or_else(|| corrupt("a sample", format!("{sample} is missing")))?;
            sample_shapes.insert(*sample, shape);
        }
        Ok(Self {
            stage: Stage::new([], &[], Measure::Loss),
            ahead: Ahead::new(spec.all_samples()),
            passes: store.results(&id)?,
            id,
            spec,
            description,
            record,
            strategy,
            sample_shapes,
            waiting: None,
            counted_to: now.since_start,
            is_dirty: false,
            conflicts: Default::default(),
        })
    }

    pub fn grid(&self) -> Grid {
        self.spec.search.grid
    }

    /// The attention factor of every candidate.
    pub fn attention_factor(&self) -> f64 {
        self.spec.attention_factor(&self.description)
    }

    /// What is wanted of the units of the current stage.
    pub fn stage_measure(&self) -> Measure {
        match self.record.stage {
            StoredStage::Search => self.strategy.measure(),
            StoredStage::Report => Measure::Loss,
        }
    }

    /// The rule by which candidates of the current stage are dropped.
    pub fn stage_race(&self) -> Option<Race> {
        // Where short windows are to be kept, candidates are judged by them too, and that takes all of their samples.
        let races = self.record.stage == StoredStage::Search
            && self.strategy.measure() == Measure::Loss
            && self.spec.search.keep_short.is_empty();
        if races { self.strategy.race() } else { None }
    }

    /// The samples of the current stage, in order.
    pub fn stage_samples(&self) -> Vec<SampleId> {
        match self.record.stage {
            StoredStage::Search => self.spec.judged_samples().copied().collect(),
            StoredStage::Report => self.spec.all_samples().copied().collect(),
        }
    }

    /// One of them.
    pub fn stage_sample(&self, index: u32) -> Option<SampleId> {
        self.ahead.sample(index)
    }

    /// The shapes of some of its samples.
    pub fn shapes(&self, samples: &[SampleId]) -> Vec<SampleShape> {
        samples.iter().filter_map(|sample| self.sample_shapes.get(sample).copied()).collect()
    }

    /// The weights of the current stage's samples in a score; absent where all weigh alike, and in the report, which
    /// judges nobody. Samples of short windows weigh nothing: they have limits.
    pub fn stage_weights(&self) -> Option<Vec<f64>> {
        if self.record.stage == StoredStage::Report {
            return None;
        }
        let searched = self.spec.samples.len();
        let weights = self.spec.search.objective.weights(&self.shapes(&self.spec.samples)).ok().flatten();
        if self.spec.search.keep_short.is_empty() {
            return weights;
        }
        let mut weights = weights.unwrap_or_else(|| vec![1.0 / searched as f64; searched]);
        weights.resize(self.spec.judged_samples().count(), 0.0);
        Some(weights)
    }

    /// What the current stage evaluates; nothing when the strategy has finished.
    pub fn stage_rescales(&self) -> Vec<Rescale> {
        match self.record.stage {
            StoredStage::Search => match self.strategy.ask() {
                Ask::Evaluate { candidates, .. } => {
                    let (grid, factor) = (self.grid(), self.attention_factor());
                    candidates.iter().map(|candidate| candidate.rescale(grid, factor)).collect()
                }
                Ask::Finished => Vec::new(),
            },
            StoredStage::Report => {
                let winner = self.winner().map(|(rescale, _)| rescale);
                let compared = baselines(&self.spec, &self.description, winner.as_ref());
                let shipped = Kept::of(self).into_iter().map(|window| window.shipped);
                winner.into_iter().chain(compared.into_iter().map(|(_, rescale)| rescale)).chain(shipped).collect()
            }
        }
    }

    /// Candidates that are asked next whatever comes of the open generation; none under a time budget, which may end before.
    pub fn certain_candidates(&self) -> Vec<Rescale> {
        if self.record.stage != StoredStage::Search || self.spec.search.time_budget_seconds.is_some() {
            return Vec::new();
        }
        let (grid, factor) = (self.grid(), self.attention_factor());
        self.strategy.certain_work().iter().map(|candidate| candidate.rescale(grid, factor)).collect()
    }

    /// The best candidate of the generations that are closed.
    pub fn winner(&self) -> Option<(Rescale, f64)> {
        let (candidate, score) = self.strategy.best()?;
        Some((candidate.rescale(self.grid(), self.attention_factor()), score.value()?))
    }

    /// The best candidate, that of the open generation included.
    pub fn best_so_far(&self) -> Option<(Rescale, f64)> {
        let winner = self.winner();
        if self.record.stage == StoredStage::Report {
            return winner;
        }
        let open = self.stage.slots().iter().filter_map(|slot| {
            let value = self.stage.settled_score(slot)?.value()?;
            Some((&slot.rescale, value))
        });
        match open.min_by(|a, b| a.1.total_cmp(&b.1)) {
            Some((rescale, value)) if winner.as_ref().is_none_or(|(_, best)| value < *best) => {
                Some((rescale.clone(), value))
            }
            _ => winner,
        }
    }

    /// Notes an event; it becomes visible when the batch is flushed.
    pub fn event(&mut self, batch: &mut Batch, now: Now, what: JobEvent) {
        batch.event(&self.id, &self.record.next_event(now.unix_ms, what));
        self.is_dirty = true;
    }

    /// Writes the open generation, together with the search state that asked it.
    pub fn store_generation(&self, batch: &mut Batch) {
        batch.strategy(&self.id, &self.strategy.snapshot());
        if let Ask::Evaluate { generation, candidates } = self.strategy.ask() {
            batch.generation(&self.id, generation, &GenerationRecord { candidates, closed: None });
        }
    }

    /// Counts the time it has been searching.
    pub fn count_time(&mut self, now: Now) {
        let passed_ms = now.since_start.saturating_sub(self.counted_to).as_millis() as u64;
        // Whole milliseconds only: what is left over is counted the next time.
        self.counted_to += Duration::from_millis(passed_ms);
        if self.record.stage == StoredStage::Search && !self.record.paused {
            self.record.active_ms += passed_ms;
        }
    }

    pub fn time_is_up(&self) -> bool {
        let budget = self.spec.search.time_budget_seconds;
        budget.is_some_and(|seconds| self.record.active_ms >= seconds.saturating_mul(1000))
    }

    pub fn state(&self) -> JobState {
        let going_on = match (self.record.paused, self.record.stage) {
            (true, _) => JobState::Paused,
            (false, StoredStage::Search) => JobState::Running,
            (false, StoredStage::Report) => JobState::Reporting,
        };
        self.record.ended_state().unwrap_or(going_on)
    }

    /// How it stands.
    pub fn status(&self, leased: u32, now: Now) -> JobStatus {
        let in_search = self.record.stage == StoredStage::Search;
        let (stage_done, stage_units) = self.stage.progress();
        let (best, best_perplexity) = self.best_so_far().unzip();
        let open = if in_search { self.stage.settled() } else { 0 };
        let waiting = self.waiting.as_ref().filter(|_| self.record.ended.is_none() && !self.record.paused);
        let closed = self.strategy.history().len() as u32;
        JobStatus {
            job_id: self.id.clone(),
            name: self.spec.name.clone(),
            model_name: self.spec.model.name.clone(),
            state: self.state(),
            reason: match &self.record.ended {
                Some(Ended::Failed(reason)) => Some(reason.clone()),
                _ => waiting.map(|(what, since)| format!("{what} (since {})", utc(now.unix_ms_at(*since)))),
            },
            generation: if in_search { closed } else { closed.saturating_sub(1) },
            generations: planned_generations(&self.spec),
            // As they were planned: a gradient counts three.
            evaluations: self.strategy.passes_per_sample() + open,
            planned_evaluations: planned_evaluations(&self.spec),
            passes: self.passes,
            stage_done,
            stage_units,
            leased,
            objective: self.spec.search.objective,
            best_perplexity,
            best,
            original_length: self.description.original_length,
            target_length: self.spec.target_length,
            created_ms: self.record.created_ms,
            finished_ms: self.record.finished_ms,
            training: None,
            plan: None,
        }
    }
}
