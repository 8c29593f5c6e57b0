//! The fleet on an embedded store: the testbed. The tests are in one module per subject.

use std::collections::BTreeSet;

use auth::{Authenticator, Presented};
use contract::{CanonicalJson, CollectionName, Digest, Epoch, Expected, Head, Revision};
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    decide::{Action, Rules, Write, schemas::Schemas},
    store::{PublisherPolicy, ServedCollections, StoreUrl},
};

mod check_ins;
mod list;
mod repair;
mod restore;

const FREE: &str = "FreeForm";
const OTHER: &str = "Other";

fn name(text: &str) -> CollectionName {
    text.parse().expect("a name")
}

/// A store in a folder, a fleet on it, and its tasks for as long as the test lasts.
struct Testbed {
    folder: TempDir,
    store: Store,
    fleet: Fleet,
    metrics: Arc<Metrics>,
    tasks: JoinSet<anyhow::Result<()>>,
    stop: CancellationToken,
}

impl Testbed {
    async fn new() -> Self {
        Self::on(TempDir::new().expect("a folder")).await
    }

    async fn on(folder: TempDir) -> Self {
        let collections = BTreeSet::from([name(FREE), name(OTHER)]);
        let rules = Rules {
            schemas: Schemas::default(),
            document_limit: 1_000_000,
            secrets: Default::default(),
        };
        let policy = Arc::new(PublisherPolicy {
            collections: ServedCollections::fixed(collections),
            rules,
            broadcast: crate::policy::Broadcast::Off,
        });
        let store = open(&StoreUrl::Embedded(folder.path().into()), policy).await;
        let metrics = Arc::<Metrics>::default();
        let subscribers = SubscriberRegistry::new(
            Vec::new(),
            BTreeSet::new(),
            None,
            Arc::new(auth::Authenticator::open()),
        );
        let forget_after = Duration::from_secs(3_600);
        let (fleet, fleet_tasks) = Fleet::new(
            store.clone(),
            4_096,
            forget_after,
            Some(subscribers),
            Default::default(),
            metrics.clone(),
        );
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(fleet_tasks.check_ins.run(stop.clone()));
        tasks.spawn(fleet_tasks.registry.run(stop.clone()));
        tasks.spawn(fleet_tasks.restore.run(stop.clone()));
        Self {
            folder,
            store,
            fleet,
            metrics,
            tasks,
            stop,
        }
    }

    /// Stops the tasks, as the end of a process does.
    async fn closed(self) -> TempDir {
        let Self {
            folder,
            store,
            fleet,
            tasks,
            stop,
            ..
        } = self;
        stop.cancel();
        tasks.join_all().await;
        drop((store, fleet));
        // A call of a task that was stopped may go on: it has the file until it ends.
        let lock = std::fs::File::open(folder.path().join("confcast.lock")).expect("a lock");
        let begun = std::time::Instant::now();
        while lock.try_lock().is_err() {
            assert!(
                begun.elapsed() < Duration::from_secs(10),
                "the file is in use"
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        folder
    }

    /// A restart of the process, with this dump in place of the file.
    async fn restored(self, file: &[u8]) -> Self {
        let folder = self.closed().await;
        std::fs::write(folder.path().join("confcast.sqlite"), file).expect("restored");
        Self::on(folder).await
    }

    /// A dump of the file, taken while the process restarts.
    async fn dump(self) -> (Vec<u8>, Self) {
        let folder = self.closed().await;
        let file = std::fs::read(folder.path().join("confcast.sqlite")).expect("a file");
        (file, Self::on(folder).await)
    }

    async fn put(&self, collection: &str, id: &str, number: u64) {
        let config =
            CanonicalJson::parse(json!({ "n": number }).to_string().as_bytes()).expect("json");
        let action = Action::Patch(config.clone());
        let create = Action::Create(config);
        for action in [create, action] {
            let id = id.parse().expect("an id");
            let expected = Expected::Any;
            let write = Write {
                collection: name(collection),
                id,
                action,
                expected,
                context: contract::Context::default(),
                checked: None,
                origin: crate::decide::Origin::default(),
            };
            let committed = self
                .store
                .commit(Arc::from([crate::decide::Command::Single(write)]))
                .await
                .expect("committed");
            assert_eq!(committed.results.len(), 1);
        }
    }

    /// All rows of the store.
    async fn rows(&self) -> usize {
        let rows = self.store.replicas(0, |rows, _row| *rows += 1).await;
        rows.expect("rows")
    }

    async fn listed(&self) -> Vec<ReplicaRecord> {
        let page = self.fleet.page(None, usize::MAX).await;
        page.expect("a page").replicas
    }

    async fn head(&self, collection: &str) -> Head {
        self.store
            .heads(&BTreeSet::from([name(collection)]))
            .await
            .expect("heads")
            .remove(0)
    }

    async fn check_in(&self, instance: &str, report: serde_json::Value) -> CheckInAnswer {
        let body = json!({
            "instance": instance, "bootId": "b", "intervalMs": 10_000, "collections": { FREE: report },
        });
        self.fleet
            .check_in(
                instance,
                body.to_string().as_bytes(),
                Peer::default(),
                &Identity::unrestricted(),
                open_session(),
            )
            .await
            .expect("checked in")
    }

    /// Asserts that no epoch is declared for a moment. What was added as evidence is examined at
    /// once.
    async fn declares_nothing(&self, epoch: Epoch) {
        let waits = async {
            loop {
                assert_eq!(self.head(FREE).await.epoch, epoch);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        assert!(
            tokio::time::timeout(Duration::from_secs(1), waits)
                .await
                .is_err()
        );
        assert_eq!(self.metrics.epochs_declared.get(), 0);
    }

    /// Waits for an epoch of the same lineage after this one.
    async fn until_declared(&self, after: Epoch) -> Epoch {
        let declared = async {
            loop {
                let epoch = self.head(FREE).await.epoch;
                if follows(epoch, after) {
                    return epoch;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), declared)
            .await
            .expect("declared in time")
    }
}

/// What a caller presents where no credential is asked for.
fn open_session() -> Session {
    Session::new(Arc::new(Authenticator::open()), Presented::default())
}

fn follows(epoch: Epoch, other: Epoch) -> bool {
    epoch.lineage == other.lineage && epoch.counter > other.counter
}

/// A call of the process before may still hold the file.
async fn open(url: &StoreUrl, policy: Arc<PublisherPolicy>) -> Store {
    let opening = async {
        loop {
            match Store::open(url, policy.clone()).await {
                Ok(store) => return store,
                Err(_still_open) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), opening)
        .await
        .expect("a store")
}

fn report(epoch: Epoch, revision: Revision, digest: Digest) -> serde_json::Value {
    json!({
        "epoch": epoch, "revision": revision, "known": revision, "state": "current",
        "settled": { "revision": revision, "digest": digest },
    })
}

/// The report of a replica that has reached this head and holds its proof.
fn proven(head: &Head) -> serde_json::Value {
    let mut report = report(head.epoch, head.revision, head.digest);
    report["proof"] = json!(head.proof);
    report
}
