//! The status of a replica: body of `GET /v1/status`. Nothing here measures or counts.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    fleet::{IntakeFault, Transport},
    ids::{CollectionName, Digest, DocumentId, Epoch, Revision},
    release::ReleaseVersion,
    signature::KeyId,
};

/// Largest number of refused values that a status lists per collection.
pub const MAX_REFUSALS: usize = 20;

/// How complete and how fresh the data of a replica is. Computed on each read, never stored. The
/// worst state is the least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ReplicaState {
    /// The first load is not complete; there is nothing to serve.
    Loading,
    /// The service reads the documents as a type of its own, and of at least one document it has
    /// never had a value: the value was refused, or held back with a refused one of its change set.
    /// It is worse than the next two, because readiness depends on it, whatever they say.
    Partial,
    /// A revision that is known to exist has been missing for longer than the grace period (200 ms).
    Behind,
    /// No publisher has confirmed the replica for 2.5 check-in intervals; it serves the last known
    /// good values.
    Stale,
    /// The replica has everything that was committed 2.5 check-in intervals ago.
    Current,
}

impl ReplicaState {
    /// Every state, the worst first.
    pub const ALL: [Self; 5] = [
        Self::Loading,
        Self::Partial,
        Self::Behind,
        Self::Stale,
        Self::Current,
    ];

    /// The name on the wire and in the `Confcast-State` header.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Loading => "loading",
            Self::Partial => "partial",
            Self::Behind => "behind",
            Self::Stale => "stale",
            Self::Current => "current",
        }
    }
}

/// Body of `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct ReplicaStatus {
    /// Name of the replica.
    pub instance: String,
    /// The worst state of its collections.
    pub state: ReplicaState,
    /// The epoch that it follows; absent before the first load.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
    /// Milliseconds since a publisher confirmed the replica, in this run of the process or, for data
    /// that was read from disk, in an earlier run; absent when there was no confirmation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmed_ms_ago: Option<u64>,
    /// One row per followed collection, by name.
    pub collections: Vec<CollectionStatus>,
    /// Events since the start, by result.
    pub events: EventCounts,
    /// The public keys that events are checked with; empty where events are not checked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub event_keys: Vec<KeyId>,
    /// The newest dropped events, oldest first; the list is bounded.
    pub drops: Vec<DroppedEvent>,
    /// Identifies one run of the process.
    #[serde(default)]
    pub boot_id: String,
    /// URL that it tells the publishers. Without one, no publisher can post events to it, except one
    /// that names it in its settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_url: Option<String>,
    /// The version of its program; absent from an older replica. Another value counts as absent.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "crate::lenient::text"
    )]
    #[cfg_attr(feature = "utoipa", schema(value_type = Option<String>))]
    pub version: Option<ReleaseVersion>,
    /// See [`crate::formats::PROTOCOL`]; absent from an older replica. Another value counts as absent.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "crate::lenient::number"
    )]
    #[cfg_attr(feature = "utoipa", schema(value_type = Option<u32>))]
    pub protocol: Option<u32>,
    /// The transport of its events, where it knows; see [`Transport`].
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "crate::lenient::text"
    )]
    pub transport: Option<Transport>,
    /// The fault of the intake, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intake: Option<IntakeFault>,
    /// How far events are behind the feed: the number of revisions, over all collections, between the
    /// newest that an event brought and the newest that the feed brought. Under overload it grows
    /// while the replica is current.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub events_behind: u64,
    /// Topics of followed collections that the sidecar has not subscribed to: it asked before the
    /// collections were known, and asks once in its life. Restart the sidecar. Empty where no sidecar
    /// posts the events.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub topics_not_subscribed: BTreeSet<CollectionName>,
    /// Loads and catch-ups since the start.
    #[serde(default)]
    pub sync: SyncCounts,
    /// Error of the last load or check-in, if it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// The handlers of the service, in order of registration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub handlers: Vec<HandlerStatus>,
    /// The projection into another database, where one is set up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub projection: Option<ProjectionStatus>,
}

