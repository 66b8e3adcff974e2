//! Uploading samples: only those that are missing, in chunks.

use super::error::{ClientError, answer, refused};
use super::{Client, pb};
use ropewalk_shared::sample::{Sample, SampleId};
use ropewalk_shared::wire::chunks;
use std::collections::HashSet;
use tokio_stream::wrappers::ReceiverStream;

/// Ids asked about at a time.
const IDS_PER_REQUEST: usize = 4096;
/// Chunks under way at a time, so that a large sample is not held twice.
const CHUNKS_AHEAD: usize = 4;

impl Client {
    /// Which of these samples the coordinator does not hold yet.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn missing_samples(&self, ids: &[SampleId]) -> Result<HashSet<SampleId>, ClientError> {
        let mut missing = HashSet::new();
        for ids in ids.chunks(IDS_PER_REQUEST) {
            let request =
                pb::MissingSamplesRequest { sample_ids: ids.iter().map(|id| id.as_bytes().to_vec()).collect() };
            let response = self.service.clone().missing_samples(request).await.map_err(refused(&self.url))?;
            for bytes in response.into_inner().sample_ids {
                let id: [u8; 32] = bytes.try_into().map_err(|_| answer("a sample id has another length"))?;
                missing.insert(SampleId::from(id));
            }
        }
        Ok(missing)
    }

    /// Stores the samples that the coordinator does not hold yet. `progress` is told tokens sent and tokens to send.
    ///
    /// # Errors
    /// [`ClientError`]; what was stored until then stays stored, so that calling again goes on.
    pub async fn put_samples(&self, samples: &[Sample], mut progress: impl FnMut(u64, u64)) -> Result<(), ClientError> {
        let ids: Vec<SampleId> = samples.iter().map(Sample::id).collect();
        let mut missing = self.missing_samples(&ids).await?;
        // A sample that is given twice is sent once.
        let to_send: Vec<_> = samples.iter().zip(ids).filter(|(_, id)| missing.remove(id)).collect();
        let total = to_send.iter().map(|(sample, _)| sample.tokens().len() as u64).sum();
        let mut sent = 0;
        progress(sent, total);
        for (sample, id) in to_send {
            let before = sent;
            self.put_sample(id, sample, |tokens| progress(before + tokens, total)).await?;
            sent += sample.tokens().len() as u64;
        }
        Ok(())
    }

    async fn put_sample(
        &self,
        id: SampleId,
        sample: &Sample,
        mut progress: impl FnMut(u64),
    ) -> Result<(), ClientError> {
        let (sender, receiver) = tokio::sync::mpsc::channel(CHUNKS_AHEAD);
        let mut service = self.service.clone();
        let upload = service.put_sample(ReceiverStream::new(receiver));
        let feed = async {
            let mut tokens = 0;
            for chunk in chunks(id, sample) {
                tokens += chunk.token_ids.len() as u64 / 4;
                // A closed channel means that the upload has ended, and its answer says why.
                if sender.send(chunk).await.is_err() {
                    return;
                }
                progress(tokens);
            }
            drop(sender);
        };
        let (response, ()) = tokio::join!(upload, feed);
        response.map_err(refused(&self.url))?;
        Ok(())
    }
}
