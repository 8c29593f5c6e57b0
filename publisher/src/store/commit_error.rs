//! Why a group of writes was not committed, or not provably.

use crate::{
    decide::WriteError,
    store::{embedded, integrity},
};

/// Why a group was not, or not provably, committed. The source says which step failed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Nothing was written. The same group may succeed later.
    #[error("the group was not committed")]
    NotCommitted(#[source] anyhow::Error),
    /// Nothing was written, because of something in this group. Parts of it may succeed.
    #[error("the store refused the group")]
    Refused(#[source] anyhow::Error),
    /// The group may or may not have been written.
    #[error("it is unknown whether the group was committed")]
    OutcomeUnknown(#[source] anyhow::Error),
}

impl CommitError {
    /// The error that every command of the group is answered with.
    pub fn answer(&self) -> WriteError {
        match self {
            // Another attempt does not help: something stored is damaged, and the client learns what.
            Self::Refused(cause) if integrity::is_damage(cause) => {
                WriteError::Unreadable(cause.root_cause().to_string())
            }
            Self::NotCommitted(cause) | Self::Refused(cause) if embedded::is_disk_full(cause) => {
                WriteError::DiskFull
            }
            Self::NotCommitted(_) | Self::Refused(_) => WriteError::NotCommitted,
            Self::OutcomeUnknown(_) => WriteError::OutcomeUnknown,
        }
    }

    /// The step that failed and its causes, for a log line: `{:#}` prints all of them.
    pub fn cause(&self) -> &anyhow::Error {
        match self {
            Self::NotCommitted(cause) | Self::Refused(cause) | Self::OutcomeUnknown(cause) => cause,
        }
    }
}
