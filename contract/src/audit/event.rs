//! What an audit record can be about. Never a value, a token or a key.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    access::{Grant, Right},
    audit::Tip,
    canonical::{CanonicalJson, JsonError},
    change::{Change, Operation},
    history::SnapshotName,
    ids::{CollectionName, DocumentId, Epoch, Revision},
    sha256::Sha256,
};

/// What happened: `kind` and `detail` of a record.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(
    tag = "kind",
    content = "detail",
    rename_all = "kebab-case",
    rename_all_fields = "camelCase"
)]
pub enum AuditEvent {
    /// A publisher began to write to the chain. It is the first record of a chain.
    PublisherStarted {
        /// Its name.
        publisher: String,
        /// Its version.
        version: String,
        /// The newest records of the chains that it found and that no chain named before: so a chain
        /// that is lost is noticed by the later ones.
        tips: Vec<Tip>,
        /// Why it begins another chain in a store that has one.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// A publisher ends in order; what its process did is in the chain up to here.
    PublisherStopped {
        /// Its name.
        publisher: String,
    },
    /// One document was changed, or several together. In the transaction of the changes.
    Write(WriteDetail),
    /// Documents got a value back that they had before. In the transaction of the changes.
    Rollback(WriteDetail),
    /// A caller was refused.
    Refusal(Refusal),
    /// A token was made.
    TokenCreated {
        /// Its id, which is no secret.
        id: String,
        /// Its name.
        name: String,
        /// What it may do.
        grants: Vec<Grant>,
        /// When it expires.
        #[serde(skip_serializing_if = "Option::is_none")]
        expires_at: Option<DateTime<Utc>>,
    },
    /// A token was revoked.
    TokenRevoked {
        /// Its id.
        id: String,
        /// Its name.
        name: String,
    },
    /// A key came into use, at the start or by a rotation.
    KeyInUse {
        /// What it is for, for example `signing`.
        purpose: String,
        /// Its id.
        id: String,
    },
    /// The configuration of who may do what, in force from here on.
    AccessConfigured {
        /// What was read, for example `tokens-file`.
        source: String,
        /// SHA-256 of its content.
        digest: Sha256,
    },
    /// An operator asked for something that is not in one transaction with its record. Before it is done:
    /// its own record follows if it was done, unless the publisher was killed in between.
    Requested {
        /// What.
        operation: AuditedOperation,
        /// What it is about, where that is one thing.
        #[serde(skip_serializing_if = "Option::is_none")]
        target: Option<String>,
    },
    /// A new epoch was declared.
    EpochDeclared {
        /// The epoch from here on.
        epoch: Epoch,
    },
    /// A repair of the store was asked for.
    Repair {
        /// Whether it was to write, and not only to report.
        applied: bool,
        /// Whether rows were to be given up.
        discard: bool,
        /// The collections.
        collections: Vec<CollectionName>,
    },
    /// A named snapshot was made.
    SnapshotCreated {
        /// Its name.
        name: SnapshotName,
    },
    /// A named snapshot was deleted.
    SnapshotDeleted {
        /// Its name.
        name: SnapshotName,
    },
    /// A dead letter was sent again.
    DeadLetterReplayed {
        /// Its id.
        id: String,
    },
    /// Dead letters were discarded.
    DeadLettersDiscarded {
        /// The id, of one.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        /// How many.
        count: u64,
    },
    /// A secret value was answered in plain text.
    SecretRevealed {
        /// The collection.
        collection: CollectionName,
        /// The document.
        id: DocumentId,
        /// The revision of the value.
        #[serde(skip_serializing_if = "Option::is_none")]
        revision: Option<Revision>,
    },
    /// Old records were removed. In the transaction of the removal.
    Retention {
        /// The last record that was removed, of each chain: what the first record that stays is chained
        /// to.
        removed: Vec<Tip>,
    },
    /// Records that were not written, because the store was away for too long.
    Lost {
        /// How many.
        count: u64,
    },
}

/// An operation of [`AuditEvent::Requested`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuditedOperation {
    /// A new epoch is declared.
    DeclareEpoch,
    /// A named snapshot is made.
    CreateSnapshot,
    /// A named snapshot is deleted.
    DeleteSnapshot,
    /// A dead letter is sent again.
    ReplayDeadLetter,
    /// Dead letters are discarded.
    DiscardDeadLetters,
}

/// The changes of one write.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WriteDetail {
    /// Id of the change set, when several documents changed together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change_set: Option<String>,
    /// Why, in the words of the caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The changes.
    pub changes: Vec<AuditedChange>,
}

/// A change as the audit log names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditedChange {
    /// The collection.
    pub collection: CollectionName,
    /// The document.
    pub id: DocumentId,
    /// Its effect.
    pub op: Operation,
    /// The epoch of the revision.
    pub epoch: Epoch,
    /// The revision.
    pub revision: Revision,
    /// [`AuditedChange::digest`] of the change record.
    pub record: Sha256,
}

impl AuditedChange {
    /// A change of the log.
    pub fn of(change: &Change) -> Self {
        Self {
            collection: change.collection.clone(),
            id: change.id.clone(),
            op: change.op,
            epoch: change.epoch,
            revision: change.revision,
            record: Self::digest(change),
        }
    }

    /// SHA-256 of a change record: of `confcast change 1`, a line feed, the SHA-256 of the value (zeros
    /// where there is none) and the canonical JSON of the record without the value.
    ///
    /// The value is hashed by itself, so that a large one is not copied.
    pub fn digest(change: &Change) -> Sha256 {
        let rest = Change {
            config_data: None,
            ..change.clone()
        };
        // A change is a struct of texts and numbers: it always has a canonical form.
        let rest = serde_json::to_vec(&rest).ok();
        let rest = rest.and_then(|json| CanonicalJson::parse(&json).ok());
        let rest = rest.as_ref().map_or("", CanonicalJson::as_str);
        digest(change.config_data.as_ref(), rest)
    }

    /// [`Self::digest`] of a change record as JSON, as the feed has it. Members of later versions count.
    ///
    /// # Errors
    /// When the text is not a JSON object.
    pub fn digest_of_json(json: &[u8]) -> Result<Sha256, JsonError> {
        let failed = |error: serde_json::Error| JsonError {
            pointer: String::new(),
            reason: error.to_string(),
        };
        let mut members: BTreeMap<String, Box<RawValue>> =
            serde_json::from_slice(json).map_err(failed)?;
        let value = members.remove("configData");
        let value = value.map(|value| CanonicalJson::parse(value.get().as_bytes()));
        let rest = serde_json::to_vec(&members).map_err(failed)?;
        let rest = CanonicalJson::parse(&rest)?;
        Ok(digest(value.transpose()?.as_ref(), rest.as_str()))
    }
}

fn digest(value: Option<&CanonicalJson>, rest: &str) -> Sha256 {
    let value = value.map_or(Sha256::ZERO, |value| {
        Sha256::of(&[value.as_str().as_bytes()])
    });
    Sha256::of(&[b"confcast change 1\n", &value.0, rest.as_bytes()])
}

/// A caller was refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// The type of the problem that it got, for example `forbidden`.
    pub reason: String,
    /// The right that was missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub right: Option<Right>,
    /// What it was about, for example the method and the pattern of the route.
    pub target: String,
    /// How often within a minute, with the same actor, reason and right; the target is that of the
    /// first one.
    pub count: u64,
}
