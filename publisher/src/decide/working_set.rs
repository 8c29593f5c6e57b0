//! The working set: the heads and documents that a group of commands works on, as the store holds
//! them and as each change leaves them.
//!
//! The arithmetic of heads is here: revision, count and digest. Whether a change may happen is not
//! decided here.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use contract::{
    CanonicalJson, Change, CollectionName, Document, DocumentId, Epoch, Head, Operation,
};
use service::nearest::unknown_collection;

use crate::decide::{StoreSecret, Write, WriteError, references::Facts};

/// The key of a document: its collection and its id.
pub type DocumentKey = (CollectionName, DocumentId);

/// The state that a transaction reads: the heads of all collections that a group names, and those
/// of its documents that exist.
#[derive(Debug, Clone)]
pub struct WorkingSet {
    /// The epoch of the store.
    pub epoch: Epoch,
    /// The secret of the store, which proves its changes.
    pub secret: StoreSecret,
    /// Heads by collection.
    pub heads: BTreeMap<CollectionName, Head>,
    /// Existing documents by key.
    pub documents: HashMap<DocumentKey, Document>,
    /// What is known of other documents.
    pub facts: Facts,
}

impl WorkingSet {
    /// A copy of the heads and documents that some writes touch.
    pub(super) fn copy_for(&self, writes: &[Write]) -> Self {
        let mut copy = Self {
            epoch: self.epoch,
            secret: self.secret.clone(),
            heads: BTreeMap::new(),
            documents: HashMap::new(),
            facts: Facts::default(),
        };
        for write in writes {
            if let Some(head) = self.heads.get(&write.collection) {
                copy.heads
                    .entry(write.collection.clone())
                    .or_insert_with(|| head.clone());
            }
            let key = write.key();
            if let Some(document) = self.documents.get(&key) {
                copy.documents.insert(key, document.clone());
            }
        }
        copy
    }

    /// Replaces the heads and documents of some writes by those of the copy they were evaluated on.
    pub(super) fn adopt(&mut self, mut copy: Self, writes: &[Write]) {
        for write in writes {
            let key = write.key();
            match copy.documents.remove(&key) {
                Some(document) => {
                    self.documents.insert(key, document);
                }
                // The document was deleted.
                None => {
                    self.documents.remove(&key);
                }
            }
        }
        self.heads.append(&mut copy.heads);
    }

    /// Applies a change: the next revision of its collection. Head and document are afterwards as
    /// the change leaves them. `new_value` is `None` for a deletion.
    ///
    /// # Errors
    /// [`WriteError::UnknownCollection`] when the working set has no head of the collection.
    pub(super) fn apply(
        &mut self,
        write: &Write,
        operation: Operation,
        new_value: Option<CanonicalJson>,
        now: DateTime<Utc>,
    ) -> Result<Change, WriteError> {
        let Some(head) = self.heads.get_mut(&write.collection) else {
            // The collections that were read are no list of what is served.
            let detail = unknown_collection(write.collection.as_str(), []);
            return Err(WriteError::UnknownCollection(detail));
        };
        let key = write.key();
        head.revision += 1;
        let mut crc = None;
        let replaced = match &new_value {
            Some(value) => {
                let document = Document::new(write.id.clone(), head.revision, value);
                crc = Some(document.crc());
                head.count += 1;
                head.digest = head
                    .digest
                    .with(document.id(), document.revision(), document.crc());
                self.documents.insert(key, document)
            }
            None => self.documents.remove(&key),
        };
        // The digest is a sum over the present documents: the replaced one leaves it.
        if let Some(replaced) = replaced {
            head.count -= 1;
            head.digest = head
                .digest
                .without(replaced.id(), replaced.revision(), replaced.crc());
        }
        let proof = self
            .secret
            .prove(self.epoch, &write.collection, head.revision, crc);
        head.proof = Some(proof);
        Ok(Change {
            collection: write.collection.clone(),
            op: operation,
            id: write.id.clone(),
            revision: head.revision,
            epoch: self.epoch,
            last_set: head.last_set,
            crc,
            config_data: new_value,
            change_set: None,
            time: now,
            count: head.count,
            digest: head.digest,
            proof: Some(proof),
            context: write.context.clone(),
        })
    }
}
