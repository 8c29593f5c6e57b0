//! The fleet on an embedded store: what check-ins are answered, who is seen, and when an epoch is
//! declared.

use std::collections::BTreeSet;

use contract::{CanonicalJson, CollectionName, Digest, Epoch, Head, Revision};
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::{
    decide::{Action, Condition, Rules, Write, schemas::Schemas},
    store::{PublisherPolicy, StoreUrl, replicas::CheckInSource},
};

const FREE: &str = "FreeForm";
const OTHER: &str = "Other";

fn name(text: &str) -> CollectionName {
    text.parse().expect("a name")
}

/// A store in a folder, a fleet on it, and its tasks for as long as the test lasts.
struct Stage {
    folder: TempDir,
    store: Store,
    fleet: Fleet,
    metrics: Arc<Metrics>,
    tasks: tokio::task::JoinSet<anyhow::Result<()>>,
    stop: CancellationToken,
}

impl Stage {
    async fn set() -> Self {
        Self::on(TempDir::new().expect("a folder")).await
    }

    async fn on(folder: TempDir) -> Self {
        let collections = BTreeSet::from([name(FREE), name(OTHER)]);
        let rules = Rules {
            schemas: Schemas::default(),
            document_limit: 1_000_000,
        };
        let terms = Arc::new(PublisherPolicy {
            collections,
            rules,
            events_enabled: false,
        });
        let store = opened(&StoreUrl::Embedded(folder.path().into()), terms).await;
        let metrics = Arc::<Metrics>::default();
        let local = Subscribers::new(Vec::new(), BTreeSet::new(), None);
        let (
            fleet,
            Tasks {
                desk,
                keeper,
                epochs,
            },
        ) = fleet(
            store.clone(),
            Duration::from_secs(3_600),
            Some(local),
            metrics.clone(),
        );
        let (stop, mut tasks) = (CancellationToken::new(), tokio::task::JoinSet::new());
        tasks.spawn(desk.run(stop.clone()));
        tasks.spawn(keeper.run(stop.clone()));
        tasks.spawn(epochs.run(stop.clone()));
        Self {
            folder,
            store,
            fleet,
            metrics,
            tasks,
            stop,
        }
    }

    /// The end of this life of the process.
    async fn closed(self) -> TempDir {
        let Self {
            folder,
            tasks,
            stop,
            ..
        } = self;
        stop.cancel();
        tasks.join_all().await;
        folder
    }

    /// Another life of the process, on a file that was put back in between.
    async fn restored(self, file: &[u8]) -> Self {
        let folder = self.closed().await;
        std::fs::write(folder.path().join("confcast.redb"), file).expect("restored");
        Self::on(folder).await
    }

    /// The file as it is between two lives of the process, and the next one.
    async fn dump(self) -> (Vec<u8>, Self) {
        let folder = self.closed().await;
        let file = std::fs::read(folder.path().join("confcast.redb")).expect("a file");
        (file, Self::on(folder).await)
    }

