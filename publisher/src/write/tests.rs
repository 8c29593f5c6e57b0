//! Which writes the task that commits never sees, and what happens when a document changes between
//! the check and the transaction. The store is an embedded one.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use contract::{CanonicalJson, CollectionName, Context, Expected, ProblemKind};
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;

use super::queue::{Writer, WriterTask, writer};
use crate::{
    decide::{
        Action, ChangeSetCommand, Command, Rules, Write,
        schemas::{Schema, SchemaMap, Schemas},
    },
    feed_watch::FeedWatch,
    store::{PublisherPolicy, ServedCollections, Store, StoreUrl},
};

fn name() -> CollectionName {
    "A".parse().expect("a name")
}

fn config(value: &Value) -> CanonicalJson {
    CanonicalJson::of(value).expect("canonical")
}

fn write(id: &str, action: Action, expected: Expected) -> Write {
    let key = (name(), id.parse().expect("an id"));
    Write::new(key, action, expected, Context::default())
}

/// A writer whose task does not run, on a store with the document `x`.
async fn idle(stored: &Value) -> (tempfile::TempDir, Writer, WriterTask) {
    let folder = tempfile::tempdir().expect("a folder");
    // `B` refers to `A`.
    let other: CollectionName = "B".parse().expect("a name");
    let referring = json!({"properties": {"a": {"x-ref": "A"}}});
    let referring = Schema::new(&other, referring.to_string().into(), None).expect("a schema");
    let schema = json!({"properties": {"n": {"type": "integer"}}});
    let schema = Schema::new(&name(), schema.to_string().into(), None).expect("a schema");
    let policy = PublisherPolicy {
        collections: ServedCollections::fixed(BTreeSet::from([name(), other.clone()])),
        rules: Rules {
            schemas: Schemas::new(SchemaMap::from([
                (name(), Arc::new(schema)),
                (other, Arc::new(referring)),
            ])),
            document_limit: 4 << 20,
            secrets: Default::default(),
        },
        broadcast: crate::policy::Broadcast::Off,
    };
    let store = Store::open(&StoreUrl::Embedded(folder.path().into()), Arc::new(policy))
        .await
        .expect("a store");
    let create = write("x", Action::Create(config(stored)), Expected::Any);
    let committed = store.commit(Arc::from([Command::Single(create)])).await;
    assert!(committed.expect("committed").results[0].is_ok());
    let (relay, _changes) = mpsc::channel(1);
    let (writer, task) = writer(store, relay, FeedWatch::default(), QUEUED);
    (folder, writer, task)
}

/// Most writes in the queue of [`idle`].
const QUEUED: usize = 20;

