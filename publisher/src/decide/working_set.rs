//! The ground that a group stands on: heads and documents as they are, and as each change leaves
//! them.
//!
//! The arithmetic of heads is here: revision, count, digest. Whether a change may happen is not
//! asked here.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use contract::{
    CanonicalJson, Change, CollectionName, Document, DocumentId, Epoch, Head, Operation,
};

use crate::{
    api::error::ApiError,
    decide::{Set, Write},
};

/// Where a document is.
pub type DocumentKey = (CollectionName, DocumentId);

/// What a transaction finds: heads of all collections that the group names, and its documents that
/// exist.
#[derive(Debug, Clone)]
pub struct WorkingSet {
    /// The history of the store.
    pub epoch: Epoch,
    /// Heads by collection.
    pub heads: BTreeMap<CollectionName, Head>,
    /// Documents by place.
    pub documents: HashMap<DocumentKey, Document>,
}

impl WorkingSet {
    /// A copy of what a set touches: the set is tried on it.
    pub(super) fn part(&self, set: &Set) -> Self {
        let mut part = Self {
            epoch: self.epoch,
            heads: BTreeMap::new(),
            documents: HashMap::new(),
        };
        for write in &set.members {
            if let Some(head) = self.heads.get(&write.collection) {
                part.heads
                    .entry(write.collection.clone())
                    .or_insert_with(|| head.clone());
            }
            let place = (write.collection.clone(), write.id.clone());
            if let Some(held) = self.documents.get(&place) {
                part.documents.insert(place, held.clone());
            }
        }
        part
    }

    /// Takes back the copy that a set was tried on.
    pub(super) fn take(&mut self, mut part: Self, set: &Set) {
        for write in &set.members {
            let place = (write.collection.clone(), write.id.clone());
            match part.documents.remove(&place) {
                Some(document) => drop(self.documents.insert(place, document)),
                None => drop(self.documents.remove(&place)),
            }
        }
        self.heads.append(&mut part.heads);
    }

    /// Makes a change: the next revision of its collection, with head and document as they are
    /// after it.
    pub(super) fn advance(
        &mut self,
        write: &Write,
        op: Operation,
        config: Option<CanonicalJson>,
        now: DateTime<Utc>,
    ) -> Result<Change, ApiError> {
        let unknown = || ApiError::unknown_collection(write.collection.as_str());
        let head = self.heads.get_mut(&write.collection).ok_or_else(unknown)?;
        let place = (write.collection.clone(), write.id.clone());
        head.revision += 1;
        let (crc, old) = match &config {
            Some(config) => {
                let document = Document::new(write.id.clone(), head.revision, config);
                let crc = document.crc();
                head.digest = head.digest.with(document.id(), document.revision(), crc);
                head.count += 1;
                (Some(crc), self.documents.insert(place, document))
            }
            None => (None, self.documents.remove(&place)),
        };
        if let Some(old) = old {
            head.digest = head.digest.without(old.id(), old.revision(), old.crc());
            head.count -= 1;
        }
        Ok(Change {
            collection: write.collection.clone(),
            op,
            id: write.id.clone(),
            revision: head.revision,
            epoch: self.epoch,
            last_set: head.last_set,
            crc,
            config_data: config,
            change_set: None,
            time: now,
            count: head.count,
            digest: head.digest,
            context: write.context.clone(),
        })
    }
}
