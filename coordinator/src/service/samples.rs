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

/// Moves samples between the store and the wire.
#[derive(Clone, Debug)]
pub(super) struct Transfers {
    store: Arc<Store>,
    places: Arc<Semaphore>,
}

// === impl Transfers ===

impl Transfers {
    pub fn new(store: Arc<Store>) -> Self {
        Self { store, places: Arc::new(Semaphore::new(TRANSFERS)) }
    }

    async fn place(&self) -> Result<OwnedSemaphorePermit, Status> {
        self.places.clone().acquire_owned().await.map_err(|_| Status::unavailable("the coordinator is stopping"))
    }

    /// Receives a sample; it is durable when this returns.
    pub async fn receive(&self, mut stream: Streaming<pb::SampleChunk>) -> Result<SampleId, Status> {
        let _place = self.place().await?;
        let mut assembly = SampleAssembly::default();
        loop {
            let chunk = tokio::time::timeout(CHUNK_TIMEOUT, stream.message()).await;
            let chunk = chunk.map_err(|_| Status::deadline_exceeded("no chunk arrived for a minute"))??;
            let Some(chunk) = chunk else { break };
            assembly.push(&chunk).map_err(invalid_transfer)?;
        }
        let store = self.store.clone();
        blocking(move || {
            let (id, sample) = assembly.finish().map_err(invalid_transfer)?;
            store.put_sample(id, &sample).map_err(store_failed)?;
            Ok(id)
        })
        .await
    }

    /// Sends a sample.
    pub async fn send(&self, id: SampleId) -> Result<ReceiverStream<Result<pb::SampleChunk, Status>>, Status> {
        let place = self.place().await?;
        let store = self.store.clone();
        let sample = blocking(move || store.sample(id).map_err(store_failed)).await?;
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

async fn send_chunks(id: SampleId, sample: &Sample, sender: mpsc::Sender<Result<pb::SampleChunk, Status>>) {
    for chunk in chunks(id, sample) {
        // A receiver that has gone, or does not read, asks again.
        if sender.send_timeout(Ok(chunk), CHUNK_TIMEOUT).await.is_err() {
            return;
        }
    }
}

/// Runs something that waits for the disk.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Status::internal(error.to_string()))?
}
