//! When a command is to stop: signals, and for a process that works for another one, the end of that one.

use std::io::{self, Read as _};
use std::process;
use std::sync::LazyLock;
use std::thread;
use std::time::Duration;
use tokio::sync::watch;

/// How long a process may take to stop properly once whom it works for has gone.
const GRACE: Duration = Duration::from_secs(5);

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

/// Lets this process stop when its standard input ends, as it does when whoever started it is gone, or wants its end. What
/// does not stop within a grace, or waits for no signal, is ended: everything that a plan does may be killed.
///
/// # Errors
/// When there is no thread to be had.
pub fn end_with_standard_input() -> io::Result<()> {
    thread::Builder::new().name("parent".into()).spawn(|| {
        let mut buffer = [0; 256];
        while io::stdin().lock().read(&mut buffer).is_ok_and(|count| count > 0) {}
        ORPHANED.send_replace(true);
    })?;
    let stop = stop_signal();
    tokio::spawn(async move {
        stop.await;
        tokio::time::sleep(GRACE).await;
        process::exit(1);
    });
    Ok(())
}
