//! Where everything lies: one byte for the kind, the job, then numbers in an order that sorts.

use ropewalk_shared::job::JobId;
use ropewalk_shared::rope::RescaleId;
use ropewalk_shared::sample::SampleId;

/// Kinds of entries. The bytes are part of the stored format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Space {
    Meta = b'm',
    Spec = b'j',
    JobRecord = b's',
    Result = b'r',
    Slope = b'd',
    CandidateFailure = b'x',
    Generation = b'g',
    Strategy = b't',
    Event = b'e',
    Factors = b'f',
    Training = b'n',
    Plan = b'l',
    /// Parts of values that were cut, of any kind.
    Part = b'p',
}

/// Ends a job id within a key; no id contains it.
const END: u8 = 0;

pub(super) fn meta(name: &str) -> Vec<u8> {
    [&[Space::Meta as u8], name.as_bytes()].concat()
}

pub(super) fn of_job(space: Space, job: &JobId) -> Vec<u8> {
    [&[space as u8], job.as_str().as_bytes(), &[END]].concat()
}

/// The job of a key that ends with it.
pub(super) fn job_of(key: &[u8]) -> Option<JobId> {
    let [_, id @ .., END] = key else { return None };
    std::str::from_utf8(id).ok()?.parse().ok()
}

/// The candidate of a key that ends with it.
pub(super) fn rescale_of(key: &[u8]) -> Option<RescaleId> {
    key.last_chunk::<16>().map(|&id| id.into())
}

pub(super) fn spec(job: &JobId) -> Vec<u8> {
    of_job(Space::Spec, job)
}

pub(super) fn job_record(job: &JobId) -> Vec<u8> {
    of_job(Space::JobRecord, job)
}

pub(super) fn strategy(job: &JobId) -> Vec<u8> {
    of_job(Space::Strategy, job)
}

pub(super) fn training(job: &JobId) -> Vec<u8> {
    of_job(Space::Training, job)
}

pub(super) fn plan(job: &JobId) -> Vec<u8> {
    of_job(Space::Plan, job)
}

pub(super) fn factors(job: &JobId) -> Vec<u8> {
    of_job(Space::Factors, job)
}

pub(super) fn generation(job: &JobId, number: u32) -> Vec<u8> {
    with(of_job(Space::Generation, job), &number.to_be_bytes())
}

pub(super) fn event(job: &JobId, sequence: u64) -> Vec<u8> {
    with(of_job(Space::Event, job), &sequence.to_be_bytes())
}

pub(super) fn candidate_failure(job: &JobId, rescale: RescaleId) -> Vec<u8> {
    with(of_job(Space::CandidateFailure, job), rescale.as_bytes())
}

pub(super) fn result(job: &JobId, rescale: RescaleId, sample: SampleId) -> Vec<u8> {
    with(with(of_job(Space::Result, job), rescale.as_bytes()), sample.as_bytes())
}

pub(super) fn slope(job: &JobId, rescale: RescaleId, sample: SampleId) -> Vec<u8> {
    with(with(of_job(Space::Slope, job), rescale.as_bytes()), sample.as_bytes())
}

pub(super) fn part(key: &[u8], index: u32) -> Vec<u8> {
    with(with(vec![Space::Part as u8], key), &index.to_be_bytes())
}

fn with(mut key: Vec<u8>, more: &[u8]) -> Vec<u8> {
    key.extend_from_slice(more);
    key
}
