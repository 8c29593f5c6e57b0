//! The calls of an embedded store.

use std::collections::BTreeSet;

use chrono::Utc;
use contract::{CollectionName, Epoch, Expected};
use service::http::feed::FeedLimits;

use super::*;
use crate::{
    decide::{Action, Rules, Write, schemas::Schemas},
    feed_watch::SharedReads,
    policy::{Broadcast, IdOnly},
};

/// A blank store with the collection `A`.
async fn blank(folder: &tempfile::TempDir) -> Store {
    opened(folder, Broadcast::all()).await
}

/// A store with the collection `A`, whose events are these.
async fn opened(folder: &tempfile::TempDir, broadcast: Broadcast) -> Store {
    let rules = Rules {
        schemas: Schemas::default(),
        document_limit: 1_000,
        secrets: Default::default(),
    };
    let policy = PublisherPolicy {
        collections: ServedCollections::fixed(BTreeSet::from([name()])),
        rules,
        broadcast,
    };
    Store::open(&StoreUrl::Embedded(folder.path().into()), Arc::new(policy))
        .await
        .expect("a store")
}

fn name() -> CollectionName {
    "A".parse().expect("a name")
}

async fn create(store: &Store, id: &str) {
    let write = Write {
        collection: name(),
        id: id.parse().expect("an id"),
        action: Action::Create(contract::CanonicalJson::parse(b"{}").expect("json")),
        expected: Expected::Any,
        context: contract::Context::default(),
        checked: None,
        origin: crate::decide::Origin::default(),
    };
    store
        .commit(Arc::from([Command::Single(write)]))
        .await
        .expect("committed");
}

/// The head of `A`, after its proof was checked.
async fn proven_head(store: &Store) -> Head {
    let StoreIdentity { epoch, secret, .. } = store.identity().await.expect("an identity");
    let head = store.heads(&BTreeSet::from([name()])).await.expect("heads");
    let head = head.into_iter().next().expect("a head");
    let proof = head.proof.expect("a proof");
    assert_eq!(head.epoch, epoch);
    assert!(secret.verifies(epoch, &name(), head.revision, &proof));
    head
}

#[tokio::test]
async fn heads_and_records_have_proofs_also_after_an_epoch_was_declared() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let store = blank(&folder).await;
    assert_eq!(proven_head(&store).await.revision, 0);
    create(&store, "x").await;
    let head = proven_head(&store).await;
    let record = store
        .changes(&name(), 0, 9, usize::MAX)
        .await
        .expect("a log")
        .remove(0);
    assert_eq!(
        (head.revision, head.proof),
        (record.revision, record.proof),
        "head and record prove the same"
    );
    let next = Epoch {
        counter: head.epoch.counter + 1,
        ..head.epoch
    };
    assert!(store.declare_epoch(head.epoch, next).await.expect("asked"));
    let declared = proven_head(&store).await;
    assert_eq!((declared.epoch, declared.revision), (next, head.revision));
    assert_eq!(
        declared.proof.map(|proof| proof.crc),
        head.proof.map(|proof| proof.crc)
    );
}

/// The counter is at its end; the process restarts after the renewal.
#[tokio::test]
async fn a_store_with_another_lineage_names_the_one_before_it() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let store = blank(&folder).await;
    create(&store, "x").await;
    let first = proven_head(&store).await;
    assert!(first.replaces.is_empty());
    let last = Epoch {
        counter: i64::MAX as u64,
        ..first.epoch
    };
    assert!(store.declare_epoch(first.epoch, last).await.expect("asked"));
    let renewed = Epoch {
        lineage: first.epoch.lineage ^ 1,
        counter: 5,
    };
    assert!(store.declare_epoch(last, renewed).await.expect("asked"));
    drop(store);
    let store = blank(&folder).await;
    let head = proven_head(&store).await;
    assert_eq!((head.epoch, head.revision), (renewed, first.revision));
    assert!(head.replaces.includes(last) && !head.replaces.includes(renewed));
    create(&store, "y").await;
    assert!(proven_head(&store).await.replaces.includes(last));
}

