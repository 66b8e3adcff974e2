//! How everything stands, looked at no more than once a second.

use super::error::Unavailable;
use super::reading::Reading;
use crate::engine::{Core, Engine, EngineError, Now, Overview};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use tokio::time::timeout;

/// For how long a look serves all who ask.
const FRESH: Duration = Duration::from_secs(1);
/// How long the engine is waited for.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// How everything stood a moment ago.
#[derive(Debug)]
pub(super) struct Look {
    pub overview: Overview,
    pub disk: Disk,
}

/// The store's room; absent where it cannot be told.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Disk {
    pub used: Option<u64>,
    pub free: Option<u64>,
}

/// The last look, and the way to the next.
#[derive(Debug)]
pub(super) struct Looks {
    engine: Engine,
    reading: Reading,
    last: Mutex<Option<(Instant, Arc<Look>)>>,
}

// === impl Looks ===

impl Looks {
    pub fn new(engine: Engine, reading: Reading) -> Self {
        Self { engine, reading, last: Mutex::new(None) }
    }

    /// How everything stands. Who comes while somebody looks waits for what that one sees.
    ///
    /// # Errors
    /// [`Unavailable`]
    pub async fn look(&self) -> Result<Arc<Look>, Unavailable> {
        let mut last = self.last.lock().await;
        if let Some((at, look)) = last.as_ref()
            && at.elapsed() < FRESH
        {
            return Ok(look.clone());
        }
        let overview = ask(&self.engine, PATIENCE, |core, now| Ok(core.overview(now))).await?;
        let disk = self.reading.read(|store| Ok(Disk { used: store.size_on_disk().ok(), free: store.free_space() }));
        let look = Arc::new(Look { overview, disk: disk.await.unwrap_or_default() });
        *last = Some((Instant::now(), look.clone()));
        Ok(look)
    }
}

/// Asks the engine, and waits so long for an answer. What is answered is durable.
///
/// # Errors
/// [`Unavailable`]
pub(super) async fn ask<T: Send + 'static>(
    engine: &Engine,
    patience: Duration,
    question: impl FnOnce(&mut Core, Now) -> Result<T, EngineError> + Send + 'static,
) -> Result<T, Unavailable> {
    match timeout(patience, engine.durable(question)).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Unavailable::Silent { who: "engine", within: patience }),
    }
}
