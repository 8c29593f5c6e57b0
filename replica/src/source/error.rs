//! Why the publishers could not be read.
//!
//! Every kind may pass: the caller tries the next publisher, then waits. No message shows the
//! credentials of a URL.

use std::time::Duration;

use client::{AttemptError, ClientError};
use state::InstallError;

/// A request to the publishers that brought nothing that can be used.
///
/// Its text stands alone and includes every cause.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// No answer, an answer that is not a success, or one that cannot be used. Nothing of it was
    /// used.
    #[error("{}", named(.0))]
    Client(#[from] ClientError),
    /// The publisher offers another store, or an earlier history.
    #[error("what the publisher offers is not installed: {0}")]
    Install(#[from] InstallError),
    /// The time that the caller allowed has passed.
    #[error("no publisher answered within {0:?}")]
    TooLate(Duration),
}

/// The text of an error with the publisher that caused it: a problem does not name it.
fn named(error: &ClientError) -> String {
    match error.refusal().filter(|refusal| refusal.problem.is_some()) {
        Some(refusal) => format!("{} answered: {error}", refusal.publisher),
        None => error.to_string(),
    }
}

impl AttemptError for SourceError {
    fn is_answer(&self) -> bool {
        match self {
            Self::Client(error) => error.is_answer(),
            // Only an answer can offer a store.
            Self::Install(_) => true,
            Self::TooLate(_) => false,
        }
    }
}