impl ReplicaStatus {
    /// Leaves out what may quote a document of a collection that the reader may not read: refused values,
    /// errors of handlers, and the errors of dropped events unless it may read all. Their numbers stay.
    pub fn hide_values(&mut self, may_read: impl Fn(&CollectionName) -> bool, may_read_all: bool) {
        for row in &mut self.collections {
            if !may_read(&row.collection) {
                hide_refusals(&mut row.refusals, &mut row.refused_values);
            }
        }
        hide_errors(&mut self.handlers, may_read);
        if !may_read_all {
            let hidden = || "it may quote a document, and needs the right read".to_owned();
            for drop in &mut self.drops {
                drop.error = hidden();
            }
            let projection = self.projection.as_mut();
            if let Some(error) = projection.and_then(|projection| projection.last_error.as_mut()) {
                *error = hidden();
            }
        }
    }
}

/// Leaves out refused values. Their number stays, also of a replica that only lists them.
pub(crate) fn hide_refusals<R>(refusals: &mut Vec<R>, number: &mut u64) {
    *number = (*number).max(refusals.len() as u64);
    refusals.clear();
}

/// Leaves out the errors of handlers whose collection the reader may not read.
pub(crate) fn hide_errors(
    handlers: &mut [HandlerStatus],
    may_read: impl Fn(&CollectionName) -> bool,
) {
    for handler in handlers {
        if !may_read(&handler.collection) {
            handler.error = None;
        }
    }
}

/// One followed collection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct CollectionStatus {
    /// The collection.
    pub collection: CollectionName,
    /// State of this collection.
    pub state: ReplicaState,
    /// An additional fact about the state: `unversioned`, `other-store`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The watermark: every revision up to this one was seen.
    pub revision: Revision,
    /// The highest revision that is known to exist.
    pub known: Revision,
    /// Number of staged changes: parts of incomplete change sets, and changes that wait for these.
    #[serde(default)]
    pub staged: u64,
    /// Number of live documents.
    pub count: u64,
    /// Digest over the live documents.
    pub digest: Digest,
    /// Values that do not fit the type of the service, by id; at most [`MAX_REFUSALS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<RefusedValue>,
    /// The exact number of values that do not fit; 0 from an older replica.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub refused_values: u64,
}

/// Whether a number is left out of the JSON: it is 0.
pub(crate) fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A value that does not fit the type of the service. The service keeps the last value that did fit,
/// if there was one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
pub struct RefusedValue {
    /// The document.
    pub id: DocumentId,
    /// The revision that gave it this value.
    pub revision: Revision,
    /// JSON pointer to the part that does not fit; empty for the whole value.
    pub pointer: String,
    /// The error of the decoder.
    pub error: String,
}

/// The state of a handler: a function of the service that is called for changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
pub struct HandlerStatus {
    /// Its name.
    pub name: String,
    /// Its collection.
    pub collection: CollectionName,
    /// Its state.
    pub state: HandlerState,
    /// The watermark up to which it has handled everything; 0 before its first success.
    pub revision: Revision,
    /// Its last error, if it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl HandlerStatus {
    /// Whether it failed and has not succeeded since.
    pub fn is_failing(&self) -> bool {
        self.state == HandlerState::Failing
    }
}

/// The state of a handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum HandlerState {
    /// Its first call is not complete: the configuration is not loaded, or handlers before it are
    /// not done, or the call runs.
    Waiting,
    /// It has handled everything and is called for each change.
    InStep,
    /// It failed and will be called again with the whole collection.
    Failing,
}

