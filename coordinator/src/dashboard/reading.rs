//! Reading beside the engine: what waits for a disk, on threads that may wait, few at a time.

use super::error::Unavailable;
use crate::store::Store;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Readings at a time. Those that nobody waits for any more count until they have ended.
const AT_ONCE: usize = 4;
/// How long one may take, the wait for its turn included.
const PATIENCE: Duration = Duration::from_secs(5);

/// The store, to be read.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    store: Arc<Store>,
    places: Arc<Semaphore>,
}

// === impl Reading ===

impl Reading {
    pub fn new(store: Arc<Store>) -> Self {
        Self { store, places: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Reads something.
    ///
    /// # Errors
    /// [`Unavailable`]
    pub async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Store) -> Result<T, Unavailable> + Send + 'static,
    ) -> Result<T, Unavailable> {
        let (store, places) = (self.store.clone(), self.places.clone());
        let reading = async move {
            let place = places.acquire_owned().await;
            let reading = tokio::task::spawn_blocking(move || {
                let _place = place;
                read(&store)
            });
            reading.await.map_err(|error| Unavailable::Broken(error.to_string()))?
        };
        let silent = Unavailable::Silent { who: "store", within: PATIENCE };
        timeout(PATIENCE, reading).await.unwrap_or(Err(silent))
    }
}
