//! Why a publisher could not be read. Every kind may pass: the caller tries the next publisher,
//! then waits.
//!
//! No message shows the credentials of a URL.

use std::{error::Error, fmt::Write, time::Duration};

/// A reading that came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    /// No connection, or no answer in time.
    #[error("{publisher} does not answer: {}", causes(source))]
    Unreachable {
        /// Scheme, host and port.
        publisher: String,
        /// What failed.
        source: reqwest::Error,
    },
    /// An answer that is not a success.
    #[error("{publisher} answered {status}")]
    Refused {
        /// Scheme, host and port.
        publisher: String,
        /// HTTP status.
        status: u16,
        /// How long it asks to be left alone.
        retry_after: Option<Duration>,
    },
    /// It has the collection, and no such document in it.
    #[error("{publisher} has no such document")]
    NoDocument {
        /// Scheme, host and port.
        publisher: String,
    },
    /// The feed cannot go on from where this replica is: `trimmed`, `epoch` or `ahead`.
    #[error("the feed of {publisher} cannot go on from here ({})", reason.as_deref().unwrap_or("no reason given"))]
    Gone {
        /// Scheme, host and port.
        publisher: String,
        /// Why, in a word.
        reason: Option<String>,
    },
    /// It offers another store, or a history that was left.
    #[error("what the publisher offers is not taken: {0}")]
    NotTaken(#[from] state::InstallError),
    /// It has never heard of heads and snapshots: a publisher that follows the source document
    /// only.
    #[error("{publisher} counts no revisions")]
    NoRevisions {
        /// Scheme, host and port.
        publisher: String,
    },
    /// An answer that is cut off, damaged, out of date, or something else altogether. Nothing of it
    /// was used.
    #[error("the answer of {publisher} cannot be used: {reason}")]
    Unusable {
        /// Scheme, host and port.
        publisher: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The time for this reading ran out.
    #[error("no publisher answered within {0:?}")]
    TooLate(Duration),
}

impl OriginError {
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            Self::Gone { .. }
            | Self::NoDocument { .. }
            | Self::NotTaken(_)
            | Self::Unreachable { .. }
            | Self::NoRevisions { .. }
            | Self::Unusable { .. }
            | Self::TooLate(_) => None,
        }
    }
}

/// An error and everything that caused it, in one line.
pub(crate) fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        write!(text, ": {cause}").expect("a String accepts all");
        next = cause.source();
    }
    text
}
