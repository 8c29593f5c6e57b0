//! Rotations on both stores, step by step: what is written, and what is left.

use std::{fs, path::PathBuf};

use contract::{CanonicalJson, CollectionName};
use e2e::testbed::mongod::Mongod;
use secrets::KeyProvider;
use serde_json::json;
use tempfile::TempDir;
use tokio::{sync::mpsc, task::JoinSet};

use super::*;
use crate::{
    decide::{
        Rules, Sealing,
        schemas::{Schema, Schemas},
    },
    feed_watch::FeedWatch,
    policy::Broadcast,
    store::{PublisherPolicy, ServedCollections, StoreUrl},
    write::queue::writer,
};

type Outcome = anyhow::Result<()>;

/// Ids of keys, each with the letter that the key is made of. The first is active.
type Keys<'a> = &'a [(&'a str, char)];

const OLD: Keys<'_> = &[("old", 'a'), ("new", 'b')];
const NEW: Keys<'_> = &[("new", 'b'), ("old", 'a')];

fn name() -> CollectionName {
    "A".parse().expect("a name")
}

fn keyring(keys: Keys<'_>) -> String {
    let all: serde_json::Map<_, _> = keys
        .iter()
        .map(|(id, letter)| {
            let key = String::from(*letter).repeat(42) + "A=";
            ((*id).to_owned(), key.into())
        })
        .collect();
    json!({"active": keys[0].0, "keys": all}).to_string()
}

/// A publisher of a store, with its own file of keys. Of its tasks only that of the writer runs.
struct Publisher {
    rotation: SecretRotation,
    keys: Arc<SecretKeys>,
    work: Work,
    folder: TempDir,
    _writer: JoinSet<anyhow::Result<()>>,
}

impl Publisher {
    async fn new(url: &StoreUrl, keys: Keys<'_>) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("keys");
        fs::write(&file, keyring(keys))?;
        let keys = Arc::new(SecretKeys::read(KeyProvider::File(file))?);
        let schema = json!({"properties": {"password": {"x-secret": true}}});
        let schema = Schema::new(&name(), schema.to_string().into(), None)?;
        let policy = PublisherPolicy {
            collections: ServedCollections::fixed(BTreeSet::from([name()])),
            rules: Rules {
                schemas: Schemas::new([(name(), Arc::new(schema))].into()),
                document_limit: 10_000,
                secrets: Sealing::with_keys(keys.clone()),
            },
            broadcast: Broadcast::Off,
        };
        let store = Store::open(url, Arc::new(policy)).await?;
        let (relay, _changes) = mpsc::channel(1);
        let (writer, task) = writer(store.clone(), relay, FeedWatch::default(), 10);
        let mut running = JoinSet::new();
        running.spawn(task.run(CancellationToken::new(), CancellationToken::new()));
        Ok(Self {
            rotation: SecretRotation::new(store, writer, Arc::default(), Audit::default()),
            keys,
            work: Work::new(),
            folder,
            _writer: running,
        })
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("keys")
    }

    /// Replaces the file of keys, as an operator does.
    async fn use_keys(&mut self, keys: Keys<'_>) -> Outcome {
        fs::write(self.file(), keyring(keys))?;
        if reload(&self.keys).await {
            self.work = Work::new();
        }
        Ok(())
    }

    async fn create(&self, id: &str) -> Outcome {
        let value = CanonicalJson::of(&json!({"password": "hunter2"})).expect("canonical");
        let key = (name(), id.parse()?);
        let write = Write::new(
            key,
            Action::Create(value),
            Expected::Any,
            Context::default(),
        );
        self.rotation.writer.write(write).await?;
        Ok(())
    }

    async fn step(&mut self) -> anyhow::Result<bool> {
        let keys = self.keys.keyring();
        self.rotation.step(&keys, &mut self.work).await
    }

    /// Does everything that is due now. The number of changes.
    async fn rotate(&mut self) -> anyhow::Result<u64> {
        let before = self.revision().await?;
        while self.step().await? {}
        Ok(self.revision().await? - before)
    }

    async fn revision(&self) -> anyhow::Result<u64> {
        let heads = self.rotation.store.heads(&BTreeSet::from([name()])).await?;
        Ok(heads.iter().map(|head| head.revision).sum())
    }

    /// The ids of the keys that the secrets of some documents are wrapped by.
    async fn keys_of(&self, ids: &[&str]) -> anyhow::Result<Vec<String>> {
        let mut found = Vec::new();
        for id in ids {
            let document = self.rotation.store.document(&name(), &id.parse()?).await?;
            let value = canonical::value(document.expect("it was created").config_data());
            let value = value.expect("JSON");
            let text = value["password"]["$secret"].as_str().expect("sealed");
            found.push(text.split('.').nth(1).expect("a key").to_owned());
        }
        Ok(found)
    }

    /// Documents that the metric counts.
    fn left(&self) -> i64 {
        self.rotation.metrics.secrets_to_rewrap.get()
    }
}

fn mongo(server: &Mongod, database: &str) -> anyhow::Result<StoreUrl> {
    Ok(StoreUrl::Mongo {
        url: server.url(database).parse()?,
        database: database.to_owned(),
    })
}

async fn on_both_stores(test: impl AsyncFn(&StoreUrl) -> Outcome) -> Outcome {
    let folder = tempfile::tempdir()?;
    test(&StoreUrl::Embedded(folder.path().into())).await?;
    let server = Mongod::start().await?;
    test(&mongo(&server, "rotation")?).await
}

#[tokio::test]
async fn documents_that_do_not_open_stop_none_of_those_after_them() -> Outcome {
    on_both_stores(async |url| {
        let mut publisher = Publisher::new(url, &[("gone", 'c')]).await?;
        publisher.create("1").await?;
        // Another key of the same id was in use before.
        publisher.use_keys(&[("old", 'd')]).await?;
        publisher.create("2").await?;
        publisher.create("3").await?;
        publisher.use_keys(&[("old", 'a')]).await?;
        publisher.create("4").await?;
        publisher.create("5").await?;
        publisher.use_keys(NEW).await?;
        assert_eq!(publisher.rotate().await?, 2);
        let keys = publisher.keys_of(&["1", "2", "3", "4", "5"]).await?;
        assert_eq!(keys, ["gone", "old", "old", "new", "new"]);
        assert_eq!(publisher.left(), 3, "they are counted");
        assert!(
            publisher.work.search_at > Instant::now(),
            "the pass is complete"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_search_goes_on_after_the_last_document_and_counts_all() -> Outcome {
    let folder = tempfile::tempdir()?;
    let url = StoreUrl::Embedded(folder.path().into());
    let mut publisher = Publisher::new(&url, OLD).await?;
    for id in ["a", "b", "c"] {
        publisher.create(id).await?;
    }
    publisher.use_keys(NEW).await?;
    let keys = publisher.keys.keyring();
    let store = &publisher.rotation.store;
    let first = Found::search(store, &keys, None, 2).await?;
    assert_eq!(
        (first.number, first.keys.len(), first.has_more),
        (3, 2, true)
    );
    let rest = Found::search(store, &keys, first.keys.last(), 2).await?;
    assert_eq!((rest.number, rest.has_more), (3, false));
    assert_eq!(rest.keys, [(name(), "c".parse()?)]);
    Ok(())
}

#[tokio::test]
async fn publishers_with_different_active_keys_wrap_nothing_until_they_agree() -> Outcome {
    let server = Mongod::start().await?;
    let url = mongo(&server, "rotation")?;
    let mut one = Publisher::new(&url, OLD).await?;
    for id in ["a", "b", "c"] {
        one.create(id).await?;
    }
    assert_eq!(one.rotate().await?, 0);
    let mut other = Publisher::new(&url, NEW).await?;
    for _hour in 0..3 {
        for publisher in [&mut one, &mut other] {
            publisher.work.exchange_at = Instant::now();
            publisher.work.search_at = Instant::now();
            assert_eq!(publisher.rotate().await?, 0);
        }
    }
    assert_eq!((one.left(), other.left()), (0, 3), "each one counts");

    one.use_keys(NEW).await?;
    assert_eq!(one.rotate().await?, 3);
    other.work.exchange_at = Instant::now();
    assert_eq!(other.rotate().await?, 0, "nothing is left");
    assert_eq!((one.left(), other.left()), (0, 0));
    assert_eq!(one.keys_of(&["a", "b", "c"]).await?, ["new"; 3]);

    // The way back is the same.
    other.use_keys(OLD).await?;
    assert_eq!(other.rotate().await?, 0);
    one.use_keys(OLD).await?;
    assert_eq!(one.rotate().await?, 3);
    Ok(())
}

#[tokio::test]
async fn what_another_publisher_wrapped_meanwhile_is_no_failure() -> Outcome {
    let server = Mongod::start().await?;
    let url = mongo(&server, "rotation")?;
    let mut slow = Publisher::new(&url, OLD).await?;
    for id in ["a", "b"] {
        slow.create(id).await?;
    }
    let mut fast = Publisher::new(&url, NEW).await?;
    slow.use_keys(NEW).await?;
    let keys = slow.keys.keyring();
    slow.rotation.exchange(&keys, &mut slow.work).await?;
    slow.rotation.search(&keys, &mut slow.work).await?;
    assert_eq!((slow.left(), slow.work.todo.len()), (2, 2));
    assert_eq!(fast.rotate().await?, 2);
    for key in slow.work.todo.clone() {
        let rewrapped = slow.rotation.rewrap(&key, &keys).await?;
        assert_eq!(rewrapped, Rewrapped::Elsewhere);
    }
    assert_eq!(slow.rotate().await?, 0);
    assert_eq!(slow.left(), 0);
    Ok(())
}
