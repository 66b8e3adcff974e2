//! Everything the coordinator must not forget. The only place that knows sled.
//!
//! One writer, the engine, puts everything that belongs to one step into one [`Batch`], which is found again whole or
//! not at all. [`Store::flush`] makes what was applied survive a power loss; nothing is acknowledged before.
//!
//! Values above 16 KiB are cut: sled keeps small values well, while large ones become files of their own that it
//! does not synchronise.

mod batch;
mod error;
mod keys;
mod open;
mod records;
mod samples;
mod space;
mod value;

pub use batch::Batch;
pub use error::StoreError;
pub use open::SCHEMA;
pub use records::{ClosedGeneration, Ended, GenerationRecord, Holder, JobRecord, PlanRecord, Stage, TrainingRecord};

use crate::search::StrategyState;
use keys::Space;
use ropewalk_shared::event::Event;
use ropewalk_shared::job::{JobId, JobSpec};
use ropewalk_shared::outcome::{Loss, LossSlope};
use ropewalk_shared::plan::PlanJob;
use ropewalk_shared::rope::RescaleId;
use ropewalk_shared::sample::SampleId;
use ropewalk_shared::training::TrainingJob;
use serde::de::DeserializeOwned;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

/// Largest record that is read back, in bytes.
pub const MAX_RECORD_BYTES: u64 = value::MAX_BYTES as u64;

/// A job, and its record as far as it can be read.
pub type FoundJob = (JobId, Result<JobRecord, StoreError>);

/// An open store. Its folder is locked against other processes while it is open.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    /// Jobs, results, generations, events.
    state: sled::Tree,
    /// Token ids.
    samples: sled::Tree,
    db: sled::Db,
    /// sled's own file, once more: see [`Store::flush`].
    file: File,
    epoch: u32,
    /// Held while a sample is stored.
    uploads: Mutex<()>,
    /// The first failure to write. What came after it would stand on nothing, so no more is written.
    failure: OnceLock<StoreError>,
}

// === impl Store ===

impl Store {
    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of this run, one more than that of the last: no two runs of a coordinator share one, and hardly two stores.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Writes a batch, whole or not at all. It is durable after the next [`flush`](Self::flush).
    ///
    /// # Errors
    /// [`StoreError`]; from then on every write fails.
    pub fn apply(&self, batch: Batch) -> Result<(), StoreError> {
        // The caller is ahead of the store by this batch: without it, nothing may follow.
        space::require(&self.path, "writing", space::TO_WRITE).map_err(|error| self.fail(error))?;
        self.write("writing", || self.state.apply_batch(batch.into_sled()))
    }

