//! The engine without threads: every command as a function of the state and the time.
//!
//! What a command changes collects in a batch, which the caller takes with [`Core::take_batch`] and stores before
//! it answers anybody.

use super::desk::Desk;
use super::error::EngineError;
use super::factors::factors_so_far;
use super::job::{ActiveJob, planned_evaluations};
use super::jobs::{EndedJob, Job, unreadable};
use super::objective;
use super::time::Now;
use crate::scheduler::{Scheduler, SchedulerOptions};
use crate::store::{Batch, Ended, JobRecord, Store, StoreError};
use ropewalk_shared::event::JobEvent;
use ropewalk_shared::job::{JobId, JobSpec};
use ropewalk_shared::sample::{SampleId, SampleShape};
use ropewalk_shared::status::{JobState, JobStatus, WorkerStatus};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Most units of one stage. A unit waiting takes about a hundred bytes of memory.
const MAX_UNITS: u64 = 1_000_000;

/// All jobs, and what they need.
#[derive(Debug)]
pub struct Core {
    pub(super) jobs: BTreeMap<JobId, Job>,
    pub(super) desk: Desk,
    /// The store failed in the middle of a step: memory is ahead of it, and nothing more may be written.
    broken: Option<StoreError>,
}

/// What became of a launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launched {
    /// The job.
    pub job: JobId,
    /// False when the same specification was launched before.
    pub created: bool,
}

/// What is handed over of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResultText {
    /// Whether the report is complete.
    pub complete: bool,
    /// The factor file.
    pub factors_json: String,
    /// The model's config.json.
    pub config_json: String,
    /// Summaries of the closed generations, as a JSON array.
    pub history_json: String,
}

// === impl Core ===

impl Core {
    /// Sets everything going again from what is stored.
    ///
    /// A job that cannot be read is listed as failed, with the reason, and left as it is: the others go on.
    ///
    /// # Errors
    /// [`StoreError`] when the store as a whole cannot be read.
    pub fn open(store: Arc<Store>, options: SchedulerOptions, now: Now) -> Result<Self, StoreError> {
        let scheduler = Scheduler::new(options, store.epoch());
        let desk = Desk::new(store.clone(), scheduler);
        let mut core = Self { jobs: BTreeMap::new(), desk, broken: None };
        for (id, record) in store.jobs()? {
            let job = match record.final_status.clone() {
                Some(status) if record.ended.is_some() => Job::Ended(Box::new(EndedJob { record, status })),
                _ => core.reopen(&id, record, now)?,
            };
            core.jobs.insert(id, job);
        }
        Ok(core)
    }

    fn reopen(&mut self, id: &JobId, record: JobRecord, now: Now) -> Result<Job, StoreError> {
        let reopened = ActiveJob::restore(&self.desk.store, id.clone(), record.clone(), now).and_then(|mut job| {
            self.desk.open_stage(&mut job)?;
            self.desk.advance(&mut job, now)?;
            Ok(job)
        });
        match reopened {
            Ok(job) => Ok(Job::of(job)),
            Err(error @ StoreError::Corrupt { .. }) => {
                tracing::error!(job = %id, %error, "the job cannot be read");
                self.desk.scheduler.close(id);
                let status = unreadable(id, &record, error.to_string());
                Ok(Job::Ended(Box::new(EndedJob { record, status })))
            }
            Err(error) => Err(error),
        }
    }

    /// The writes of this round, which belong together; the next round begins.
    pub fn take_batch(&mut self) -> Batch {
        for job in self.jobs.values_mut() {
            if let Job::Active(job) = job
                && std::mem::take(&mut job.is_dirty)
            {
                self.desk.batch.job(&job.id, &job.record);
            }
        }
        // A job that is over is written once more, and then only its end is kept.
        for job in self.jobs.values_mut() {
            if let Job::Active(active) = job
                && active.record.ended.is_some()
            {
                *job = Job::ended(active);
            }
        }
        self.desk.take_batch()
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.desk.store
    }

