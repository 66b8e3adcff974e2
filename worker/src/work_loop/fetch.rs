//! Fetching a sample from the coordinator, and checking that it is the one that was asked for.

use ropewalk_shared::sample::{Sample, SampleId};
use ropewalk_shared::wire::connection::Calls;
use ropewalk_shared::wire::pb::work_client::WorkClient;
use ropewalk_shared::wire::{InvalidTransfer, SampleAssembly, pb};
use std::time::Duration;
use tokio::time::timeout;
use tonic::{Code, Status};

/// Longest silence between two chunks.
const SILENCE: Duration = Duration::from_secs(20);

/// A sample that did not come.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    /// The connection failed: to be tried again.
    #[error("cannot fetch a sample: {0}")]
    Call(#[source] Box<Status>),
    /// The coordinator does not have it.
    #[error("the coordinator does not hold sample {0}")]
    Unknown(SampleId),
    /// The coordinator cannot read it.
    #[error("the coordinator cannot read sample {0}: {1}")]
    Damaged(SampleId, String),
    /// What came is something else.
    #[error("sample {0} arrived broken: {1}")]
    Broken(SampleId, #[source] InvalidTransfer),
    /// A sound sample, but another one.
    #[error("sample {1} of {2} tokens arrived where {0} was asked for")]
    Another(SampleId, SampleId, usize),
}

/// The sample with this content address, which has so many tokens.
pub(super) async fn fetch(mut client: WorkClient<Calls>, id: SampleId, tokens: u32) -> Result<Sample, FetchError> {
    let request = pb::GetSampleRequest { sample_id: id.as_bytes().to_vec() };
    let call = |status: Status| match status.code() {
        Code::NotFound => FetchError::Unknown(id),
        Code::DataLoss => FetchError::Damaged(id, status.message().to_owned()),
        _ => FetchError::Call(status.into()),
    };
    let silence = |_| FetchError::Call(Status::deadline_exceeded("the coordinator fell silent").into());
    let mut chunks = timeout(SILENCE, client.get_sample(request)).await.map_err(silence)?.map_err(call)?.into_inner();
    let mut assembly = SampleAssembly::default();
    while let Some(chunk) = timeout(SILENCE, chunks.message()).await.map_err(silence)?.map_err(call)? {
        assembly.push(&chunk).map_err(|error| FetchError::Broken(id, error))?;
    }
    let (got, sample) = assembly.finish().map_err(|error| FetchError::Broken(id, error))?;
    if got != id || sample.tokens().len() != tokens as usize {
        return Err(FetchError::Another(id, got, sample.tokens().len()));
    }
    Ok(sample)
}
