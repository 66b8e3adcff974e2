//! Work on a coordinator that lives elsewhere. It and its workers may come and go; launching the same job again only
//! names it.

use crate::cli::failure::Failure;
use crate::cli::output::note;
use crate::cli::stop::stop_signal;
use crate::client::ClientError;
use std::time::Duration;

/// Wait before a coordinator that does not answer is asked again.
const RETRY: Duration = Duration::from_secs(5);

/// What following a job ended with: a coordinator that was away for long is no reason to give up.
pub(super) fn unless_away<T>(failure: Failure) -> Result<Result<T, Failure>, ClientError> {
    match failure.downcast::<ClientError>() {
        Ok(error) if error.is_retryable() => Err(error),
        Ok(error) => Ok(Err(Failure::work(error))),
        Err(failure) => Ok(Err(failure)),
    }
}

/// Tries again for as long as the coordinator does not answer, and ends when the user wants.
pub(super) async fn patiently<T>(
    attempt: impl AsyncFn() -> Result<Result<T, Failure>, ClientError>,
) -> Result<T, Failure> {
    let work = async {
        loop {
            match attempt().await {
                Ok(outcome) => return outcome,
                Err(error) if error.is_retryable() => {
                    note(format!("{error}; trying again in {} s", RETRY.as_secs()));
                    tokio::time::sleep(RETRY).await;
                }
                Err(error) => return Err(Failure::work(error)),
            }
        }
    };
    tokio::select! {
        outcome = work => outcome,
        () = stop_signal() => Err(Failure::work_message(
            "interrupted; the job goes on at the coordinator, and the same command follows it again",
        )),
    }
}
