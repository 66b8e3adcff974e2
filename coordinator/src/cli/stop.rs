//! When a command is to stop: signals, and for a process that works for another one, the end of that one.

use std::sync::LazyLock;
use tokio::sync::watch;

/// Raised when whom this process works for has gone.
static ORPHANED: LazyLock<watch::Sender<bool>> = LazyLock::new(|| watch::Sender::new(false));

/// Completes when the process is asked to stop.
///
/// The signals are caught from this call on, not only once somebody waits: whoever reads that the coordinator listens
/// can also stop it properly.
pub fn stop_signal() -> impl Future<Output = ()> + Send + 'static {
    let mut orphaned = ORPHANED.subscribe();
    let signalled = signal();
    async move {
        tokio::select! {
            () = signalled => {}
            // The flag lives as long as the process.
            _ = orphaned.wait_for(|orphaned| *orphaned) => {}
        }
    }
}

fn signal() -> impl Future<Output = ()> + Send + 'static {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{Signal, SignalKind, signal};
        let [interrupt, terminate] = [SignalKind::interrupt(), SignalKind::terminate()].map(|kind| signal(kind).ok());
        async fn received(signal: Option<Signal>) {
            match signal {
                Some(mut signal) => _ = signal.recv().await,
                // Without a handler the default action ends the process, which loses nothing either.
                None => std::future::pending().await,
            }
        }
        async move {
            tokio::select! { () = received(interrupt) => {}, () = received(terminate) => {} }
        }
    }
    #[cfg(not(unix))]
    async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    }
}

/// Asks this process to stop, as a signal would: whom it works for has gone.
#[cfg(feature = "local")]
pub fn orphaned() {
    ORPHANED.send_replace(true);
}
