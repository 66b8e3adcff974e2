//! The thread that makes rounds durable: one flush for all that wait.

use crate::store::{Store, StoreError};
use std::sync::mpsc::Receiver;
use tokio::sync::watch;

/// Sends an answer: the command's own, or that the store failed.
pub(super) type Answer = Box<dyn FnOnce(Option<&StoreError>) + Send>;

/// Commands that were carried out, their changes written together.
pub(super) struct Round {
    pub answers: Vec<Answer>,
    /// Whether anything was written.
    pub wrote: bool,
    pub result: Result<(), StoreError>,
}

// === impl Round ===

impl Round {
    /// Whether it asks nothing of the committer.
    pub fn is_idle(&self) -> bool {
        self.answers.is_empty() && !self.wrote && self.result.is_ok()
    }
}

/// Flushes and answers until there are no more rounds, or the store fails.
pub(super) fn commit_rounds(
    store: &Store,
    rounds: &Receiver<Round>,
    committed: &watch::Sender<u64>,
) -> Result<(), StoreError> {
    while let Ok(first) = rounds.recv() {
        let mut group = vec![first];
        group.extend(rounds.try_iter());
        let wrote = group.iter().any(|round| round.wrote);
        let mut result = if wrote { store.flush() } else { Ok(()) };
        for round in group {
            // Once a round has failed, nothing after it is acknowledged.
            if result.is_ok() {
                result = round.result;
            }
            for answer in round.answers {
                answer(result.as_ref().err());
            }
        }
        result?;
        if wrote {
            committed.send_modify(|count| *count += 1);
        }
    }
    Ok(())
}