/// The setting may come and go: what has no topic is not pending, and stays so (requirement D2).
#[tokio::test]
async fn a_change_of_a_collection_without_a_topic_is_not_pending() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let pending = async |store: &Store| {
        let recent = Utc::now()..Utc::now();
        let page = store.pending(&name(), 0, recent, 10).await.expect("a page");
        let revisions = page.changes.iter().map(|change| change.revision);
        revisions.collect::<Vec<_>>()
    };
    let silent = Broadcast::On {
        without_topic: [name()].into(),
        id_only: IdOnly::All,
    };
    let store = opened(&folder, silent).await;
    create(&store, "x").await;
    assert_eq!(pending(&store).await, [0_u64; 0]);
    drop(store);
    let store = blank(&folder).await;
    create(&store, "y").await;
    assert_eq!(pending(&store).await, [2]);
}

/// The setting may come and go: no publisher publishes these changes, so nothing waits for them.
#[tokio::test]
async fn changes_of_a_collection_without_a_topic_are_no_backlog() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let store = blank(&folder).await;
    create(&store, "x").await;
    assert_eq!(store.backlog().await.expect("a number").pending, 1);
    drop(store);
    let silent = Broadcast::On {
        without_topic: [name()].into(),
        id_only: IdOnly::All,
    };
    let store = opened(&folder, silent).await;
    assert_eq!(
        store.backlog().await.expect("a number"),
        EventBacklog::default()
    );
}

/// The backlog counts what is pending, also what a publisher is publishing now.
#[tokio::test]
async fn the_backlog_is_the_number_of_pending_changes_and_the_age_of_the_oldest() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let store = blank(&folder).await;
    assert_eq!(
        store.backlog().await.expect("a number"),
        EventBacklog::default()
    );
    create(&store, "x").await;
    create(&store, "y").await;
    let backlog = store.backlog().await.expect("a number");
    assert_eq!(backlog.pending, 2);
    assert!(backlog.oldest_ms < 60_000, "{backlog:?}");
    store.mark_published(&[(name(), 1)]).await.expect("marked");
    assert_eq!(store.backlog().await.expect("a number").pending, 1);
}

/// A publisher whose clock is an hour ahead commits a change and stops before it publishes it.
#[tokio::test]
async fn a_change_with_a_commit_time_in_the_future_is_pending() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let store = blank(&folder).await;
    create(&store, "x").await;
    let second = chrono::TimeDelta::seconds(1);
    for (now, found) in [
        (Utc::now(), 0),
        (Utc::now() - second * 3_600, 1),
        (Utc::now() + second * 3_600, 1),
    ] {
        let pending = store
            .pending(&name(), 0, now - second * 60..now + second * 60, 9)
            .await
            .expect("a log");
        assert_eq!(pending.changes.len(), found, "{now}");
    }
}

#[tokio::test]
async fn a_change_of_another_state_is_not_the_one_that_deleted_a_document() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = blank(&folder).await;
    create(&store, "a").await;
    let key = (name(), "a".parse().expect("an id"));
    let stored = store.document(&key.0, &key.1).await.expect("read");
    for (state, revision) in [(stored.as_ref(), Some(1)), (None, None)] {
        let change = crate::rollback::last_change(&store, &key, state).await;
        let found = change.expect("read").map(|change| change.revision);
        assert_eq!(found, revision);
    }
}

#[tokio::test]
async fn streams_that_are_equally_far_share_one_read_of_the_log() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = blank(&folder).await;
    create(&store, "a").await;
    let limits = FeedLimits {
        changes: 10,
        bytes: 1_000,
    };
    let reads = SharedReads::default();
    let revisions = async |reads: &SharedReads, after, limits| {
        let records = reads.records(&store, &name(), after, limits).await;
        let records = records.expect("read").into_iter();
        records.map(|record| record.revision()).collect::<Vec<_>>()
    };
    assert_eq!(revisions(&reads, 0, limits).await, [1]);
    // A read of the log would find this one too.
    create(&store, "b").await;
    assert_eq!(revisions(&reads.clone(), 0, limits).await, [1]);
    // Another position, and other limits, are read for themselves.
    assert_eq!(revisions(&reads, 1, limits).await, [2]);
    // Most streams are as far as the farthest: from then on they share its read, and not that of one
    // that asked first and lags.
    create(&store, "c").await;
    assert_eq!(revisions(&reads, 1, limits).await, [2]);
    assert_eq!(revisions(&reads, 0, limits).await, [1, 2, 3]);
    let other = FeedLimits {
        changes: 2,
        ..limits
    };
    assert_eq!(revisions(&reads, 0, other).await, [1, 2]);
    // The next reading of the heads begins without reads.
    assert_eq!(
        revisions(&SharedReads::default(), 0, limits).await,
        [1, 2, 3]
    );
}