    /// The failure of the store in the middle of a step, after which this engine is of no further use.
    pub fn broken(&self) -> Option<&StoreError> {
        self.broken.as_ref()
    }

    /// Changes whenever there may be work that there was not before.
    pub fn offers(&self) -> u64 {
        self.desk.scheduler.offers()
    }

    /// Notes that a step was not carried through.
    pub(super) fn or_broken<T>(&mut self, result: Result<T, StoreError>) -> Result<T, EngineError> {
        result.map_err(|error| {
            self.broken.get_or_insert_with(|| error.clone());
            error.into()
        })
    }

    /// Time passes: leases expire, delayed units come back, waiting is noticed.
    ///
    /// # Errors
    /// [`EngineError::Store`]
    pub fn tick(&mut self, now: Now) -> Result<(), EngineError> {
        let ticked = self.pass_time(now);
        self.or_broken(ticked)
    }

    fn pass_time(&mut self, now: Now) -> Result<(), StoreError> {
        for expired in self.desk.scheduler.expire(now.since_start) {
            let Some(Job::Active(job)) = self.jobs.get_mut(&expired.job) else { continue };
            let sample = job.stage_sample(expired.unit.sample);
            if let Some(sample) = sample {
                let (worker, attempt) = (expired.worker.to_string(), expired.attempt);
                tracing::warn!(job = %job.id, worker, attempt, "a lease expired");
                job.event(&mut self.desk.batch, now, JobEvent::LeaseExpired { worker, sample, attempt });
            }
            if let Some(reason) = expired.given_up {
                self.desk.give_up(job, expired.unit, reason, now);
                self.desk.advance(job, now)?;
            }
        }
        for job in self.jobs.values_mut() {
            let Job::Active(job) = job else { continue };
            let seconds = job.record.active_ms / 5000;
            job.count_time(now);
            // Often enough that a budget survives any number of restarts, and not more often.
            job.is_dirty |= job.record.active_ms / 5000 != seconds && job.spec.search.time_budget_seconds.is_some();
            let waiting = self.desk.scheduler.waiting(now.since_start, &job.id);
            let since = job.waiting.as_ref().map_or(now.since_start, |(_, since)| *since);
            job.waiting = waiting.map(|waiting| (waiting.to_string(), since));
        }
        Ok(())
    }

    // --- commands of clients ---

    /// Starts a job, or finds the one that was started with the same specification. One that was cancelled or has
    /// failed goes on from where it stood; one that is done stays done.
    ///
    /// # Errors
    /// [`EngineError`] with everything that is wrong with the specification, or samples that are missing or short.
    pub fn launch(&mut self, spec: JobSpec, now: Now) -> Result<Launched, EngineError> {
        let description = spec.check()?;
        let id = spec.id();
        if self.jobs.contains_key(&id) {
            self.relaunch(&id, now)?;
            return Ok(Launched { job: id, created: false });
        }
        check_size(&spec)?;
        let sample_shapes = self.sample_shapes(&spec)?;
        objective::check(&spec, &sample_shapes)?;
        let mut job = ActiveJob::begin(spec, description, sample_shapes, now)?;
        let launched = self.desk.launch(&mut job, now);
        self.or_broken(launched)?;
        tracing::info!(job = %id, "launched");
        self.jobs.insert(id.clone(), Job::of(job));
        Ok(Launched { job: id, created: true })
    }

    fn relaunch(&mut self, id: &JobId, now: Now) -> Result<(), EngineError> {
        let Some(Job::Ended(ended)) = self.jobs.get(id) else { return Ok(()) };
        if ended.status.state == JobState::Done {
            return Ok(());
        }
        let mut record = ended.record.clone();
        (record.ended, record.finished_ms, record.final_status, record.paused) = (None, None, None, false);
        let mut job = ActiveJob::restore(&self.desk.store, id.clone(), record, now)?;
        job.event(&mut self.desk.batch, now, JobEvent::Restarted);
        let opened = self.desk.open_stage(&mut job).and_then(|()| self.desk.advance(&mut job, now));
        self.or_broken(opened)?;
        tracing::info!(job = %id, "restarted");
        self.jobs.insert(id.clone(), Job::of(job));
        Ok(())
    }

