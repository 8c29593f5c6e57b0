//! What changes between the search for referrers and the transaction of a deletion, on both stores.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    thread::ThreadId,
};

use chrono::{TimeDelta, Utc};
use contract::{CanonicalJson, CollectionName, Context, Expected, access::Identity};
use e2e::testbed::mongod::Mongod;
use futures_util::FutureExt as _;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{CHANGE_BYTES, CHANGES};
use crate::{
    decide::{
        Action, Checked, Command, DocumentKey, Rules, Write, WriteError,
        references::Searched,
        schemas::{Schema, SchemaMap, Schemas},
    },
    policy::Broadcast,
    store::{PublisherPolicy, ServedCollections, Store, StoreUrl},
};

fn key(text: &str) -> DocumentKey {
    let (of, id) = text.split_once('/').expect("a key");
    (of.parse().expect("a name"), id.parse().expect("an id"))
}

fn channel() -> CollectionName {
    "Channel".parse().expect("a name")
}

/// `Channel` refers to `Skill`.
fn schemas() -> SchemaMap {
    let schema = json!({"properties": {"skill": {"x-ref": "Skill"}}});
    let schema = Schema::new(&channel(), schema.to_string().into(), None).expect("a schema");
    SchemaMap::from([(channel(), Arc::new(schema))])
}

async fn open(url: StoreUrl) -> Store {
    let policy = PublisherPolicy {
        collections: ServedCollections::fixed(["Channel", "Skill"].map(named).into()),
        rules: Rules {
            schemas: Schemas::new(schemas()),
            document_limit: 2 << 20,
            secrets: Default::default(),
        },
        broadcast: Broadcast::Off,
    };
    Store::open(&url, Arc::new(policy)).await.expect("a store")
}

fn named(name: &str) -> CollectionName {
    name.parse().expect("a name")
}

/// Runs a test on a blank store of each kind.
async fn on_both_stores(test: impl AsyncFn(&Store)) {
    let folder = tempfile::tempdir().expect("a folder");
    test(&open(StoreUrl::Embedded(folder.path().into())).await).await;
    let server = Mongod::start().await.expect("mongod");
    let url = server.url("referrers").parse().expect("an address");
    let database = "referrers".to_owned();
    test(&open(StoreUrl::Mongo { url, database }).await).await;
}

fn put(text: &str, value: &Value) -> Command {
    let action = Action::Put(CanonicalJson::of(value).expect("canonical"));
    let mut write = Write::new(key(text), action, Expected::Any, Context::default());
    write.checked = Some(Checked::InTransaction);
    Command::Single(write)
}

/// Makes sure that a document exists.
async fn create(store: &Store, text: &str) {
    let action = Action::Create(CanonicalJson::of(&json!({})).expect("canonical"));
    let write = Write::new(key(text), action, Expected::Any, Context::default());
    let group = Arc::from([Command::Single(write)]);
    store.commit(group).await.expect("an answer");
}

async fn commit(store: &Store, commands: Vec<Command>) {
    let mut left = &*commands;
    while !left.is_empty() {
        let committed = store.commit(Arc::from(left)).await.expect("committed");
        for result in &committed.results {
            assert!(result.is_ok(), "{result:?}");
        }
        left = &left[committed.results.len()..];
    }
}

/// A search for what refers to a skill, which is made anew.
async fn searched(store: &Store, skill: &str) -> Arc<Searched> {
    create(store, skill).await;
    let sought = BTreeSet::from([key(skill)]);
    let (searched, found) = store.search_ahead(sought, 9, ()).await.expect("searched");
    assert_eq!(found, BTreeMap::new());
    Arc::new(searched)
}