/// Polls a write until the queue has `count` commands. The task does not run, so there is no answer.
async fn queued<T: std::fmt::Debug>(
    writer: &Writer,
    count: usize,
    mut write: impl Future<Output = T> + Unpin,
) {
    let is_queued = async {
        while writer.queue.max_capacity() - writer.queue.capacity() < count {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        answer = &mut write => panic!("the task does not run: {answer:?}"),
        in_time = timeout(Duration::from_secs(30), is_queued) => in_time.expect("queued in time"),
    }
}

#[tokio::test]
async fn the_queue_takes_as_many_writes_as_the_setting_says_and_refuses_the_next() {
    let (_folder, writer, _task) = idle(&json!({"n": 1})).await;
    let create = |number: usize| {
        let value = config(&json!({"n": number}));
        write(
            &format!("new-{number}"),
            Action::Create(value),
            Expected::Any,
        )
    };
    // The task does not run, so each of them waits.
    let mut waiting: Vec<_> = (0..QUEUED)
        .map(|number| Box::pin(writer.write(create(number))))
        .collect();
    for (number, write) in waiting.iter_mut().enumerate() {
        queued(&writer, number + 1, write).await;
    }
    let refused = writer
        .write(create(QUEUED))
        .await
        .expect_err("a full queue");
    assert_eq!(refused.kind(), ProblemKind::Busy);
    assert!(
        refused
            .to_string()
            .contains("AURA_CONFIGURATION_LIMIT_QUEUED_WRITES"),
        "{refused}"
    );
}

/// The task commits the writes of all clients, so a refused value must not take its time.
#[tokio::test]
async fn a_refused_value_never_reaches_the_task_that_commits() {
    let large = "y".repeat(800_000);
    for filler in ["", &large] {
        let (_folder, writer, _task) = idle(&json!({"n": 1, "x": filler})).await;
        let bad = config(&json!({"n": "no", "x": filler}));
        let refused = [
            write("new", Action::Create(bad.clone()), Expected::Any),
            write("new", Action::Put(bad.clone()), Expected::Absent),
            write("x", Action::Put(bad.clone()), Expected::Any),
            write("x", Action::Replace(bad.clone()), Expected::Any),
            write("x", Action::Patch(bad), Expected::Present),
            write(
                "x",
                Action::Patch(config(&json!({"n": "no"}))),
                Expected::Any,
            ),
        ];
        for write in refused {
            let set = ChangeSetCommand {
                id: "s".to_owned(),
                writes: vec![write.clone()],
                ..ChangeSetCommand::default()
            };
            let limit = Duration::from_secs(30);
            let single = timeout(limit, writer.write(write))
                .await
                .expect("an answer");
            assert_eq!(single.expect_err("refused").kind(), ProblemKind::Schema);
            let set = timeout(limit, writer.write_set(set))
                .await
                .expect("an answer");
            let error = set.expect_err("refused");
            assert_eq!(error.pointer().as_deref(), Some("/changes/0/configData/n"));
        }
    }
}

/// The check before the queue reads the stored document, as the transaction does.
#[tokio::test]
async fn a_write_that_needs_a_damaged_document_is_refused_as_the_transaction_refuses_it() {
    let (folder, writer, _task) = idle(&json!({"n": 1})).await;
    let file = rusqlite::Connection::open(folder.path().join("confcast.sqlite"));
    file.expect("the file")
        .execute_batch("UPDATE documents SET crc = 0; UPDATE changes SET crc = 0")
        .expect("changed by hand");
    let patch = Action::Patch(config(&json!({"n": 2})));
    let refused = writer.write(write("x", patch, Expected::Any)).await;
    let error = refused.expect_err("refused");
    assert_eq!(error.kind(), ProblemKind::Unreadable, "{error}");
    assert!(error.to_string().contains('x'), "{error}");
}

/// In the transaction the search would hold up the writes of all clients.
#[tokio::test]
async fn a_search_for_referrers_that_fails_is_not_made_by_the_task_that_commits() {
    let (folder, writer, task) = idle(&json!({"n": 1})).await;
    let file = rusqlite::Connection::open(folder.path().join("confcast.sqlite"));
    file.expect("the file")
        .execute_batch("UPDATE heads SET crc = crc + 1 WHERE collection = 'B'")
        .expect("changed by hand");
    let delete = |id: &str, expected| writer.write(write(id, Action::Delete, expected));
    let limit = Duration::from_secs(30);
    let answer = timeout(limit, delete("x", Expected::Any)).await;
    let error = answer.expect("no task is needed").expect_err("no search");
    assert_eq!(error.kind(), ProblemKind::Unreadable, "{error}");

    // These need no search, which would fail.
    let stop = CancellationToken::new();
    let mut running = tokio::task::JoinSet::new();
    running.spawn(task.run(CancellationToken::new(), stop.clone()));
    let none = delete("none", Expected::Any)
        .await
        .expect_err("no document");
    assert_eq!(none.kind(), ProblemKind::NoData, "{none}");
    let absent = delete("x", Expected::Absent).await.expect_err("it exists");
    assert_ne!(absent.kind(), ProblemKind::Unreadable, "{absent}");
    stop.cancel();
    let ended = running.join_all().await.pop().expect("a task");
    ended.expect("a clean end");
}

/// Each of these patches is checked against a document that another one may replace before it.
#[tokio::test]
async fn patches_of_one_large_document_at_the_same_time_are_all_applied() {
    let (_folder, writer, task) = idle(&json!({"x": "y".repeat(100_000)})).await;
    let stop = CancellationToken::new();
    let mut running = tokio::task::JoinSet::new();
    running.spawn(task.run(CancellationToken::new(), stop.clone()));
    let patch = |n: u8| {
        let patch = config(&json!({ format!("m{n}"): n }));
        writer.write(write("x", Action::Patch(patch), Expected::Any))
    };
    // More than there are attempts.
    let outcomes = futures_util::future::join_all((0..20).map(patch)).await;
    let revisions = outcomes
        .into_iter()
        .map(|outcome| outcome.expect("written").written.revision);
    assert_eq!(revisions.collect::<BTreeSet<_>>(), (2..22).collect());
    stop.cancel();
    running
        .join_all()
        .await
        .pop()
        .expect("a task")
        .expect("a clean end");
}

/// A store that does not answer after the stop holds up no caller, and an answer is true.
#[tokio::test]
async fn a_write_that_is_given_up_before_it_was_begun_is_never_committed() {
    let (folder, writer, task) = idle(&json!({"n": 1})).await;
    let value = config(&json!({"n": 2}));
    let mut written = Box::pin(writer.write(write("x", Action::Replace(value), Expected::Any)));
    queued(&writer, 1, &mut written).await;
    writer.given_up.cancel();
    let error = written.await.expect_err("given up");
    assert_eq!(error.kind(), ProblemKind::Stopping, "{error}");
    // The task commits what was queued before it ends.
    let no_more_requests = CancellationToken::new();
    no_more_requests.cancel();
    let ended = task.run(CancellationToken::new(), no_more_requests).await;
    ended.expect("a clean end");
    let file = rusqlite::Connection::open(folder.path().join("confcast.sqlite"));
    let revision = file.expect("the file").query_row(
        "SELECT revision FROM documents WHERE id = 'x'",
        [],
        |row| row.get::<_, u64>(0),
    );
    assert_eq!(revision.expect("a row"), 1);
}