/// Number of events, by result.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct EventCounts {
    /// The document was changed.
    pub applied: u64,
    /// The revision was seen before.
    pub duplicate: u64,
    /// The document already had a newer revision.
    pub superseded: u64,
    /// The event belongs to another epoch.
    pub other_epoch: u64,
    /// The event named revisions far beyond those that a publisher confirmed. The publisher was asked;
    /// what it confirmed came by the feed.
    #[serde(default)]
    pub unconfirmed: u64,
    /// The event arrived before the first load and waits for it.
    pub early: u64,
    /// The change waits for the rest of its change set, or for an earlier change set.
    #[serde(default)]
    pub staged: u64,
    /// The collection is not followed here.
    pub ignored: u64,
    /// The event has no revision, but its collection has; the replica read the heads instead.
    #[serde(default)]
    pub without_revision: u64,
    /// An event of an unversioned collection that arrived after its `expiration`.
    pub expired: u64,
    /// The value was fetched from the publisher.
    pub fetched: u64,
    /// Answered RETRY.
    pub retried: u64,
    /// Answered DROP.
    pub dropped: u64,
    /// Those of `dropped` without a signature, where the replica has public keys.
    #[serde(default)]
    pub unsigned: u64,
    /// Those of `dropped` whose signature names a key that the replica does not have.
    #[serde(default)]
    pub unknown_key: u64,
    /// Those of `dropped` whose signature is of something else.
    #[serde(default)]
    pub wrong_signature: u64,
}

/// Number of loads and catch-ups of a replica.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct SyncCounts {
    /// Installed snapshots.
    pub loads: u64,
    /// Applied pages of the change feed.
    pub pages: u64,
    /// Changes that arrived by these pages before any event.
    pub changes: u64,
    /// Collections that were loaded again because their digest differed. Each one is an alarm.
    pub resets: u64,
}

/// An event that was dropped because it can never be applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
pub struct DroppedEvent {
    /// Time of arrival.
    pub time: DateTime<Utc>,
    /// A stable word for the reason: `not-a-cloudevent`, `wrong-type`, `too-large`, …
    pub reason: String,
    /// The error, in words.
    pub error: String,
    /// Id and source of the event, as far as it could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
}

/// How far a projection into another database is. Readiness does not depend on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct ProjectionStatus {
    /// What it does.
    pub state: ProjectionState,
    /// Its collections, by name, as this process last read or wrote their positions.
    pub collections: Vec<ProjectedCollection>,
    /// Transactions that were committed since the start.
    pub transactions: u64,
    /// Rows that were written or removed since the start.
    pub rows: u64,
    /// Those of them that a comparison found to be different at a revision that was projected before:
    /// somebody else has changed them.
    pub mended: u64,
    /// Attempts that failed since the start.
    pub failures: u64,
    /// Why the last attempt failed; absent after a success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// What a projection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ProjectionState {
    /// It has not reached the database yet.
    Connecting,
    /// Another replica writes the projection.
    Standby,
    /// It compares rows with documents, and writes what differs.
    Reconciling,
    /// The database lacks changes that the replica has.
    Behind,
    /// The database has everything that the replica has.
    Current,
    /// The database does not answer, or an attempt failed; it is tried again.
    Unavailable,
    /// Nothing is written, because the database is not one for this projection; `lastError` says why.
    Refused,
}

impl ProjectionState {
    /// Every state.
    pub const ALL: [Self; 7] = [
        Self::Connecting,
        Self::Standby,
        Self::Reconciling,
        Self::Behind,
        Self::Current,
        Self::Unavailable,
        Self::Refused,
    ];

    /// The name on the wire and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Standby => "standby",
            Self::Reconciling => "reconciling",
            Self::Behind => "behind",
            Self::Current => "current",
            Self::Unavailable => "unavailable",
            Self::Refused => "refused",
        }
    }
}

/// One collection of a projection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct ProjectedCollection {
    /// The collection.
    pub collection: CollectionName,
    /// The history that `revision` counts in.
    pub epoch: Epoch,
    /// The revision whose documents the rows are.
    pub revision: Revision,
    /// Whether the rows are not those of `revision` yet.
    pub reconciling: bool,
}
