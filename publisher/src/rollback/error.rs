//! Why there is no rollback.

use contract::{CollectionName, Document, Epoch, history::ChangeNote};

use crate::{
    decide::{DocumentKey, WriteError},
    store::past::PastError,
};

/// Why a rollback cannot be planned or written. Nothing was changed, unless a write of unknown
/// outcome says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum RollbackError {
    /// What was then cannot be read.
    #[error(transparent)]
    Past(#[from] PastError),
    /// The change set is in no record of the log.
    #[error(
        "The change log has no change set {0:?}. A set that changed a single document is a change \
         like any other: roll that document back"
    )]
    NoSet(String),
    /// A document is not at the revision that the request expects, or was changed after it.
    #[error("{}", conflict(.0))]
    NotAsExpected(Conflict),
    /// The revision that the request expects is one of another epoch.
    #[error(
        "{collection} is in epoch {epoch} now, and the revision that the rollback expects is one of \
         epoch {expected}: look at a dry run again"
    )]
    OtherEpoch {
        /// The collection.
        collection: CollectionName,
        /// Its epoch.
        epoch: Epoch,
        /// The epoch of the request.
        expected: Epoch,
    },
    /// A document of a change set was changed after the set.
    #[error("{}", conflict(.0))]
    ChangedSince(Conflict),
    /// More documents have another value than a change set may have.
    #[error(
        "{0} documents would change, or their values have more than 4 MiB, and a change set has at \
         most 256 documents: name some of them in `ids`, or send `\"partial\": true` until the \
         answer no longer has `more`"
    )]
    TooMany(u64),
    /// The value that a document would get is refused today.
    #[error("the value that {}/{} had at revision {revision} is refused today: {error}", .key.0, .key.1)]
    Refused {
        /// The document.
        key: DocumentKey,
        /// The revision that gave it the value.
        revision: u64,
        /// Why.
        error: WriteError,
    },
    /// The change set was refused or failed.
    #[error("{error}")]
    Write {
        /// Why.
        error: WriteError,
        /// The documents of the set, in order.
        keys: Vec<DocumentKey>,
    },
    /// A collection is not served here, or the work could not be done now.
    #[error(transparent)]
    Failed(WriteError),
}

impl From<anyhow::Error> for RollbackError {
    fn from(error: anyhow::Error) -> Self {
        Self::Past(error.into())
    }
}

/// A document that is not as the rollback needs it.
#[derive(Debug)]
pub struct Conflict {
    /// The document.
    pub key: DocumentKey,
    /// What is there now.
    pub stored: Option<Document>,
    /// Its newest change, if that is known.
    pub last_change: Option<ChangeNote>,
}

fn conflict(
    Conflict {
        key: (collection, id),
        stored,
        last_change,
    }: &Conflict,
) -> String {
    let state = stored.as_ref().map_or_else(
        || "does not exist".to_owned(),
        |stored| format!("is at revision {}", stored.revision()),
    );
    let mut text = format!("{collection}/{id} {state}");
    if let Some(change) = last_change {
        let user = change.context.author();
        let user = user.unwrap_or_else(|| "a user without a name".to_owned());
        text.push_str(&format!(
            ": changed by {user} at {} with revision {}",
            change
                .time
                .to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
            change.revision
        ));
        if let Some(reason) = change.context.reason() {
            text.push_str(&format!(" ({reason})"));
        }
    }
    text
}
