//! That a worker either evaluates or trains: both at once would share its processors and, worse, its memory.
//!
//! Who wants to train shuts the gate. The desk then leases nothing more, hands back what was not begun, finishes what
//! was, and says that the way is clear; once the gate is open again, it leases units as before.

use tokio::sync::watch;

/// The side of the desk.
#[derive(Debug)]
pub(in super::super) struct DeskSide {
    shut: watch::Receiver<bool>,
    clear: watch::Sender<bool>,
}

/// The side of the trainings.
#[derive(Debug)]
pub(in super::super) struct TrainSide {
    shut: watch::Sender<bool>,
    clear: watch::Receiver<bool>,
}

/// A gate that is open.
pub(in super::super) fn gate() -> (DeskSide, TrainSide) {
    let (shut, shut_seen) = watch::channel(false);
    let (clear, clear_seen) = watch::channel(false);
    (DeskSide { shut: shut_seen, clear }, TrainSide { shut, clear: clear_seen })
}

// === impl DeskSide ===

impl DeskSide {
    /// Whether nothing may be leased.
    pub(in super::super) fn is_shut(&self) -> bool {
        // Nobody is there to open it again when the other side is gone.
        *self.shut.borrow() && self.shut.has_changed().is_ok()
    }

    /// Ready when the gate was shut or opened. Never, where nobody trains.
    pub(in super::super) async fn changed(&mut self) {
        if self.shut.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// Says whether nothing is being evaluated, and no model is loaded.
    pub(in super::super) fn set_clear(&self, clear: bool) {
        self.clear.send_if_modified(|known| std::mem::replace(known, clear) != clear);
    }
}

// === impl TrainSide ===

impl TrainSide {
    pub(super) fn shut(&self) {
        self.shut.send_replace(true);
    }

    pub(super) fn open(&self) {
        self.shut.send_replace(false);
    }

    /// Whether a training may begin.
    pub(super) fn is_clear(&self) -> bool {
        // A desk that is gone evaluates nothing.
        *self.clear.borrow() || self.clear.has_changed().is_err()
    }

    /// Ready when that may have changed.
    pub(super) async fn changed(&mut self) {
        if self.clear.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn each_side_hears_of_the_other() {
        let (mut desk, mut train) = gate();
        assert!(!desk.is_shut() && !train.is_clear());
        train.shut();
        desk.changed().await;
        assert!(desk.is_shut() && !train.is_clear());
        desk.set_clear(true);
        train.changed().await;
        assert!(train.is_clear());
        train.open();
        desk.changed().await;
        assert!(!desk.is_shut());
    }

    #[tokio::test]
    async fn a_side_that_is_gone_holds_nothing_up() {
        let (mut desk, train) = gate();
        train.shut();
        drop(train);
        assert!(!desk.is_shut());
        desk.shut.mark_unchanged();
        assert!(tokio::time::timeout(Duration::from_millis(20), desk.changed()).await.is_err());
        let (desk, train) = gate();
        drop(desk);
        assert!(train.is_clear());
    }
}