    fn sample_shapes(&self, spec: &JobSpec) -> Result<HashMap<SampleId, SampleShape>, EngineError> {
        let mut shapes = HashMap::new();
        let mut missing = Vec::new();
        let long = spec.samples.iter().chain(&spec.held_out).map(|sample| (*sample, spec.target_length));
        let windows = spec.search.keep_short.iter();
        let short = windows.flat_map(|window| window.samples.iter().map(|sample| (*sample, window.length)));
        for (sample, target_length) in long.chain(short) {
            match self.desk.store.sample_shape(sample)? {
                None => missing.push(sample),
                Some(SampleShape { tokens, .. }) if tokens < target_length => {
                    let tokens = tokens as usize;
                    return Err(EngineError::ShortSample { sample, tokens, target_length });
                }
                Some(shape) => {
                    shapes.insert(sample, shape);
                }
            }
        }
        match missing.first() {
            Some(&first) => Err(EngineError::MissingSamples { missing: missing.len(), first }),
            None => Ok(shapes),
        }
    }

    /// How a job stands, and the number of its last event.
    ///
    /// # Errors
    /// [`EngineError`] when no job or several begin with `prefix`.
    pub fn status(&self, prefix: &str, now: Now) -> Result<(JobStatus, u64), EngineError> {
        let id = self.find(prefix)?;
        self.jobs.get(&id).map(|job| self.status_of(job, now)).ok_or_else(|| unknown(prefix))
    }

    fn status_of(&self, job: &Job, now: Now) -> (JobStatus, u64) {
        match job {
            Job::Active(job) => (job.status(self.desk.scheduler.leased(&job.id), now), job.record.last_sequence),
            Job::Ended(job) => (job.status.clone(), job.record.last_sequence),
        }
    }

    /// All jobs, newest first.
    pub fn statuses(&self, now: Now) -> Vec<JobStatus> {
        let mut jobs: Vec<JobStatus> = self.jobs.values().map(|job| self.status_of(job, now).0).collect();
        jobs.sort_by(|a, b| b.created_ms.cmp(&a.created_ms).then_with(|| a.job_id.cmp(&b.job_id)));
        jobs
    }

    /// Holds a job's units back, or offers them again.
    ///
    /// # Errors
    /// [`EngineError`] when there is no such job, or it is over.
    pub fn set_paused(&mut self, prefix: &str, paused: bool, now: Now) -> Result<JobStatus, EngineError> {
        let id = self.find(prefix)?;
        let action = if paused { "paused" } else { "resumed" };
        let job = active(&mut self.jobs, &id, action)?;
        if job.record.paused != paused {
            job.count_time(now);
            job.record.paused = paused;
            let what = if paused { JobEvent::Paused } else { JobEvent::Resumed };
            job.event(&mut self.desk.batch, now, what);
            self.desk.scheduler.set_paused(&id, paused);
        }
        self.status(id.as_str(), now).map(|(status, _)| status)
    }

    /// Ends a job.
    ///
    /// # Errors
    /// [`EngineError`] when there is no such job, or it is done or has failed.
    pub fn cancel(&mut self, prefix: &str, now: Now) -> Result<JobStatus, EngineError> {
        let id = self.find(prefix)?;
        let is_cancelled = matches!(self.jobs.get(&id), Some(job) if job.state() == JobState::Cancelled);
        if !is_cancelled {
            let job = active(&mut self.jobs, &id, "cancelled")?;
            self.desk.end(job, Ended::Cancelled, now);
            tracing::info!(job = %id, "cancelled");
        }
        self.status(id.as_str(), now).map(|(status, _)| status)
    }

