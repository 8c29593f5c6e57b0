//! Why a publisher could not be read, as a replica distinguishes the reasons.
//!
//! Every kind may pass: the caller tries the next publisher, then waits. No message shows the
//! credentials of a URL.

use std::time::Duration;

pub(crate) use client::error::causes;
use client::{AttemptError, ClientError};
use contract::ProblemKind;

/// A request to a publisher that failed, by what a replica does about it.
#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    /// No connection, or no complete answer in time.
    #[error(transparent)]
    Silent(ClientError),
    /// An answer that is not a success.
    #[error("{publisher} refused the request: {reason}")]
    Refused {
        /// Scheme, host and port.
        publisher: String,
        /// HTTP status.
        status: u16,
        /// How long the publisher asks not to be called again.
        retry_after: Option<Duration>,
        /// The refusal in words.
        reason: String,
    },
    /// The publisher has the collection, and no such document in it.
    #[error("{publisher} has no such document")]
    NoDocument {
        /// Scheme, host and port.
        publisher: String,
    },
    /// The feed cannot continue from the revisions of this replica: `trimmed`, `epoch` or `ahead`.
    #[error("the feed of {publisher} cannot continue from here ({})", reason.as_deref().unwrap_or("no reason given"))]
    Gone {
        /// Scheme, host and port.
        publisher: String,
        /// Why, in a word.
        reason: Option<String>,
    },
    /// The publisher offers another store, or an earlier history.
    #[error("what the publisher offers is not taken: {0}")]
    NotTaken(#[from] state::InstallError),
    /// The publisher has no heads and no snapshots: it follows the source document only.
    #[error("{publisher} has no revisions")]
    NoRevisions {
        /// Scheme, host and port.
        publisher: String,
    },
    /// An answer that is cut off, damaged, out of date, or not what was asked for. Nothing of it
    /// was used.
    #[error("the answer of {publisher} cannot be used: {reason}")]
    Unusable {
        /// Scheme, host and port.
        publisher: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The time that the caller allowed has passed.
    #[error("no publisher answered within {0:?}")]
    TooLate(Duration),
}

impl OriginError {
    /// How long the publisher asks not to be called again.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            Self::Gone { .. }
            | Self::NoDocument { .. }
            | Self::NotTaken(_)
            | Self::Silent(_)
            | Self::NoRevisions { .. }
            | Self::Unusable { .. }
            | Self::TooLate(_) => None,
        }
    }
}

impl AttemptError for OriginError {
    fn is_answer(&self) -> bool {
        !matches!(self, Self::Silent(_))
    }
}

impl From<ClientError> for OriginError {
    fn from(error: ClientError) -> Self {
        let refusal = match error {
            ClientError::Refused(refusal) => refusal,
            ClientError::Unusable { publisher, reason } => {
                return Self::Unusable { publisher, reason };
            }
            ClientError::Unreachable { .. }
            | ClientError::NoAnswer { .. }
            | ClientError::BrokenOff { .. }
            | ClientError::NoPublisher => return Self::Silent(error),
        };
        let reason = refusal.to_string();
        let publisher = refusal.publisher;
        match (refusal.status, refusal.problem) {
            (404, Some(problem)) if problem.kind == ProblemKind::NoData => {
                Self::NoDocument { publisher }
            }
            // A 404 in another form comes from a publisher that knows no heads and snapshots.
            (404, None) => Self::NoRevisions { publisher },
            (404, Some(problem)) if problem.kind == ProblemKind::Unversioned => {
                Self::NoRevisions { publisher }
            }
            (410, Some(problem)) => Self::Gone {
                publisher,
                reason: problem.reason,
            },
            // Without a reason it cannot be known what to do instead, so a load follows.
            (410, None) => Self::Unusable { publisher, reason },
            (status, _problem) => Self::Refused {
                publisher,
                status,
                retry_after: refusal.retry_after,
                reason,
            },
        }
    }
}
