//! A transaction as a change set: all documents or none.
//!
//! A sidecar says only "set" and "delete"; a change set says "create", "replace" and "delete", and a
//! publisher refuses what does not fit. So the replica says which documents exist, and where it was
//! behind, the refusal names the operation, which is changed and tried again.

use std::collections::HashMap;

use contract::{
    CollectionName, Expected, ProblemKind, Revision,
    set::{ChangeRequest, ChangeSetRequest, MAX_OPERATIONS, RequestOperation},
};
use replica::Replica;
use tonic::Status;

use crate::{
    proto::{TransactKind, TransactRequest},
    publisher::Publisher,
    status::{invalid, of_client},
};

use super::{
    Key,
    conditions::{expected, refused, value},
};

/// A transaction that was checked.
#[derive(Debug)]
pub(super) struct Transaction(Vec<ChangeRequest>);

impl Transaction {
    /// Reads the operations.
    ///
    /// # Errors
    /// Which operation is wrong, and the remedy.
    pub(super) fn read(
        request: TransactRequest,
        key: impl Fn(&str, &HashMap<String, String>) -> Result<Key, Status>,
    ) -> Result<Self, Status> {
        if request.operations.len() > MAX_OPERATIONS {
            let text = format!("a transaction has at most {MAX_OPERATIONS} operations");
            return Err(invalid("operations", text));
        }
        let mut changes = Vec::with_capacity(request.operations.len());
        for operation in request.operations {
            let with = |own: &HashMap<String, String>| {
                let mut metadata = request.metadata.clone();
                metadata.extend(own.clone());
                metadata
            };
            let (key, op, config_data, expected) = match operation.request {
                Some(TransactKind::Set(set)) => {
                    let key = key(&set.key, &with(&set.metadata))?;
                    let expected = expected(set.etag.as_ref(), set.options)?;
                    (key, RequestOperation::Replace, Some(value(&set)?), expected)
                }
                Some(TransactKind::Delete(delete)) => {
                    let key = key(&delete.key, &with(&delete.metadata))?;
                    let expected = match &delete.etag {
                        Some(etag) => expected(Some(etag), delete.options)?,
                        None => Expected::Any,
                    };
                    (key, RequestOperation::Delete, None, expected)
                }
                None => {
                    return Err(invalid(
                        "operations",
                        "an operation is neither set nor delete",
                    ));
                }
            };
            changes.push(ChangeRequest {
                collection: key.collection,
                op,
                id: key.id,
                config_data,
                expected,
            });
        }
        Ok(Self(changes))
    }

    /// Writes it. The result is the last revision of each collection.
    ///
    /// # Errors
    /// When a condition does not hold, or a publisher refuses it.
    pub(super) async fn write(
        self,
        publisher: &Publisher,
        replica: &Replica,
    ) -> Result<Vec<(CollectionName, Revision)>, Status> {
        let mut changes = self.0;
        let view = replica.view();
        // A guess that saves a refusal: the replica may be late, so the publisher decides what is absent.
        for change in &mut changes {
            if view.root().get(&change.collection, &change.id).is_none() {
                made_for_absent(change);
            }
        }
        // Each refusal of this kind changes one operation, and another writer may come in between.
        for _attempt in 0..=changes.len() + 2 {
            if changes.is_empty() {
                return Ok(Vec::new());
            }
            let set = ChangeSetRequest { changes };
            let error = match publisher.change_set(&set).await {
                Ok(written) => {
                    let mut revisions = HashMap::new();
                    for item in written.items {
                        let newest = revisions.entry(item.collection).or_insert(item.revision);
                        *newest = item.revision.max(*newest);
                    }
                    return Ok(revisions.into_iter().collect());
                }
                Err(error) => error,
            };
            changes = set.changes;
            let index = error.problem().and_then(|problem| problem.index);
            let Some(at) = index else {
                return Err(of_client(&error));
            };
            let Some(change) = changes.get_mut(at) else {
                return Err(of_client(&error));
            };
            match error.kind() {
                Some(ProblemKind::NoData) if change.expected.is_any() => {
                    if !made_for_absent(change) {
                        changes.remove(at);
                    }
                }
                Some(ProblemKind::Exists) if change.op == RequestOperation::Create => {
                    change.op = RequestOperation::Replace;
                }
                _ => return Err(refused(&error, &change.expected)),
            }
        }
        Err(Status::aborted(
            "other writers changed the same documents at the same time: try again",
        ))
    }
}

/// Makes a change one of a document that does not exist. Returns whether it stays: a deletion of nothing
/// is done.
fn made_for_absent(change: &mut ChangeRequest) -> bool {
    match (change.op, &change.expected) {
        (RequestOperation::Replace, Expected::Any) => {
            change.op = RequestOperation::Create;
            true
        }
        (RequestOperation::Delete, Expected::Any) => false,
        // The condition decides.
        _ => true,
    }
}