    /// Makes everything applied so far survive the loss of power.
    ///
    /// # Errors
    /// [`StoreError`]; from then on every write fails.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.write("flushing", || {
            self.db.flush()?;
            // sled writes the pages out, but neither the file's length nor the disk's own cache.
            self.file.sync_data()?;
            Ok(())
        })
    }

    /// The failure after which nothing is written any more.
    pub fn failure(&self) -> Option<&StoreError> {
        self.failure.get()
    }

    /// Bytes that it takes on the disk. It looks at files, so it is no work for a thread that serves.
    ///
    /// # Errors
    /// [`StoreError`] when they cannot be looked at.
    pub fn size_on_disk(&self) -> Result<u64, StoreError> {
        self.read(|| self.db.size_on_disk())
    }

    /// Bytes that are free on its disk; absent where the system does not tell.
    pub fn free_space(&self) -> Option<u64> {
        space::free(&self.path)
    }

    /// Whether the next write would be tried.
    ///
    /// # Errors
    /// The failure after which nothing is written any more, or [`StoreError::Full`].
    pub fn takes_writes(&self) -> Result<(), StoreError> {
        match self.failure() {
            Some(failure) => Err(failure.clone()),
            None => space::require(&self.path, "writing", space::TO_WRITE),
        }
    }

    #[cfg(test)]
    pub(crate) fn damage_result(&self, job: &JobId, rescale: RescaleId, sample: SampleId) {
        self.state.insert(keys::result(job, rescale, sample), b"short").unwrap();
    }

    #[cfg(test)]
    pub(crate) fn damage_record(&self, job: &JobId) {
        self.state.insert(keys::job_record(job), b"\x01\x01{\"stage\":").unwrap();
    }

    #[cfg(test)]
    pub(crate) fn fail_from_now_on(&self, error: StoreError) {
        self.fail(error);
    }

    /// Every job, in the order of their ids; one whose record is damaged with [`StoreError::Corrupt`] in its place.
    ///
    /// # Errors
    /// [`StoreError`] when the store as a whole cannot be read.
    pub fn jobs(&self) -> Result<Vec<FoundJob>, StoreError> {
        let mut jobs = Vec::new();
        for key in self.keys(&[Space::JobRecord as u8])? {
            let Some(id) = keys::job_of(&key) else {
                return Err(self.corrupt("a job record", "its key is no job id"));
            };
            match self.require("a job record", &key) {
                Err(error) if !matches!(error, StoreError::Corrupt { .. }) => return Err(error),
                record => jobs.push((id, record)),
            }
        }
        Ok(jobs)
    }

    /// The specification a job was launched with.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn spec(&self, job: &JobId) -> Result<JobSpec, StoreError> {
        let spec: JobSpec = self.require("a job specification", &keys::spec(job))?;
        if spec.id() == *job { Ok(spec) } else { Err(self.corrupt("a job specification", "it is another job's")) }
    }

    /// The specification a training was launched with.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn training(&self, job: &JobId) -> Result<TrainingJob, StoreError> {
        let training: TrainingJob = self.require("a training", &keys::training(job))?;
        if training.id() == *job { Ok(training) } else { Err(self.corrupt("a training", "it is another job's")) }
    }

    /// The specification a plan was launched with.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn plan(&self, job: &JobId) -> Result<PlanJob, StoreError> {
        let plan: PlanJob = self.require("a plan", &keys::plan(job))?;
        if plan.id() == *job { Ok(plan) } else { Err(self.corrupt("a plan", "it is another job's")) }
    }

    /// The state of a job's search; absent before its first generation.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn strategy(&self, job: &JobId) -> Result<Option<StrategyState>, StoreError> {
        self.record("a search state", &keys::strategy(job))
    }

    /// One generation of a job.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn generation(&self, job: &JobId, number: u32) -> Result<Option<GenerationRecord>, StoreError> {
        self.record("a generation", &keys::generation(job, number))
    }

    /// The result of one unit.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn result(&self, job: &JobId, rescale: RescaleId, sample: SampleId) -> Result<Option<Loss>, StoreError> {
        let bytes = self.read(|| self.state.get(keys::result(job, rescale, sample)))?;
        let decode = |bytes: sled::IVec| value::decode_loss(&bytes).ok_or_else(|| self.corrupt("a result", "its form"));
        bytes.map(decode).transpose()
    }

    /// The slope of one unit, where one was measured.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn slope(&self, job: &JobId, rescale: RescaleId, sample: SampleId) -> Result<Option<LossSlope>, StoreError> {
        let bytes = self.value(&self.state, "a slope", &keys::slope(job, rescale, sample))?;
        let decode = |bytes: Vec<u8>| value::decode_slope(&bytes).ok_or_else(|| self.corrupt("a slope", "its form"));
        bytes.map(decode).transpose()
    }

    /// How many results a job has.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn results(&self, job: &JobId) -> Result<u64, StoreError> {
        Ok(self.keys(&keys::of_job(Space::Result, job))?.len() as u64)
    }

    /// Why a candidate failed, if it did.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn candidate_failure(&self, job: &JobId, rescale: RescaleId) -> Result<Option<String>, StoreError> {
        self.record("a failed candidate", &keys::candidate_failure(job, rescale))
    }

    /// The candidates of a job that failed.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn failed_candidates(&self, job: &JobId) -> Result<Vec<RescaleId>, StoreError> {
        let found = self.keys(&keys::of_job(Space::CandidateFailure, job))?;
        let rescale = |key: &sled::IVec| {
            keys::rescale_of(key).ok_or_else(|| self.corrupt("a failed candidate", "its key ends with no candidate"))
        };
        found.iter().map(rescale).collect()
    }

    /// Events of a job from a sequence number on, up to another one, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn events(&self, job: &JobId, from: u64, to: u64, limit: usize) -> Result<Vec<Event>, StoreError> {
        let numbers = from..=to.min(from.saturating_add(limit as u64).saturating_sub(1));
        numbers.map(|number| self.require("an event", &keys::event(job, number))).collect()
    }

    /// The factor file of a finished job.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn factors(&self, job: &JobId) -> Result<Option<String>, StoreError> {
        self.record("a factor file", &keys::factors(job))
    }

    // --- access to sled ---

    fn keys(&self, prefix: &[u8]) -> Result<Vec<sled::IVec>, StoreError> {
        self.read(|| self.state.scan_prefix(prefix).keys().collect())
    }

    fn record<T: DeserializeOwned>(&self, what: &'static str, key: &[u8]) -> Result<Option<T>, StoreError> {
        let Some(bytes) = self.value(&self.state, what, key)? else { return Ok(None) };
        value::decode(&bytes).map(Some).map_err(|reason| self.corrupt(what, reason))
    }

    fn require<T: DeserializeOwned>(&self, what: &'static str, key: &[u8]) -> Result<T, StoreError> {
        self.record(what, key)?.ok_or_else(|| self.corrupt(what, "it is missing"))
    }

    /// A value, put together where it was cut.
    fn value(&self, tree: &sled::Tree, what: &'static str, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(head) = self.read(|| tree.get(key))? else { return Ok(None) };
        let head = value::Head::parse(&head).ok_or_else(|| self.corrupt(what, "its form"))?;
        let length = match head {
            value::Head::Whole(bytes) => return Ok(Some(bytes.to_vec())),
            value::Head::Cut { length, .. } => length,
        };
        let mut bytes = Vec::new();
        for index in 0..value::parts(length) {
            let part = self.read(|| tree.get(keys::part(key, index)))?;
            bytes.extend_from_slice(&part.ok_or_else(|| self.corrupt(what, "a part of it is missing"))?);
        }
        if bytes.len() == length { Ok(Some(bytes)) } else { Err(self.corrupt(what, "a part of it has another length")) }
    }

    fn corrupt(&self, what: &'static str, reason: impl ToString) -> StoreError {
        StoreError::Corrupt { path: self.path.clone(), what, reason: reason.to_string() }
    }

    fn read<T>(&self, action: impl FnOnce() -> sled::Result<T>) -> Result<T, StoreError> {
        guarded(&self.path, "reading", action)
    }

    fn write<T>(&self, doing: &'static str, action: impl FnOnce() -> sled::Result<T>) -> Result<T, StoreError> {
        if let Some(failure) = self.failure.get() {
            return Err(failure.clone());
        }
        guarded(&self.path, doing, action).map_err(|error| self.fail(error))
    }

    /// Notes a failure, unless another thread failed first: then that one is kept.
    fn fail(&self, error: StoreError) -> StoreError {
        self.failure.get_or_init(|| error).clone()
    }
}

/// Runs something of sled's, whose panics are errors like others: it asserts what a damaged file can break.
fn guarded<T>(path: &Path, doing: &'static str, action: impl FnOnce() -> sled::Result<T>) -> Result<T, StoreError> {
    match catch_unwind(AssertUnwindSafe(action)) {
        Ok(result) => result.map_err(|error| StoreError::of_sled(path, doing, error)),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            let reason = text.unwrap_or_else(|| "sled gave up".into());
            Err(StoreError::Corrupt { path: path.to_owned(), what: "the database", reason })
        }
    }
}

#[cfg(test)]
mod tests;
