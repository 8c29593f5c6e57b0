//! Processes of their own: killed under load, and with a disk that takes no more.

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command as Process, Stdio},
};

use super::*;
use crate::{
    decide::WriteError,
    outbox::relay::Relay,
    transport::{
        Transport,
        cloudevent::EventEncoder,
        direct::{DirectTransport, SubscriberRegistry},
    },
    write::queue::writer,
};

/// The folder of a child's store.
const FOLDER: &str = "CONFCAST_TEST_FOLDER";
/// The call that a child makes on the full disk.
const CALL: &str = "CONFCAST_TEST_CALL";

/// The folder, in a process that [`child`] started. Elsewhere the test has nothing to do.
fn folder_of_child() -> Option<PathBuf> {
    std::env::var_os(FOLDER).map(PathBuf::from)
}

/// Runs one test of this program in another process that ignores SIGXFSZ, so that a write beyond the
/// limit fails like one to a broken disk.
fn child(test: &str, folder: &Path, call: &str) -> Child {
    let program = std::env::current_exe().expect("this program");
    Process::new("sh")
        .args(["-c", r#"trap "" XFSZ; exec "$0" "$@""#])
        .arg(program)
        .args([
            "--exact",
            &format!("store::embedded::tests::children::{test}"),
        ])
        .arg("--nocapture")
        .env(FOLDER, folder)
        .env(CALL, call)
        .stdout(Stdio::piped())
        .spawn()
        .expect("a child")
}

/// Another test runs and kills it.
#[tokio::test]
async fn commits_until_it_is_killed() {
    let Some(folder) = folder_of_child() else {
        return;
    };
    let store = open(&folder).await.expect("a store");
    if store.heads(&names()).await.expect("heads")[0].revision == 0 {
        let all: Arc<[_]> = (0..50)
            .map(|document| put(&format!("d{document}"), 0, 1))
            .collect();
        store.commit(all).await.expect("committed");
    }
    for number in 1.. {
        let group: Arc<[_]> = (0..5)
            .map(|document| {
                put(
                    &format!("d{}", (number * 3 + document) % 50),
                    rand::random_range(1..1_000_000),
                    700,
                )
            })
            .collect();
        let committed = store.commit(group).await.expect("committed");
        let revision = committed.changes.last().expect("a change").revision;
        say(&format!("acknowledged {revision}"));
    }
}

#[tokio::test]
async fn a_killed_process_loses_nothing_that_was_acknowledged() {
    let folder = tempfile::TempDir::new().expect("a folder");
    for round in 0..6 {
        let mut child = child("commits_until_it_is_killed", folder.path(), "");
        let output = BufReader::new(child.stdout.take().expect("its output"));
        let mut acknowledged = 0;
        let lines = output.lines().map_while(Result::ok);
        for (read, line) in lines
            .filter_map(|line| Some(line.strip_prefix("acknowledged ")?.to_owned()))
            .enumerate()
        {
            acknowledged = line.parse().expect("a revision");
            if read == 20 + 7 * round {
                child.kill().expect("killed");
            }
        }
        child.wait().expect("ended");
        let store = open(folder.path()).await.expect("a store");
        let head = store.heads(&names()).await.expect("heads").remove(0);
        assert!(head.revision >= acknowledged && acknowledged > 0);
        list(&store).await.expect("it adds up to the head");
        let log = store
            .records::<contract::Change>(&name(), 0, 100_000, usize::MAX)
            .await;
        assert_eq!(
            log.expect("a log").len(),
            usize::try_from(head.revision).expect("few")
        );
    }
}

/// One call on a disk that fails. It breaks the store, and that ends the writer. Another test runs it.
#[tokio::test]
async fn calls_on_a_failing_disk() {
    let Some(folder) = folder_of_child() else {
        return;
    };
    let store = open(&folder).await.expect("a store");
    fill(&store, 3, 0, 10).await;
    let (relay, _changes) = tokio::sync::mpsc::channel(1);
    let (_writer, task) = writer(
        Store::Embedded(store.clone()),
        relay,
        crate::feed_watch::FeedWatch::default(),
        4_096,
    );
    store
        .put_replicas(vec![Arc::new(replica())])
        .await
        .expect("written");
    let published = [(name(), 1), (name(), 2)];
    store.mark_published(&published).await.expect("marked");
    let limited = Process::new("prlimit")
        .args(["--fsize=100", "--pid", &std::process::id().to_string()])
        .status();
    assert!(limited.expect("prlimit of util-linux").success());
    let failed = match std::env::var(CALL).expect("a call").as_str() {
        "commit" => {
            let error = store.commit(Arc::from([put("x", 0, 1)])).await;
            matches!(error, Err(CommitError::OutcomeUnknown(_)))
        }
        "mark_published" => store.mark_published(&[(name(), 3)]).await.is_err(),
        "trim" => {
            let later = Utc::now() + chrono::TimeDelta::hours(1);
            store.trim(&name(), 1, later, 1_000).await.is_err()
        }
        "put_replicas" => store.put_replicas(vec![Arc::new(replica())]).await.is_err(),
        "forget_replicas" => store.forget_replicas(Utc::now()).await.is_err(),
        "declare_epoch" => {
            let from = store.identity().await.expect("an identity").epoch;
            let to = contract::Epoch { counter: 9, ..from };
            store.declare_epoch(from, to).await.is_err()
        }
        other => panic!("{other}"),
    };
    assert!(failed, "the call did not fail");
    assert!(store.broken().is_some(), "the store is not broken");
    assert!(Store::Embedded(store.clone()).check().await.is_err());
    let ended = tokio::time::timeout(
        Duration::from_secs(10),
        task.run(CancellationToken::new(), CancellationToken::new()),
    );
    let error = ended.await.expect("it ends").expect_err("a failure");
    assert!(
        error.to_string().contains("failed on its disk"),
        "{error:#}"
    );
    say("done");
}

#[tokio::test]
async fn a_disk_that_fails_in_any_call_breaks_the_store_and_ends_the_writer() {
    for call in [
        "commit",
        "mark_published",
        "trim",
        "put_replicas",
        "forget_replicas",
        "declare_epoch",
    ] {
        let folder = tempfile::TempDir::new().expect("a folder");
        let child = child("calls_on_a_failing_disk", folder.path(), call);
        let output = child.wait_with_output().expect("ended");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && text.contains("done"),
            "{call}: {text}"
        );
        // The disk takes writes again.
        let store = open(folder.path()).await.expect("a store");
        assert!(list(&store).await.expect("a list").len() >= 3);
        fill(&store, 1, 2, 1).await;
    }
}

/// Refused writes and marks, with all log lines on the output. Another test runs it.
#[tokio::test]
async fn writes_on_a_full_disk() {
    let Some(folder) = folder_of_child() else {
        return;
    };
    tracing_subscriber::fmt().with_ansi(false).init();
    let store = open(&folder).await.expect("a store");
    // Marking a change only frees pages, so a limit of pages alone would not refuse it.
    let other = rusqlite::Connection::open(folder.join(FILE)).expect("opened");
    let trigger = "CREATE TRIGGER full BEFORE DELETE ON pending
                   BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END";
    other.execute_batch(trigger).expect("created");
    let (sender, changes) = tokio::sync::mpsc::channel(16);
    let (writer, task) = writer(
        Store::Embedded(store.clone()),
        sender,
        crate::feed_watch::FeedWatch::default(),
        4_096,
    );
    let encoder = EventEncoder {
        confirmations: Default::default(),
        signer: None,
        pub_sub_name: "configuration".to_owned(),
        ttl_seconds: 60,
        data_limit: 10_000,
        policy: policy(),
    };
    let subscribers = SubscriberRegistry::new(
        Vec::new(),
        BTreeSet::new(),
        None,
        Arc::new(auth::Authenticator::open()),
    );
    let transport =
        DirectTransport::new(subscribers, encoder, tls::ClientTls::default()).expect("a transport");
    let relay = Relay::new(
        Store::Embedded(store.clone()),
        Arc::new(Transport::Direct(transport)),
        changes,
        Arc::default(),
    );
    let stop = CancellationToken::new();
    let writes = async {
        writer.write(write("whole", 1)).await.expect("committed");
        limit(&store, 1).await;
        for number in 0..1_000 {
            let refused = writer.write(write(&format!("d{number}"), 9_000)).await;
            assert!(matches!(refused, Err(WriteError::DiskFull)), "{refused:?}");
        }
        // Long enough for some attempts to mark the change.
        let seconds = Duration::from_secs(3);
        let ended = tokio::time::timeout(seconds, store.until_broken()).await;
        ended.expect_err("the store is not broken");
        limit(&store, 1_000_000).await;
        other.execute_batch("DROP TRIGGER full").expect("dropped");
        writer.write(write("after", 9_000)).await.expect("space");
        stop.cancel();
    };
    let run = task.run(stop.clone(), stop.clone());
    let relay = relay.expect("a relay").run();
    let (ended, (), relayed) = tokio::join!(run, writes, relay);
    ended.expect("the writer");
    relayed.expect("the relay");
    assert_eq!(store.broken(), None);
    assert_eq!(list(&store).await.expect("a list").len(), 2);
    drop((writer, store));
    let store = open(&folder).await.expect("a store");
    assert_eq!(list(&store).await.expect("a list").len(), 2);
    say("done");
}

fn write(id: &str, bytes: usize) -> Write {
    match put(id, 0, bytes) {
        Command::Single(write) => write,
        Command::ChangeSet(_) => unreachable!("it is one write"),
    }
}

#[tokio::test]
async fn a_full_disk_refuses_writes_ends_nothing_and_writes_few_log_lines() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let child = child("writes_on_a_full_disk", folder.path(), "");
    let output = child.wait_with_output().expect("ended");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("done"), "{text}");
    let lines = |words| text.lines().filter(|line| line.contains(words)).count();
    assert!(lines("was not committed") > 0, "{text}");
    assert!(lines("could not be marked") > 0, "{text}");
    let all = lines(" WARN ") + lines(" ERROR ") + lines(" INFO ");
    assert!(all <= 10, "{all} lines: {text}");
}
