//! What arrives, and what becomes of it. Nothing here decides; see [`crate::machine`].

use std::{collections::BTreeMap, sync::Arc};

use contract::{
    CanonicalJson, Change, ChangeSet, CollectionName, Crc, Document, DocumentId, Epoch, EventData,
    Operation, Revision,
};
use serde::Deserialize;

/// A change as it reaches the machine: complete, checked, and with a revision.
///
/// It is read from the data of an event that has all of that; whatever else an event may be is for
/// [`EventData`] to say.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawChange")]
pub struct ReceivedChange {
    /// Its collection.
    pub collection: CollectionName,
    /// The document.
    pub id: DocumentId,
    /// The history that `revision` counts in.
    pub epoch: Epoch,
    /// Its place in the collection.
    pub revision: Revision,
    /// What it does.
    pub op: Operation,
    /// The value, when it came along and its checksum holds.
    pub config: Option<CanonicalJson>,
    /// See [`Change::last_set`]. It never becomes visible before the watermark has reached this.
    pub last_set: Revision,
    /// The set it is a member of. It never becomes visible before the rest of the set.
    pub change_set: Option<Arc<ChangeSet>>,
}

/// The data of an event, as far as a machine wants to know it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawChange {
    collection: CollectionName,
    op: Operation,
    id: DocumentId,
    config_data: Option<CanonicalJson>,
    crc: Option<Crc>,
    revision: Revision,
    epoch: Epoch,
    last_set: Option<Revision>,
    change_set: Option<ChangeSet>,
}

impl TryFrom<RawChange> for ReceivedChange {
    type Error = &'static str;

    fn try_from(said: RawChange) -> Result<Self, Self::Error> {
        if said
            .config_data
            .as_ref()
            .is_some_and(|config| !config.is_object())
        {
            return Err("configData is not a JSON object");
        }
        Ok(Self {
            change_set: membership(said.change_set, &said.collection, said.revision),
            collection: said.collection,
            id: said.id,
            epoch: said.epoch,
            revision: said.revision,
            op: said.op,
            config: intact(said.config_data, said.crc),
            last_set: said.last_set.unwrap_or(0),
        })
    }
}

/// What becomes of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It is visible, and with it whatever it was the last missing piece of.
    Applied,
    /// It waits, unseen by readers, for the rest of its set or for a set before it. Repeats are
    /// duplicates.
    Staged,
    /// It would have to wait, but too much is waiting already. Nothing changed but that it is known
    /// to exist.
    NoCapacity,
    /// Its revision had been seen.
    Duplicate,
    /// The document is newer; the revision now counts as seen.
    Superseded,
    /// It counts in another history. Nothing changed.
    OtherEpoch,
    /// It came before the first load of its collection and is kept for it.
    Early,
    /// Its collection is not followed.
    NotFollowed,
    /// Its value is needed and did not come along. Nothing changed but that it is known to exist.
    NeedsValue,
}

impl ReceivedChange {
    /// What an event says, if it has a revision. A value whose checksum does not hold counts as
    /// absent.
    pub fn from_event(data: &EventData) -> Option<Self> {
        let revision = data.revision?;
        Some(Self {
            collection: data.collection.clone(),
            id: data.id.clone(),
            epoch: data.epoch?,
            revision,
            op: data.op,
            config: intact(data.config_data.clone(), data.crc),
            last_set: data.last_set.unwrap_or(0),
            change_set: membership(data.change_set.clone(), &data.collection, revision),
        })
    }

    /// What a record of the feed says. A value whose checksum does not hold counts as absent.
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
        }
    }

    /// The same as the data of an event, as [`ReceivedChange::from_event`] reads it; `None` when its value
    /// did not come along.
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
            // A replica keeps nothing of who asked for a change.
            context: contract::Context::default(),
        })
    }

    /// The document that it makes; `None` when it takes one away, or when its value did not come
    /// along.
    pub(crate) fn document(&self) -> Option<Document> {
        let config = self
            .config
            .as_ref()
            .filter(|_config| self.op != Operation::Delete)?;
        Some(Document::new(self.id.clone(), self.revision, config))
    }

    /// Whether its value is needed and did not come along.
    pub fn lacks_value(&self) -> bool {
        self.op != Operation::Delete && self.config.is_none()
    }

    /// Bytes of the value.
    pub fn size(&self) -> usize {
        self.config
            .as_ref()
            .map_or(0, |config| config.as_str().len())
    }
}

fn intact(config: Option<CanonicalJson>, crc: Option<Crc>) -> Option<CanonicalJson> {
    config.filter(|config| crc.is_none_or(|crc| crc == config.crc()))
}

/// A set that does not name the change itself could never be complete with it: such a change stands
/// alone.
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
