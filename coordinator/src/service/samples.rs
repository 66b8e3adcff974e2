//! Samples in and out, a bounded number at a time: a long one takes a hundred mebibytes while it passes.

use super::error::{invalid_transfer, store_failed};
use crate::store::Store;
use ropewalk_shared::sample::{Sample, SampleId};
use ropewalk_shared::wire::pb;
use ropewalk_shared::wire::{SampleAssembly, chunks};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

/// Samples under way at a time, in each direction.
const TRANSFERS: usize = 8;
/// Chunks that may wait for a slow receiver.
const CHUNKS_AHEAD: usize = 2;
/// A sender or receiver that takes longer over one chunk has gone.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(60);
/// A sender that takes longer over one sample is too slow: the longest arrives in this time at 0.15 MB/s.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(900);

/// Moves samples between the store and the wire.
#[derive(Clone, Debug)]
pub(super) struct Transfers {
    store: Arc<Store>,
    /// Places of uploads, and of downloads: workers go on while clients upload.
    incoming: Arc<Semaphore>,
    outgoing: Arc<Semaphore>,
}

// === impl Transfers ===

impl Transfers {
    pub fn new(store: Arc<Store>) -> Self {
        let places = || Arc::new(Semaphore::new(TRANSFERS));
        Self { store, incoming: places(), outgoing: places() }
    }

    /// Receives a sample; it is durable when this returns.
    pub async fn receive(&self, stream: Streaming<pb::SampleChunk>) -> Result<SampleId, Status> {
        let place = place(&self.incoming).await?;
        let assembly = tokio::time::timeout(UPLOAD_TIMEOUT, assemble(stream)).await;
        let assembly = assembly.map_err(|_| {
            Status::deadline_exceeded("the sample did not arrive within 15 minutes: send it again over a faster line")
        })??;
        let store = self.store.clone();
        let (id, _place) = blocking_in(place, move || {
            let (id, sample) = assembly.finish().map_err(invalid_transfer)?;
            store.put_sample(id, &sample).map_err(store_failed)?;
            Ok(id)
        })
        .await?;
        Ok(id)
    }

    /// Sends a sample.
    pub async fn send(&self, id: SampleId) -> Result<ReceiverStream<Result<pb::SampleChunk, Status>>, Status> {
        let place = place(&self.outgoing).await?;
        let store = self.store.clone();
        let (sample, place) = blocking_in(place, move || store.sample(id).map_err(store_failed)).await?;
        let sample = sample.ok_or_else(|| {
            Status::not_found(format!("sample {id} is not stored here; launch the job again to upload it"))
        })?;
        let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
        tokio::spawn(async move {
            send_chunks(id, &sample, sender).await;
            drop(place);
        });
        Ok(ReceiverStream::new(receiver))
    }

    /// Which of these samples are not stored.
    pub async fn missing(&self, ids: Vec<SampleId>) -> Result<Vec<SampleId>, Status> {
        let store = self.store.clone();
        blocking(move || {
            let mut missing = Vec::new();
            for id in ids {
                if store.sample_shape(id).map_err(store_failed)?.is_none() {
                    missing.push(id);
                }
            }
            Ok(missing)
        })
        .await
    }
}

async fn place(places: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Status> {
    places.clone().acquire_owned().await.map_err(|_| Status::unavailable("the coordinator is stopping"))
}

async fn assemble(mut stream: Streaming<pb::SampleChunk>) -> Result<SampleAssembly, Status> {
    let mut assembly = SampleAssembly::default();
    loop {
        let chunk = tokio::time::timeout(CHUNK_TIMEOUT, stream.message()).await;
        let chunk = chunk.map_err(|_| Status::deadline_exceeded("no chunk arrived for a minute"))??;
        let Some(chunk) = chunk else { return Ok(assembly) };
        assembly.push(&chunk).map_err(invalid_transfer)?;
    }
}

async fn send_chunks(id: SampleId, sample: &Sample, sender: mpsc::Sender<Result<pb::SampleChunk, Status>>) {
    for chunk in chunks(id, sample) {
        // A receiver that has gone, or does not read, asks again.
        if sender.send_timeout(Ok(chunk), CHUNK_TIMEOUT).await.is_err() {
            return;
        }
    }
}

/// Runs something that waits for the disk and holds a sample. Its place stays taken until it is done, even when nobody waits
/// for it any more: it cannot be called off.
async fn blocking_in<T: Send + 'static>(
    place: OwnedSemaphorePermit,
    work: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<(T, OwnedSemaphorePermit), Status> {
    blocking(move || Ok((work()?, place))).await
}

/// Runs something that waits for the disk.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Status::internal(error.to_string()))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_place_is_taken_until_the_work_is_done_whoever_waits_for_it() {
        let places = Arc::new(Semaphore::new(1));
        let (started, has_started) = tokio::sync::oneshot::channel();
        let (go_on, may_go_on) = std::sync::mpsc::channel::<()>();
        let work = move || {
            let _ = started.send(());
            may_go_on.recv().map_err(|error| Status::internal(error.to_string()))
        };
        let call = tokio::spawn(blocking_in(place(&places).await.unwrap(), work));
        has_started.await.unwrap();
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
        assert_eq!(places.available_permits(), 0, "the work goes on, and holds a sample");
        go_on.send(()).unwrap();
        drop(place(&places).await.unwrap());
    }

    #[tokio::test]
    async fn uploads_do_not_keep_workers_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let sample = Sample::new(vec![1, 2, 3]).unwrap();
        let store = Store::open(folder.path()).unwrap();
        store.put_sample(sample.id(), &sample).unwrap();
        let transfers = Transfers::new(Arc::new(store));
        let _uploads = transfers.incoming.clone().acquire_many_owned(TRANSFERS as u32).await.unwrap();
        let mut chunks = transfers.send(sample.id()).await.unwrap().into_inner();
        assert_eq!(chunks.recv().await.unwrap().unwrap().token_ids.len(), 12);
    }
}
