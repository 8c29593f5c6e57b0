//! A change that reaches a replica, and the decision about it. Nothing here decides; see
//! [`crate::machine`]. Whether a value has the right form for its schema is not checked: the
//! publisher did that before it stored the value.

use std::{collections::BTreeMap, sync::Arc};

use chrono::{DateTime, Utc};
use contract::{
    CanonicalJson, Change, ChangeSet, CollectionName, Crc, Document, DocumentId, Epoch, EventData,
    Operation, Proof, Revision, TraceParent,
    event::Confirm,
    signature::{EventSignature, Statement, ValueHash},
};
use serde::Deserialize;

/// A change as it reaches the machine: checked, and with a revision.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawChange")]
pub struct ReceivedChange {
    /// Its collection. It need not be followed.
    pub collection: CollectionName,
    /// The document.
    pub id: DocumentId,
    /// The epoch of `revision`.
    pub epoch: Epoch,
    /// Its position in the collection.
    pub revision: Revision,
    /// Its effect.
    pub op: Operation,
    /// The value, if it was included and its checksum matches.
    pub config: Option<CanonicalJson>,
    /// See [`Change::last_set`]. The change becomes visible after the watermark has reached this
    /// revision.
    pub last_set: Revision,
    /// The change set. The change becomes visible together with the other parts of it.
    pub change_set: Option<Arc<ChangeSet>>,
    /// See [`Change::proof`]. Nothing here checks it.
    pub proof: Option<Proof>,
    /// For measures alone.
    pub origin: Origin,
}

/// What is known of the origin of a change, for measures and traces. Nothing is decided by it and no
/// signature is of it: changes that differ in it alone are equal.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    /// See [`Change::time`].
    pub committed: Option<DateTime<Utc>>,
    /// The span that sent the event, or the one that made the request of the write.
    pub trace: Option<TraceParent>,
}

impl PartialEq for Origin {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

impl Eq for Origin {}

/// A change as an event brings it, with what says that a publisher made it.
///
/// It is parsed from the data of an event that has a revision; other events are parsed as
/// [`EventData`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawChange")]
pub struct SignedChange {
    /// The change.
    pub change: ReceivedChange,
    /// The signature, if there is one. Nothing here checks it.
    pub signature: Option<EventSignature>,
    /// The hash of a value that the event omits.
    pub value_hash: Option<ValueHash>,
    /// What the event asks for besides; no signature is of it.
    pub confirm: Option<Confirm>,
}

impl SignedChange {
    /// The change of an event, as [`ReceivedChange::from_event`].
    pub fn from_event(data: &EventData) -> Option<Self> {
        Some(Self {
            change: ReceivedChange::from_event(data)?,
            signature: data.signature,
            value_hash: data.config_data_hash,
            confirm: data.confirm,
        })
    }

    /// What a signature of the change is of. The value that is here counts, before any hash.
    pub fn statement(&self) -> Statement<'_> {
        let change = &self.change;
        Statement {
            collection: &change.collection,
            op: change.op,
            id: &change.id,
            revision: change.revision,
            epoch: change.epoch,
            last_set: change.last_set,
            value: change
                .config
                .as_ref()
                .map(ValueHash::of)
                .or(self.value_hash),
            change_set: change.change_set.as_deref(),
            proof: change.proof,
        }
    }
}

/// The members of event data that a replica uses.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawChange {
    collection: CollectionName,
    op: Operation,
    id: DocumentId,
    config_data: Option<CanonicalJson>,
    #[serde(default, deserialize_with = "contract::lenient::text")]
    crc: Option<Crc>,
    revision: Revision,
    epoch: Epoch,
    last_set: Option<Revision>,
    change_set: Option<ChangeSet>,
    // A member that decides nothing: another form of it must not cost the change.
    #[serde(default, deserialize_with = "contract::lenient::text")]
    proof: Option<Proof>,
    /// In records of the feed, and in events without an envelope.
    #[serde(default, deserialize_with = "contract::lenient::text")]
    time: Option<DateTime<Utc>>,
    /// In records of the feed.
    #[serde(default, deserialize_with = "contract::lenient::text")]
    traceparent: Option<TraceParent>,
    #[serde(default, deserialize_with = "contract::lenient::text")]
    config_data_hash: Option<ValueHash>,
    #[serde(default, deserialize_with = "contract::lenient::text")]
    signature: Option<EventSignature>,
    #[serde(default, deserialize_with = "contract::lenient::text")]
    confirm: Option<Confirm>,
}

impl TryFrom<RawChange> for SignedChange {
    type Error = &'static str;

    fn try_from(raw: RawChange) -> Result<Self, Self::Error> {
        Ok(Self {
            signature: raw.signature,
            value_hash: raw.config_data_hash,
            confirm: raw.confirm,
            change: raw.try_into()?,
        })
    }
}

impl TryFrom<RawChange> for ReceivedChange {
    type Error = &'static str;

    fn try_from(raw: RawChange) -> Result<Self, Self::Error> {
        // A document is a JSON object; another value could not be stored by any publisher.
        if raw
            .config_data
            .as_ref()
            .is_some_and(|config| !config.is_object())
        {
            return Err("configData is not a JSON object");
        }
        Ok(Self {
            change_set: membership(raw.change_set, &raw.collection, raw.revision),
            collection: raw.collection,
            id: raw.id,
            epoch: raw.epoch,
            revision: raw.revision,
            op: raw.op,
            config: intact(raw.config_data, raw.crc),
            last_set: raw.last_set.unwrap_or(0),
            proof: raw.proof,
            origin: Origin {
                committed: raw.time,
                trace: raw.traceparent,
            },
        })
    }
}

