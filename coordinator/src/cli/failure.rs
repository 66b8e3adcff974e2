//! How a command fails: with a status and a message that says what to do next.

use crate::client::ClientError;
use std::fmt;
use std::process::ExitCode;

/// Why a command ended without doing its work.
#[derive(Debug)]
pub struct Failure {
    status: u8,
    error: anyhow::Error,
}

/// What commands return.
pub type Outcome = Result<(), Failure>;

impl Failure {
    /// The request itself was wrong: usage or input (exit status 2).
    pub fn input(error: impl Into<anyhow::Error>) -> Self {
        Self { status: 2, error: error.into() }
    }

    /// The request was right and the work failed (exit status 1).
    ///
    /// But for a coordinator that cannot be trusted or refuses the token: whatever went on, what was given is wrong.
    pub fn work(error: impl Into<anyhow::Error>) -> Self {
        let error = error.into();
        let denied = error.downcast_ref().is_some_and(ClientError::is_access);
        Self { status: if denied { 2 } else { 1 }, error }
    }

    /// One of both, as the error itself tells.
    pub fn sorted(is_input: bool, error: impl Into<anyhow::Error>) -> Self {
        if is_input { Self::input(error) } else { Self::work(error) }
    }

    /// The request was wrong, in words.
    pub fn input_message(message: impl fmt::Display) -> Self {
        Self::input(anyhow::Error::msg(message.to_string()))
    }

    /// The work failed, in words.
    pub fn work_message(message: impl fmt::Display) -> Self {
        Self::work(anyhow::Error::msg(message.to_string()))
    }

    /// Adds what was being done when it happened.
    pub fn context(self, context: impl fmt::Display + Send + Sync + 'static) -> Self {
        Self { error: self.error.context(context), ..self }
    }

    /// The error, where it is of this kind and nothing was added.
    pub fn downcast<E: fmt::Display + fmt::Debug + Send + Sync + 'static>(self) -> Result<E, Self> {
        let Self { status, error } = self;
        error.downcast().map_err(|error| Self { status, error })
    }

    /// Whether the request itself was wrong.
    pub fn is_input(&self) -> bool {
        self.status == 2
    }

    /// The status for the shell.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.status)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Causes that a wrapping error already quotes are not said twice.
        let mut said = String::new();
        for cause in self.error.chain() {
            let text = cause.to_string();
            if said.contains(&text) {
                continue;
            }
            if !said.is_empty() {
                said.push_str(": ");
            }
            said.push_str(&text);
        }
        f.write_str(&said)
    }
}

impl From<ClientError> for Failure {
    /// What a coordinator refuses because of what was asked is wrong input.
    fn from(error: ClientError) -> Self {
        Self::sorted(error.is_input(), error)
    }
}

/// Sorts library errors into wrong input and failed work where a command meets them.
pub trait OrFail<T> {
    /// An error here means that the input was wrong.
    fn or_input(self) -> Result<T, Failure>;
    /// An error here means that the work failed.
    fn or_work(self) -> Result<T, Failure>;
}

impl<T, E: Into<anyhow::Error>> OrFail<T> for Result<T, E> {
    fn or_input(self) -> Result<T, Failure> {
        self.map_err(Failure::input)
    }

    fn or_work(self) -> Result<T, Failure> {
        self.map_err(Failure::work)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let error = anyhow::anyhow!("no such file").context("cannot read x: no such file").context("launching");
        assert_eq!(Failure::work(error).to_string(), "launching: cannot read x: no such file");
    }
}