    async fn put(&self, collection: &str, id: &str, number: u64) {
        let config =
            CanonicalJson::parse(json!({ "n": number }).to_string().as_bytes()).expect("json");
        let action = Action::Patch(serde_json::from_str(config.as_str()).expect("json"));
        let create = Action::Create(config);
        for action in [create, action] {
            let id = id.parse().expect("an id");
            let condition = Condition::Any;
            let write = Write {
                collection: name(collection),
                id,
                action,
                condition,
                context: contract::Context::default(),
            };
            let committed = self
                .store
                .commit(Arc::from([crate::decide::Command::Single(write)]))
                .await
                .expect("committed");
            assert_eq!(committed.results.len(), 1);
        }
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
            .check_in(instance, body.to_string().as_bytes(), Caller::default())
            .await
            .expect("checked in")
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

fn follows(epoch: Epoch, other: Epoch) -> bool {
    epoch.lineage == other.lineage && epoch.counter > other.counter
}

/// A call of the life before may still be on its thread.
async fn opened(url: &StoreUrl, terms: Arc<PublisherPolicy>) -> Store {
    let opening = async {
        loop {
            match Store::open(url, terms.clone()).await {
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

#[tokio::test]
async fn a_digest_is_compared_where_the_log_can_tell() {
    let stage = Stage::set().await;
    let empty = stage.head(FREE).await;
    stage.put(FREE, "a", 1).await;
    let past = stage.head(FREE).await;
    stage.put(FREE, "a", 2).await;
    stage.put(FREE, "b", 3).await;
    let head = stage.head(FREE).await;
    assert!(0 < past.revision && past.revision < head.revision);
    for (revision, digest) in [
        (0, empty.digest),
        (past.revision, past.digest),
        (head.revision, head.digest),
    ] {
        let well = stage
            .check_in("r", report(head.epoch, revision, digest))
            .await;
        assert_eq!(
            (well.heads, well.age, well.resync.len()),
            (vec![head.clone()], 0, 0)
        );
        let wrong = stage
            .check_in("r", report(head.epoch, revision, Digest(digest.0 ^ 1)))
            .await;
        assert_eq!(
            wrong.resync.get(&name(FREE)),
            Some(&ResyncReason::Diverged),
            "{revision}"
        );
    }
    let elsewhere = Epoch {
        lineage: head.epoch.lineage ^ 1,
        counter: 1,
    };
    let other = stage
        .check_in("r", report(elsewhere, head.revision, Digest(7)))
        .await;
    assert!(
        other.resync.is_empty(),
        "another history is not ours to judge"
    );
    assert_eq!(stage.metrics.diverged.get(), 3);
}

/// A fleet that asks for more than is remembered and looked up at once: everybody has a turn.
#[tokio::test]
async fn no_moment_waits_for_ever_for_its_digest() {
    let stage = Stage::set().await;
    for number in 0..200 {
        stage.put(FREE, "a", number).await;
    }
    for number in 0..2 {
        stage.put(OTHER, "a", number).await;
    }
    let (_desk, mut task) = check_ins::desk(stage.store.clone());
    task.fill();
    let epoch = stage.head(FREE).await.epoch;
    let moments: Vec<_> = (1..200)
        .map(|at| (name(FREE), epoch, at))
        .chain([(name(OTHER), epoch, 1)])
        .collect();
    let mut left: BTreeSet<_> = moments.iter().collect();
    // Each has one chance in four, each time.
    for _reading in 0..200 {
        let reading = task
            .read(moments.iter().collect())
            .await
            .expect("a reading");
        left.retain(|moment| reading.digest(moment).is_none());
    }
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn the_newest_check_in_is_seen_at_once_and_after_a_restart() {
    let stage = Stage::set().await;
    let epoch = stage.head(FREE).await.epoch;
    for revision in 0..2 {
        stage
            .check_in("a", report(epoch, revision, Digest::default()))
            .await;
    }
    stage
        .check_in("b", report(epoch, 0, Digest::default()))
        .await;
    let revisions = |fleet: ReplicaList| -> Vec<_> {
        fleet
            .replicas
            .iter()
            .map(|m| {
                (
                    m.check_in.instance.clone(),
                    m.check_in.collections[&name(FREE)].revision,
                )
            })
            .collect()
    };
    let expected = vec![("a".to_owned(), 1), ("b".to_owned(), 0)];
    assert_eq!(
        revisions(stage.fleet.list().await.expect("a fleet")),
        expected
    );
    let written = async {
        while stage.store.replicas().await.expect("rows").len() < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), written)
        .await
        .expect("written in time");
    let (_file, stage) = stage.dump().await;
    assert_eq!(
        revisions(stage.fleet.list().await.expect("a fleet")),
        expected
    );
    stage
        .store
        .forget_replicas(Utc::now() + TimeDelta::seconds(1))
        .await
        .expect("forgotten");
    assert!(stage.store.replicas().await.expect("rows").is_empty());
}

#[test]
fn who_is_silent_for_three_intervals_is_gone() {
    let text = r#"{"instance":"a","bootId":"b","intervalMs":2000,"collections":{}}"#;
    let check_in: CheckIn = serde_json::from_str(text).expect("a check-in");
    let now = Utc::now();
    let silent_for = |milliseconds: i64, interval_ms: u64| {
        let check_in = CheckIn {
            interval_ms,
            ..check_in.clone()
        };
        is_gone(
            &ReplicaRecord {
                check_in,
                seen: now - TimeDelta::milliseconds(milliseconds),
                gone: false,
            },
            now,
        )
    };
    assert!(!silent_for(6_000, 2_000) && silent_for(6_001, 2_000));
    assert!(!silent_for(3_000, 1) && silent_for(3_001, 0));
    assert!(!silent_for(1_000_000_000, u64::MAX));
    assert!(!silent_for(-5_000, 1), "a clock that runs ahead");
}

#[test]
fn what_waits_to_be_written_is_bounded() {
    let check_in: CheckIn =
        serde_json::from_str(r#"{"instance":"","bootId":"b","intervalMs":1,"collections":{}}"#)
            .expect("a check-in");
    let mut pending = Pending::default();
    let mut put = |number: usize, bytes: usize| {
        let check_in = CheckIn {
            instance: number.to_string(),
            ..check_in.clone()
        };
        let member = ReplicaRecord {
            check_in,
            seen: Utc::now(),
            gone: false,
        };
        pending.put(
            ReplicaRow {
                record: member,
                source: CheckInSource::default(),
            },
            bytes,
        );
        (pending.rows.len(), pending.bytes)
    };
    assert_eq!(put(0, 10), (1, 10));
    assert_eq!(put(0, 20), (1, 20));
    assert_eq!(put(1, PENDING_BYTES), (1, 20));
    for number in 1..MAX_REPLICAS + 10 {
        put(number, 1);
    }
    assert_eq!(put(0, 30), (MAX_REPLICAS, MAX_REPLICAS - 1 + 30));
}

#[test]
fn what_is_being_written_is_seen() {
    let text = r#"{"instance":"a","bootId":"b","intervalMs":1,"collections":{},"seen":"2026-01-01T00:00:00Z","gone":false}"#;
    let row: ReplicaRow = serde_json::from_str(text).expect("a row");
    let mut pending = Pending::default();
    pending.put(row.clone(), 10);
    assert_eq!(pending.begin_to_write(), vec![row.clone()]);
    assert_eq!((pending.all(), pending.bytes), (vec![row.clone()], 0));
    pending.end_to_write(false);
    assert_eq!(
        (pending.all(), pending.bytes),
        (vec![row.clone()], 10),
        "it waits again"
    );
    pending.begin_to_write();
    pending.end_to_write(true);
    assert!(pending.all().is_empty());
}

#[tokio::test]
async fn one_reading_answers_all_that_wait() {
    let stage = Stage::set().await;
    stage.put(FREE, "a", 1).await;
    let head = stage.head(FREE).await;
    let all = (0..1_000).map(|number| {
        let (stage, head) = (&stage, head.clone());
        async move {
            let name = format!("r{number}");
            let answer = stage
                .check_in(&name, report(head.epoch, head.revision, head.digest))
                .await;
            assert_eq!(answer.heads, [head]);
        }
    });
    futures_util::future::join_all(all).await;
    assert_eq!(
        stage.fleet.list().await.expect("a fleet").replicas.len(),
        1_000
    );
    let (desk, task) = check_ins::desk(stage.store.clone());
    let asked = futures_util::future::join_all((0..100).map(|_| desk.read(Vec::new())));
    let never = CancellationToken::new();
    let running = never.run_until_cancelled(task.run(CancellationToken::new()));
    let readings = async {
        let readings = asked.await;
        never.cancel();
        readings
    };
    let (readings, _ended) = futures_util::future::join(readings, running).await;
    let first = readings[0].as_ref().expect("a reading");
    assert!(
        readings
            .iter()
            .flatten()
            .all(|reading| Arc::ptr_eq(reading, first))
    );
    assert_eq!(readings.iter().flatten().count(), 100);
}

#[tokio::test]
async fn a_restored_store_goes_on_in_a_new_epoch() {
    let stage = Stage::set().await;
    stage.put(FREE, "a", 1).await;
    let old = stage.head(FREE).await;
    let (dump, stage) = stage.dump().await;
    stage.put(FREE, "b", 2).await;
    let lost = stage.head(FREE).await;
    let stage = stage.restored(&dump).await;
    assert_eq!(stage.head(FREE).await, old);

    stage
        .check_in("r", report(old.epoch, old.revision, old.digest))
        .await;
    stage
        .check_in("r", report(old.epoch, lost.revision, lost.digest))
        .await;
    let next = stage.until_declared(old.epoch).await;
    assert_eq!(stage.metrics.epochs_declared.get(), 1);
    // What is said again, and what was said of the old epoch, is no reason for another one.
    stage
        .check_in("r", report(old.epoch, lost.revision, lost.digest))
        .await;
    stage.put(FREE, "c", 3).await;
    let log = stage
        .store
        .changes(&name(FREE), old.revision, 10, usize::MAX)
        .await
        .expect("a log");
    assert!(!log.is_empty() && log.iter().all(|change| change.epoch == next));

    // Restored once more, to before the declaration: replicas of the later history tell.
    let stage = stage.restored(&dump).await;
    assert_eq!(stage.head(FREE).await.epoch, old.epoch);
    stage
        .check_in("r", report(next, 1, Digest::default()))
        .await;
    stage.until_declared(next).await;

    // And if no replica ever said so: a history that was lost shares its name with no other.
    let stage = stage.restored(&dump).await;
    stage
        .check_in("r", report(old.epoch, lost.revision, lost.digest))
        .await;
    assert!(follows(stage.until_declared(old.epoch).await, next));
}

#[tokio::test]
async fn nonsense_and_a_blank_store_declare_nothing() {
    let stage = Stage::set().await;
    let epoch = stage.head(FREE).await.epoch;
    // A blank store knows less than everybody.
    stage.check_in("r", report(epoch, 5, Digest(1))).await;
    stage
        .check_in(
            "r",
            report(
                Epoch {
                    counter: 2,
                    ..epoch
                },
                5,
                Digest(1),
            ),
        )
        .await;
    let waits = async {
        loop {
            assert_eq!(stage.head(FREE).await.epoch, epoch);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    assert!(
        tokio::time::timeout(Duration::from_secs(1), waits)
            .await
            .is_err()
    );
    // The operator may.
    let declared = stage
        .fleet
        .declare(RestoreEpochRequest::default())
        .await
        .expect("declared");
    assert!(follows(
        declared.epoch,
        Epoch {
            counter: 2,
            ..epoch
        }
    ));
    // A counter that nobody can have reached is passed by.
    stage.put(FREE, "a", 1).await;
    stage
        .check_in(
            "r",
            report(
                Epoch {
                    counter: u64::MAX,
                    ..epoch
                },
                1,
                Digest(1),
            ),
        )
        .await;
    let again = stage
        .fleet
        .declare(RestoreEpochRequest::default())
        .await
        .expect("declared")
        .epoch;
    assert!(follows(again, declared.epoch) && again.counter < u64::MAX / 4);
}

/// An epoch that was declared while the clock was years ahead, and then lost with its database.
#[tokio::test]
async fn by_hand_an_epoch_goes_beyond_whatever_replicas_follow() {
    let stage = Stage::set().await;
    stage.put(FREE, "a", 1).await;
    let epoch = stage.head(FREE).await.epoch;
    let years = 10 * 365 * 86_400_000;
    let lost = Epoch {
        counter: u64::try_from(Utc::now().timestamp_millis()).expect("after 1970") + years,
        ..epoch
    };
    stage.check_in("r", report(lost, 1, Digest(1))).await;
    let nonsense = Epoch {
        counter: u64::MAX,
        ..epoch
    };
    stage.check_in("s", report(nonsense, 1, Digest(1))).await;
    let declared = stage
        .fleet
        .declare(RestoreEpochRequest::default())
        .await
        .expect("declared")
        .epoch;
    assert!(
        follows(declared, lost) && declared.counter < lost.counter + years,
        "{declared}"
    );
}

#[tokio::test]
async fn another_store_takes_over_the_lineage_of_the_replicas() {
    let stage = Stage::set().await;
    stage.put(FREE, "a", 1).await;
    let ours = stage.head(FREE).await.epoch;
    let theirs = Epoch {
        lineage: ours.lineage ^ 5,
        counter: 4,
    };
    let adopt = RestoreEpochRequest { adopt: true };
    let status =
        |answer: Result<EpochDeclared, ApiError>| answer.map_err(|error| error.problem.status);
    assert_eq!(status(stage.fleet.declare(adopt.clone()).await), Err(409));
    stage.check_in("one", report(theirs, 9, Digest(1))).await;
    stage
        .check_in(
            "two",
            report(
                Epoch {
                    counter: 3,
                    ..theirs
                },
                9,
                Digest(1),
            ),
        )
        .await;
    stage
        .check_in(
            "stranger",
            report(
                Epoch {
                    lineage: ours.lineage ^ 6,
                    counter: 1,
                },
                9,
                Digest(1),
            ),
        )
        .await;
    assert_eq!(status(stage.fleet.declare(adopt.clone()).await), Err(409));
    stage.check_in("stranger", report(ours, 1, Digest(1))).await;
    let declared = stage.fleet.declare(adopt).await.expect("declared");
    assert!(follows(declared.epoch, theirs));
    assert_eq!(stage.head(FREE).await.epoch, declared.epoch);
}