    /// The factors of a job.
    ///
    /// # Errors
    /// [`EngineError::NoResult`] while no candidate has a score.
    pub fn result(&self, prefix: &str, now: Now) -> Result<ResultText, EngineError> {
        let id = self.find(prefix)?;
        let restored;
        let job = match self.jobs.get(&id) {
            Some(Job::Active(job)) => job.as_ref(),
            Some(Job::Ended(ended)) => {
                restored = ActiveJob::restore(&self.desk.store, id.clone(), ended.record.clone(), now)?;
                &restored
            }
            None => return Err(unknown(prefix)),
        };
        let stored = self.desk.store.factors(&id)?;
        let complete = stored.is_some();
        let factors_json = match stored {
            Some(text) => text,
            None => {
                let file = factors_so_far(job).ok_or_else(|| EngineError::NoResult(id.clone()))?;
                file.to_json().map_err(|_| EngineError::NoResult(id.clone()))?
            }
        };
        let history_json = serde_json::to_string(job.strategy.history()).unwrap_or_else(|_| "[]".into());
        Ok(ResultText { complete, factors_json, config_json: job.spec.model.config_json.clone(), history_json })
    }

    /// The workers, in the order in which they registered.
    pub fn workers(&self, now: Now) -> Vec<WorkerStatus> {
        let scheduler = &self.desk.scheduler;
        let mut workers: Vec<_> = scheduler.workers().iter().collect();
        workers.sort_by(|a, b| {
            let key = |worker: &crate::scheduler::Worker| (worker.id.as_str().len(), worker.id.clone());
            key(a).cmp(&key(b))
        });
        let status = |worker: &crate::scheduler::Worker| WorkerStatus {
            worker_id: worker.id.to_string(),
            name: worker.profile.name.clone(),
            device: worker.profile.device.clone(),
            dtype: worker.profile.dtype.clone(),
            max_tokens: worker.profile.max_tokens,
            version: worker.profile.version.clone(),
            connected: now.since_start.saturating_sub(worker.last_seen) <= scheduler.options().lease,
            last_seen_ms: now.unix_ms_at(worker.last_seen),
            leased: worker.leased,
            results: worker.results,
            failures: worker.failures,
            tokens_per_second: worker.tokens_per_second,
            stopped_passes: worker.stopped_passes,
        };
        workers.into_iter().map(status).collect()
    }

    /// The job that a prefix names. The full id names its job even where it begins another's.
    fn find(&self, prefix: &str) -> Result<JobId, EngineError> {
        let beginning: Vec<&JobId> = match prefix.parse::<JobId>() {
            Ok(id) if self.jobs.contains_key(&id) => return Ok(id),
            Ok(first) => {
                self.jobs.range(first..).map(|(id, _)| id).take_while(|id| id.as_str().starts_with(prefix)).collect()
            }
            Err(_) => Vec::new(),
        };
        match beginning.as_slice() {
            [] => Err(unknown(prefix)),
            [id] => Ok((*id).clone()),
            [first, second, ..] => Err(EngineError::AmbiguousJob {
                prefix: prefix.to_owned(),
                count: beginning.len(),
                first: (*first).clone(),
                second: (*second).clone(),
            }),
        }
    }
}

/// A job that something can still be done with.
fn active<'a>(
    jobs: &'a mut BTreeMap<JobId, Job>,
    id: &JobId,
    action: &'static str,
) -> Result<&'a mut ActiveJob, EngineError> {
    let job = jobs.get_mut(id).ok_or_else(|| unknown(id.as_str()))?;
    let state = job.state();
    match job {
        Job::Active(job) if !state.is_final() => Ok(job),
        _ => Err(EngineError::WrongState { job: id.clone(), state, action }),
    }
}

fn unknown(prefix: &str) -> EngineError {
    EngineError::UnknownJob(prefix.chars().take(80).collect())
}

fn check_size(spec: &JobSpec) -> Result<(), EngineError> {
    let evolution = &spec.search.evolution;
    let generation = u64::from(evolution.mutations) + u64::from(evolution.crossovers);
    let candidates = generation.max(evolution.population.into()).min(planned_evaluations(spec));
    let samples = spec.samples.len() as u64;
    if candidates.saturating_mul(samples) <= MAX_UNITS {
        return Ok(());
    }
    Err(EngineError::TooManyUnits { candidates, samples, most: MAX_UNITS })
}