/// The answer to the deletion of a skill, after a search.
async fn delete(store: &Store, skill: &str, searched: Option<&Arc<Searched>>) -> String {
    let mut write = Write::new(
        key(skill),
        Action::Delete,
        Expected::Any,
        Context::default(),
    );
    write.checked = searched.cloned().map(Checked::Unreferenced);
    let group = Arc::from([Command::Single(write)]);
    let mut committed = store.commit(group).await.expect("an answer");
    match committed.results.remove(0) {
        Ok(_written) => "deleted".to_owned(),
        Err(WriteError::DanglingReference { references, .. }) => {
            let named = references.iter().map(|each| each.referrer.id.as_str());
            format!("in use by {}", named.collect::<Vec<_>>().join(" "))
        }
        Err(WriteError::Outdated) => "search again".to_owned(),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_referrer_that_is_committed_after_the_search_keeps_its_document() {
    on_both_stores(async |store| {
        create(store, "Channel/c").await;
        for n in 0..20 {
            create(store, &format!("Channel/other{n}")).await;
        }
        let before = searched(store, "Skill/s").await;
        let mut others: Vec<_> = (0..20)
            .map(|n| put(&format!("Channel/other{n}"), &json!({"note": "s"})))
            .collect();
        others.insert(7, put("Channel/c", &json!({"skill": "s"})));
        commit(store, others).await;
        let answer = delete(store, "Skill/s", Some(&before)).await;
        assert_eq!(answer, "in use by c");
        // What counts is the state now, and not each change.
        commit(store, vec![put("Channel/c", &json!({}))]).await;
        assert_eq!(delete(store, "Skill/s", Some(&before)).await, "deleted");
    })
    .await;
}

#[tokio::test]
async fn a_transaction_that_would_have_to_search_does_not_delete() {
    on_both_stores(async |store| {
        for n in 0..9 {
            create(store, &format!("Channel/c{n}")).await;
        }
        let before = searched(store, "Skill/s").await;
        assert_eq!(delete(store, "Skill/s", None).await, "search again");

        let changes = usize::try_from(CHANGES).expect("small");
        let puts = |from: usize, count: usize| {
            let numbers = from..from + count;
            let puts = numbers.map(|n| put(&format!("Channel/c{}", n % 9), &json!({"n": n})));
            puts.collect::<Vec<_>>()
        };
        commit(store, puts(0, changes)).await;
        assert_eq!(delete(store, "Skill/s", Some(&before)).await, "deleted");
        let before = searched(store, "Skill/s").await;
        commit(store, puts(changes, changes + 1)).await;
        assert_eq!(
            delete(store, "Skill/s", Some(&before)).await,
            "search again"
        );

        let before = searched(store, "Skill/s").await;
        let text = "x".repeat(CHANGE_BYTES / 8);
        for n in 0..8 {
            let value = json!({"n": n, "text": text});
            commit(store, vec![put(&format!("Channel/c{n}"), &value)]).await;
        }
        assert_eq!(
            delete(store, "Skill/s", Some(&before)).await,
            "search again"
        );

        // The log no longer says what changed since.
        let before = searched(store, "Skill/s").await;
        commit(store, puts(9_000, 2)).await;
        let late = Utc::now() + TimeDelta::hours(1);
        while (store.trim(&channel(), 1, late, 1_000).await)
            .expect("trimmed")
            .more
        {}
        assert_eq!(
            delete(store, "Skill/s", Some(&before)).await,
            "search again"
        );

        let before = searched(store, "Skill/s").await;
        store.policy().rules.schemas.replace(schemas());
        assert_eq!(
            delete(store, "Skill/s", Some(&before)).await,
            "search again"
        );
        let before = searched(store, "Skill/s").await;
        assert_eq!(delete(store, "Skill/s", Some(&before)).await, "deleted");
    })
    .await;
}

/// Says on which thread it was dropped.
struct Held(Option<oneshot::Sender<ThreadId>>);

impl Drop for Held {
    fn drop(&mut self) {
        let dropped = self.0.take().expect("dropped once");
        _ = dropped.send(std::thread::current().id());
    }
}

/// A client that closes its connection ends its request at once, and not the search.
#[tokio::test]
async fn a_permit_to_search_is_held_until_the_search_ends() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(StoreUrl::Embedded(folder.path().into())).await;
    for list in [false, true] {
        let (sender, dropped) = oneshot::channel();
        let held = Held(Some(sender));
        // It is dropped while the search runs on another thread, or just after.
        if list {
            drop(
                store
                    .referrers(key("Skill/s"), 9, Identity::unrestricted(), held)
                    .now_or_never(),
            );
        } else {
            let sought = BTreeSet::from([key("Skill/s")]);
            drop(store.search_ahead(sought, 9, held).now_or_never());
        }
        let thread = dropped.await.expect("dropped");
        assert_ne!(thread, std::thread::current().id());
    }
}
