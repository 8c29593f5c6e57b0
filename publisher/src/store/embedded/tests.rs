//! A store whose disk fails.

use std::{
    collections::BTreeSet,
    io,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use chrono::Utc;
use contract::{CanonicalJson, CollectionName};
use redb::{StorageBackend, backends::InMemoryBackend};

use super::*;
use crate::{
    decide::{Action, Command, Condition, Rules, Write, schemas::Schemas},
    store::{Store, replicas::ReplicaRow},
    write::queue::writer,
};

/// Memory that fails while a switch is set.
#[derive(Debug)]
struct Disk {
    memory: InMemoryBackend,
    fails: Arc<AtomicBool>,
}

impl Disk {
    fn check(&self) -> io::Result<()> {
        if self.fails.load(Relaxed) {
            Err(io::Error::other("the disk failed"))
        } else {
            Ok(())
        }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.check().and_then(|()| self.memory.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.check().and_then(|()| self.memory.read(offset, out))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check().and_then(|()| self.memory.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.check().and_then(|()| self.memory.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check().and_then(|()| self.memory.write(offset, data))
    }
}

fn name() -> CollectionName {
    "A".parse().expect("a name")
}

fn group() -> Arc<[Command]> {
    let config = CanonicalJson::parse(b"{}").expect("json");
    let write = Write {
        collection: name(),
        id: "a".parse().expect("an id"),
        action: Action::Create(config),
        condition: Condition::Any,
        context: contract::Context::default(),
        checked: None,
    };
    Arc::from([Command::Single(write)])
}

/// A store with one pending change and one replica, and the switch of its disk.
async fn store() -> (Embedded, Arc<AtomicBool>) {
    let fails = Arc::<AtomicBool>::default();
    let disk = Disk {
        memory: InMemoryBackend::new(),
        fails: fails.clone(),
    };
    // Without a cache, so that every call reads from the disk.
    let database = Database::builder()
        .set_cache_size(0)
        .create_with_backend(disk)
        .expect("a database");
    tables::prepare(&database).expect("prepared");
    let rules = Rules {
        schemas: Schemas::default(),
        document_limit: 1_000,
    };
    let policy = Arc::new(PublisherPolicy {
        collections: BTreeSet::from([name()]),
        rules,
        events_enabled: true,
    });
    let store = Embedded {
        database: Arc::new(database),
        policy,
        damage: Arc::default(),
        failure: Arc::default(),
    };
    store.commit(group()).await.expect("committed");
    store.put_replicas(vec![row()]).await.expect("written");
    (store, fails)
}

fn row() -> ReplicaRow {
    let row = r#"{"instance":"a","bootId":"b","intervalMs":1,"collections":{},"seen":"2026-01-01T00:00:00Z","gone":false}"#;
    serde_json::from_str(row).expect("a row")
}

#[tokio::test]
async fn a_disk_that_fails_in_any_call_breaks_the_store() {
    type Call = fn(Embedded) -> std::pin::Pin<Box<dyn Future<Output = bool>>>;
    let calls: [(&str, Call); 6] = [
        ("commit", |store| {
            Box::pin(async move { store.commit(group()).await.is_err() })
        }),
        ("trim", |store| {
            Box::pin(async move { store.trim(&name(), 0, Utc::now(), 10).await.is_err() })
        }),
        ("mark_published", |store| {
            Box::pin(async move { store.mark_published(&[(name(), 1)]).await.is_err() })
        }),
        ("put_replicas", |store| {
            Box::pin(async move { store.put_replicas(vec![row()]).await.is_err() })
        }),
        ("forget_replicas", |store| {
            Box::pin(async move { store.forget_replicas(Utc::now()).await.is_err() })
        }),
        ("heads", |store| {
            Box::pin(async move { store.heads(&BTreeSet::from([name()])).await.is_err() })
        }),
    ];
    for (name, call) in calls {
        let (store, fails) = store().await;
        assert_eq!(store.broken(), None);
        fails.store(true, Relaxed);
        assert!(call(store.clone()).await, "{name} did not fail");
        // The disk works again, but redb refuses every write until the file is opened again.
        fails.store(false, Relaxed);
        assert!(
            store.broken().is_some(),
            "{name} failed and the store is not broken"
        );
        assert!(Store::Embedded(store).check().await.is_err(), "{name}");
    }
}

/// Without this the process would go on if no write arrived.
#[tokio::test]
async fn the_writer_ends_when_another_task_breaks_the_store() {
    let (store, fails) = store().await;
    let (relay, _changes) = tokio::sync::mpsc::channel(1);
    let (_writer, task) = writer(
        Store::Embedded(store.clone()),
        relay,
        crate::feed_watch::FeedWatch::default(),
    );
    let mut running = tokio::task::JoinSet::new();
    running.spawn(task.run(CancellationToken::new(), CancellationToken::new()));
    fails.store(true, Relaxed);
    assert!(store.mark_published(&[(name(), 1)]).await.is_err());
    let ended = tokio::time::timeout(std::time::Duration::from_secs(10), running.join_next())
        .await
        .expect("it ends");
    let error = ended
        .expect("a task")
        .expect("no panic")
        .expect_err("a failure");
    assert!(
        error.to_string().contains("failed on its disk"),
        "{error:#}"
    );
}
