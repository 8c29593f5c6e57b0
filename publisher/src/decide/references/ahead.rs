//! The part of the rule that needs no transaction.
//!
//! To find what refers to a document takes time in proportion to the collections. So it is searched
//! in the request, and a deletion of what is in use is refused there. The transaction only looks at
//! what changed since.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use contract::{CollectionName, Epoch, Revision, references::Reference};

use super::{Dangling, ReferrersByDocument, WriteError, is_referred_to};
use crate::decide::{Action, Command, DocumentKey, Write, schemas::SchemaMap};

/// A search that found nothing which refers to a document, besides documents that the command writes
/// itself.
#[derive(Debug, Clone)]
pub struct Searched {
    /// The schemas by which was searched.
    pub schemas: Arc<SchemaMap>,
    /// The epoch of the revisions.
    pub epoch: Epoch,
    /// Where the collections stood that were searched.
    pub revisions: BTreeMap<CollectionName, Revision>,
}

/// The documents that a command deletes and to which others may refer.
pub(crate) fn deleted_in_use(schemas: &SchemaMap, command: &Command) -> BTreeSet<DocumentKey> {
    let writes = command.writes().iter();
    let deletes = writes.filter(|write| matches!(write.action, Action::Delete));
    deletes
        .filter(|write| is_referred_to(schemas, &write.collection))
        .map(Write::key)
        .collect()
}

/// The refusal of a command that deletes documents to which others refer, and does not write these
/// others. `None` when all may be deleted.
pub(crate) fn refused(command: &Command, found: &ReferrersByDocument) -> Option<WriteError> {
    let in_set = matches!(command, Command::ChangeSet(_));
    let own: HashSet<_> = command.writes().iter().map(Write::key).collect();
    let mut dangling = Dangling::default();
    for (index, write) in command.writes().iter().enumerate() {
        let key = write.key();
        for referrer in found.get(&key).into_iter().flatten() {
            let by = (referrer.collection.clone(), referrer.id.clone());
            if !own.contains(&by) {
                let reference = Reference {
                    pointer: referrer.pointer.clone(),
                    collection: key.0.clone(),
                    id: key.1.to_string(),
                };
                dangling.add(&by, reference, in_set.then_some(index), false);
            }
        }
    }
    dangling.into_result().err()
}
