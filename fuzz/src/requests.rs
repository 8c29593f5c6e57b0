//! Bodies of requests and answers: what a client, a replica, a publisher or a proxy between them sends.

use contract::{
    Change, FeedPage, Heads, Problem, canonical,
    dead_letter::{DeadLetterList, DeadLetterReport, MAX_ORIGINAL, Original, ReplayRequest},
    fleet::{CheckIn, CheckInAnswer, ReplicaList, RestoreEpochRequest},
    history::HistoryPage,
    objects,
    references::ReferenceRules,
    rollback::{RollbackRequest, SetRollbackRequest},
    secrets::{self, SecretPlaces},
    set::{ChangeSetRequest, ChangeSetWritten},
    sidecar::{BulkReply, EventReply, Subscription},
    snapshot::{SnapshotLine, SnapshotProof, SnapshotStart},
    status::ReplicaStatus,
};

use crate::again;

/// `POST /v1/changes`, and its answer.
pub fn change_set(bytes: &[u8]) {
    if let Err(error) = objects::from_slice_located::<ChangeSetRequest>(bytes) {
        // The pointer goes into an answer.
        assert!(
            error.pointer.is_empty() || error.pointer.starts_with('/'),
            "{error:?}"
        );
    }
    drop(objects::from_slice::<ChangeSetWritten>(bytes));
}

/// A check-in, its answer, and the list of replicas.
pub fn check_in(bytes: &[u8]) {
    again::<CheckIn>(bytes);
    again::<CheckInAnswer>(bytes);
    drop(objects::from_slice::<ReplicaList>(bytes));
    drop(objects::from_slice::<RestoreEpochRequest>(bytes));
    drop(objects::from_slice::<ReplicaStatus>(bytes));
}

/// The report of a dead letter, the list of them, and the bytes of an original.
pub fn dead_letter(bytes: &[u8]) {
    drop(objects::from_slice::<DeadLetterReport>(bytes));
    drop(objects::from_slice::<DeadLetterList>(bytes));
    drop(objects::from_slice::<ReplayRequest>(bytes));
    let original = Original::of(bytes)
        .bytes()
        .expect("what was kept can be read");
    assert!(original.len() <= MAX_ORIGINAL && bytes.starts_with(&original));
}

/// Heads, a change, a page of the feed, and what a sidecar answers.
pub fn feed(bytes: &[u8]) {
    again::<Change>(bytes);
    again::<FeedPage>(bytes);
    drop(objects::from_slice::<Heads>(bytes));
    drop(objects::from_slice::<Vec<Subscription>>(bytes));
    drop(objects::from_slice::<EventReply>(bytes));
    drop(objects::from_slice::<BulkReply>(bytes));
}

/// A page of history.
pub fn history(bytes: &[u8]) {
    again::<HistoryPage>(bytes);
}

/// The requests of rollbacks.
pub fn rollback(bytes: &[u8]) {
    drop(objects::from_slice::<RollbackRequest>(bytes));
    drop(objects::from_slice::<SetRollbackRequest>(bytes));
}

/// An error answer.
pub fn problem(bytes: &[u8]) {
    drop(again::<Problem>(bytes));
}

/// A schema: the places of references and secrets in it, and in a value, which is the second line.
pub fn schema(bytes: &[u8]) {
    let mut lines = bytes.splitn(2, |byte| *byte == b'\n');
    let mut next = || canonical::value(lines.next()?).ok();
    let Some(schema) = next() else { return };
    let value = next().unwrap_or_else(|| schema.clone());
    if let Ok(Some(rules)) = ReferenceRules::of_schema(&schema) {
        drop(rules.references(&value, || None));
    }
    if let Ok(Some(places)) = SecretPlaces::sealed(&schema) {
        for pointer in places.of_value(&value) {
            assert!(value.pointer(&pointer).is_some(), "{pointer}");
        }
    }
    drop(secrets::sealed_values(&value));
    drop(secrets::secret_refs(&value));
}

/// A snapshot, line by line: only a complete one is proven, and no line is a reason to end the process.
pub fn snapshot(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let Some(Ok(start)) = lines.next().map(objects::from_slice::<SnapshotStart>) else {
        return;
    };
    let mut proof = SnapshotProof::begin(start);
    for line in lines {
        match SnapshotLine::parse(line) {
            Ok(SnapshotLine::Item(item)) => {
                if proof.item(&item).is_err() {
                    return;
                }
            }
            Ok(SnapshotLine::End(end)) => {
                drop(proof.finish(&end));
                return;
            }
            Err(_not_a_line) => return,
        }
    }
}