/// The decision about a change. Every change gets exactly one, also a change that has no effect; the
/// caller counts them, and asks the publisher for what is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The change is visible, and with it every staged change that waited for it.
    Applied,
    /// The change is staged: it waits for the rest of its change set, or for an earlier change set.
    /// Readers do not see it; a repetition is a duplicate.
    Staged,
    /// The change would have to be staged, but there is no capacity. Its revision is marked as
    /// known, so catch-up brings it.
    NoCapacity,
    /// The revision was seen before.
    Duplicate,
    /// The document has a newer revision; this one now counts as seen.
    Superseded,
    /// The change belongs to another epoch. Nothing changed.
    OtherEpoch,
    /// The change arrived before the first load of its collection and is kept for it.
    Early,
    /// The collection is not followed.
    NotFollowed,
    /// The change is so far beyond what a publisher confirmed, or names such revisions, that the
    /// publisher has to be asked first. Nothing changed.
    Unconfirmed,
    /// The value is needed and was not included. The revision is marked as known; nothing else
    /// changed.
    NeedsValue,
}

impl Decision {
    /// Whether the change was not known before, and is of the history that is followed.
    pub fn is_new(self) -> bool {
        match self {
            Self::Applied
            | Self::Staged
            | Self::Superseded
            | Self::NeedsValue
            | Self::NoCapacity => true,
            Self::Duplicate
            | Self::OtherEpoch
            | Self::Early
            | Self::NotFollowed
            | Self::Unconfirmed => false,
        }
    }
}

impl ReceivedChange {
    /// The change of an event, if it has a revision and an epoch; `None` for an event of a publisher
    /// without revisions. A value whose checksum does not match counts
    /// as missing.
    pub fn from_event(data: &EventData) -> Option<Self> {
        let revision = data.revision?;
        Some(Self {
            collection: data.collection.clone(),
            id: data.id.clone(),
            epoch: data.epoch?,
            revision,
            op: data.op,
            // A document is a JSON object: another value counts as missing, and is fetched.
            config: intact(data.config_data.clone(), data.crc).filter(CanonicalJson::is_object),
            last_set: data.last_set.unwrap_or(0),
            change_set: membership(data.change_set.clone(), &data.collection, revision),
            proof: data.proof,
            // The data of an event has no commit time: what is read this way is not measured.
            origin: Origin::default(),
        })
    }

    /// The change of a record of the feed. A value whose checksum does not match counts as missing.
    pub fn from_change(change: Change) -> Self {
        Self {
            change_set: membership(change.change_set, &change.collection, change.revision),
            collection: change.collection,
            id: change.id,
            epoch: change.epoch,
            revision: change.revision,
            op: change.op,
            config: intact(change.config_data, change.crc),
            last_set: change.last_set,
            proof: change.proof,
            origin: Origin {
                committed: Some(change.time),
                trace: change
                    .context
                    .traceparent()
                    .and_then(|text| text.parse().ok()),
            },
        }
    }

    /// The same as event data, as [`ReceivedChange::from_event`] reads it; `None` when the value is
    /// missing. A subscriber sends it in its own feed.
    pub fn event(&self) -> Option<EventData> {
        if self.lacks_value() {
            return None;
        }
        Some(EventData {
            collection: self.collection.clone(),
            op: self.op,
            id: self.id.clone(),
            config_data: self
                .config
                .clone()
                .filter(|_config| self.op != Operation::Delete),
            metadata: BTreeMap::new(),
            pub_sub_name: None,
            crc: self
                .config
                .as_ref()
                .filter(|_config| self.op != Operation::Delete)
                .map(CanonicalJson::crc),
            revision: Some(self.revision),
            epoch: Some(self.epoch),
            last_set: Some(self.last_set),
            change_set: self.change_set.as_deref().cloned(),
            proof: self.proof,
            config_data_hash: None,
            confirm: None,
            // A signature is of an event; the feed of a subscriber is trusted as a connection.
            signature: None,
            // Replicas do not keep the context of a request.
            context: contract::Context::default(),
        })
    }

    /// The document that the change creates; `None` for a deletion, and when the value is missing.
    pub(crate) fn document(&self) -> Option<Document> {
        let config = self
            .config
            .as_ref()
            .filter(|_config| self.op != Operation::Delete)?;
        Some(Document::new(self.id.clone(), self.revision, config))
    }

    /// Whether the value is needed and missing.
    pub fn lacks_value(&self) -> bool {
        self.op != Operation::Delete && self.config.is_none()
    }

    /// Bytes of memory that the change takes, approximately: everything that a peer can make larger
    /// counts, and a change without a value is not free.
    pub fn size(&self) -> usize {
        let config = self.config.as_ref();
        let set = self.change_set.as_deref();
        size_of::<Self>()
            + self.id.as_str().len()
            + self.collection.as_str().len()
            + config.map_or(0, |config| config.as_str().len())
            + set.map_or(0, ChangeSet::size)
    }
}

/// The value, unless its checksum does not match. The caller treats a damaged value as a value that
/// was not included, and the publisher is asked for it.
fn intact(config: Option<CanonicalJson>, crc: Option<Crc>) -> Option<CanonicalJson> {
    config.filter(|config| crc.is_none_or(|crc| crc == config.crc()))
}

/// A change set that does not name the change itself could never become complete: such a change
/// counts as a change without a set.
fn membership(
    set: Option<ChangeSet>,
    collection: &CollectionName,
    revision: Revision,
) -> Option<Arc<ChangeSet>> {
    set.filter(|set| {
        set.parts.iter().any(|part| {
            part.collection == *collection && (part.first..=part.last).contains(&revision)
        })
    })
    .map(Arc::new)
}
