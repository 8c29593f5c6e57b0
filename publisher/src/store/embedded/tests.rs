//! A disk that fails under a store.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use contract::CanonicalJson;
use redb::{StorageBackend, backends::InMemoryBackend};

use super::*;
use crate::{
    decide::{Action, Condition, Rules, Write, schemas::Schemas},
    store::{Store, fleet::Row},
    write::queue::writer,
};

/// Memory that fails when it is told to.
#[derive(Debug)]
struct Disk {
    memory: InMemoryBackend,
    fails: Arc<AtomicBool>,
}

impl Disk {
    fn works(&self) -> io::Result<()> {
        if self.fails.load(Relaxed) {
            Err(io::Error::other("the disk failed"))
        } else {
            Ok(())
        }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.works().and_then(|()| self.memory.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.works().and_then(|()| self.memory.read(offset, out))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.works().and_then(|()| self.memory.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.works().and_then(|()| self.memory.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.works().and_then(|()| self.memory.write(offset, data))
    }
}

fn name() -> CollectionName {
    "A".parse().expect("a name")
}

fn group() -> Arc<[Entry]> {
    let config = CanonicalJson::parse(b"{}").expect("json");
    let (id, action, condition) = (
        "a".parse().expect("an id"),
        Action::Create(config),
        Condition::Any,
    );
    let write = Write {
        collection: name(),
        id,
        action,
        condition,
        context: contract::Context::default(),
    };
    Arc::from([Entry::One(write)])
}

/// A store with one owed change and one replica, on a disk that works until the switch is set.
async fn store() -> (Embedded, Arc<AtomicBool>) {
    let fails = Arc::<AtomicBool>::default();
    let disk = Disk {
        memory: InMemoryBackend::new(),
        fails: fails.clone(),
    };
    // Without a cache: the disk is asked each time.
    let database = Database::builder()
        .set_cache_size(0)
        .create_with_backend(disk)
        .expect("a database");
    prepare(&database).expect("prepared");
    let rules = Rules {
        schemas: Schemas::default(),
        document_limit: 1_000,
    };
    let terms = Arc::new(PublisherPolicy {
        collections: BTreeSet::from([name()]),
        rules,
        events_enabled: true,
    });
    let store = Embedded {
        database: Arc::new(database),
        terms,
        broken: Arc::default(),
    };
    store.commit(group()).await.expect("committed");
    store.put_members(vec![row()]).await.expect("written");
    (store, fails)
}

fn row() -> Row {
    let row = r#"{"instance":"a","bootId":"b","intervalMs":1,"collections":{},"seen":"2026-01-01T00:00:00Z","gone":false}"#;
    serde_json::from_str(row).expect("a row")
}

#[tokio::test]
async fn a_disk_that_fails_breaks_the_store_whoever_finds_out() {
    type Call = fn(Embedded) -> std::pin::Pin<Box<dyn Future<Output = bool>>>;
    let calls: [(&str, Call); 6] = [
        ("commit", |store| {
            Box::pin(async move { store.commit(group()).await.is_err() })
        }),
        ("trim", |store| {
            Box::pin(async move { store.trim(&name(), 0, Utc::now(), 10).await.is_err() })
        }),
        ("clear_owed", |store| {
            Box::pin(async move { store.clear_owed(&[(name(), 1)]).await.is_err() })
        }),
        ("put_members", |store| {
            Box::pin(async move { store.put_members(vec![row()]).await.is_err() })
        }),
        ("forget_members", |store| {
            Box::pin(async move { store.forget_members(Utc::now()).await.is_err() })
        }),
        ("heads", |store| {
            Box::pin(async move { store.heads(&BTreeSet::from([name()])).await.is_err() })
        }),
    ];
    for (what, call) in calls {
        let (store, fails) = store().await;
        assert_eq!(store.broken(), None);
        fails.store(true, Relaxed);
        assert!(call(store.clone()).await, "{what} did not fail");
        // redb refuses every write from now on, though the disk is well again.
        fails.store(false, Relaxed);
        assert!(
            store.broken().is_some(),
            "{what} failed, and nobody was told"
        );
        assert!(Store::Embedded(store).ping().await.is_err(), "{what}");
    }
}

/// No write comes, and the process ends all the same.
#[tokio::test]
async fn the_writer_ends_when_another_task_breaks_the_store() {
    let (store, fails) = store().await;
    let (relay, _changes) = tokio::sync::mpsc::channel(1);
    let (_writer, task) = writer(
        Store::Embedded(store.clone()),
        relay,
        crate::api::feed_watch::FeedWatch::default(),
    );
    let mut running = tokio::task::JoinSet::new();
    running.spawn(task.run(CancellationToken::new()));
    fails.store(true, Relaxed);
    assert!(store.clear_owed(&[(name(), 1)]).await.is_err());
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
