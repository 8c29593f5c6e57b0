//! The decisions of a group as commands of MongoDB.
//!
//! They are built before the first of them is sent. Nothing is sent here.

use std::collections::{BTreeMap, BTreeSet};

use contract::{CollectionName, DocumentId};
use mongodb::bson::{Document as Bdoc, doc};

use super::StoredHeads;
use crate::{decide::Decisions, policy::Broadcast, store::mongo::rows};

/// Bytes of documents in one command, approximately: well below the 16 MiB, with keys, that a
/// command may have.
const COMMAND_BYTES: usize = 8 << 20;

/// What a transaction writes.
pub(super) struct WriteCommands {
    /// Filter and update of each head. The filter finds nothing if the head has changed.
    pub(super) heads: Vec<(Bdoc, Bdoc)>,
    /// `update` and `delete` commands.
    pub(super) documents: Vec<Bdoc>,
    /// Records of the change log.
    pub(super) changes: Vec<Bdoc>,
}

impl WriteCommands {
    /// The commands for the decisions of a group. `stored` are the heads before it, as they are stored;
    /// `broadcast` says which changes are pending.
    ///
    /// # Errors
    /// When a number does not fit into BSON, or a document is not an object.
    pub(super) fn new(
        decisions: &Decisions,
        stored: &StoredHeads,
        write_id: &str,
        broadcast: &Broadcast,
    ) -> anyhow::Result<Self> {
        let mut changed = BTreeMap::<&CollectionName, BTreeSet<&DocumentId>>::new();
        let mut commands = Self {
            heads: Vec::new(),
            documents: Vec::new(),
            changes: Vec::with_capacity(decisions.changes.len()),
        };
        for change in &decisions.changes {
            changed
                .entry(&change.collection)
                .or_default()
                .insert(&change.id);
            let pending = broadcast.publishes(&change.collection);
            commands
                .changes
                .push(rows::change_row(change, write_id, pending)?);
        }
        for (collection, ids) in changed {
            let head = &decisions.after.heads[collection];
            let before = &stored[collection];
            let filter = doc! { "_id": collection.as_str(), "revision": before.revision.clone() };
            let row = if before.damaged {
                rows::whole_head_row(head)?
            } else {
                rows::head_row(head)?
            };
            commands.heads.push((filter, doc! { "$set": row }));
            commands.write_documents(decisions, collection, ids)?;
        }
        Ok(commands)
    }

    /// Writes each document once, as it is after the whole group, however often it changed.
    fn write_documents(
        &mut self,
        decisions: &Decisions,
        collection: &CollectionName,
        ids: BTreeSet<&DocumentId>,
    ) -> anyhow::Result<()> {
        let mut updates = Vec::new();
        let mut bytes = 0;
        let mut deletes = Vec::new();
        for id in ids {
            let this = doc! { "_id": id.as_str() };
            let key = (collection.clone(), id.clone());
            // Not in the working set after the group: it was deleted. A delete of a document that
            // the group also created finds nothing, which is no error.
            let Some(document) = decisions.after.documents.get(&key) else {
                deletes.push(doc! { "q": this, "limit": 1 });
                continue;
            };
            let row = rows::document_row(collection, document)?;
            bytes += row.to_vec()?.len();
            if bytes > COMMAND_BYTES && !updates.is_empty() {
                let full = std::mem::take(&mut updates);
                self.documents
                    .push(doc! { "update": collection.as_str(), "updates": full });
                bytes = 0;
            }
            // An upsert, so that a new document, and one that was deleted and created again in one
            // group, need no case of their own.
            updates.push(doc! { "q": this, "u": row, "upsert": true });
        }
        if !updates.is_empty() {
            self.documents
                .push(doc! { "update": collection.as_str(), "updates": updates });
        }
        if !deletes.is_empty() {
            self.documents
                .push(doc! { "delete": collection.as_str(), "deletes": deletes });
        }
        Ok(())
    }
}
