//! Processes of their own: killed under load, and with a disk that takes no more.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command as Process, Stdio},
};

use super::*;
use crate::write::queue::writer;

/// The folder of a child's store.
const FOLDER: &str = "CONFCAST_TEST_FOLDER";
/// The call that a child makes on the full disk.
const CALL: &str = "CONFCAST_TEST_CALL";

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
        .args(["--ignored", "--nocapture"])
        .env(FOLDER, folder)
        .env(CALL, call)
        .stdout(Stdio::piped())
        .spawn()
        .expect("a child")
}

#[tokio::test]
#[ignore = "another test runs and kills it"]
async fn commits_until_it_is_killed() {
    let folder = std::env::var_os(FOLDER).expect("a folder");
    let store = open(Path::new(&folder)).await.expect("a store");
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
        let log = store.changes(&name(), 0, 100_000, usize::MAX).await;
        assert_eq!(
            log.expect("a log").len(),
            usize::try_from(head.revision).expect("few")
        );
    }
}

/// One call on a disk that fails. It breaks the store, and that ends the writer.
#[tokio::test]
#[ignore = "another test runs it with a limit of the size of files"]
async fn calls_on_a_failing_disk() {
    let folder = std::env::var_os(FOLDER).expect("a folder");
    let store = open(Path::new(&folder)).await.expect("a store");
    fill(&store, 3, 0, 10).await;
    let (relay, _changes) = tokio::sync::mpsc::channel(1);
    let (_writer, task) = writer(
        Store::Embedded(store.clone()),
        relay,
        crate::feed_watch::FeedWatch::default(),
    );
    store.put_replicas(vec![replica()]).await.expect("written");
    let limited = Process::new("prlimit")
        .args(["--fsize=100", "--pid", &std::process::id().to_string()])
        .status();
    assert!(limited.expect("prlimit of util-linux").success());
    let failed = match std::env::var(CALL).expect("a call").as_str() {
        "commit" => {
            let error = store.commit(Arc::from([put("x", 0, 1)])).await;
            matches!(error, Err(CommitError::OutcomeUnknown(_)))
        }
        "mark_published" => store.mark_published(&[(name(), 1)]).await.is_err(),
        "put_replicas" => store.put_replicas(vec![replica()]).await.is_err(),
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

/// Run it by hand with the variable on a file system of a few MiB, for example a tmpfs.
#[tokio::test]
#[ignore = "it needs a small file system, which needs a mount"]
async fn a_full_disk_refuses_writes_and_ends_nothing() {
    let folder = std::env::var_os(FOLDER).expect("a folder");
    let folder = Path::new(&folder);
    let store = open(folder).await.expect("a store");
    let mut acknowledged = 0;
    let mut refused = 0;
    let ballast = folder.join("ballast");
    for number in 0.. {
        let group: Arc<[_]> = Arc::from([put(&format!("d{number}"), 0, 9_000)]);
        match store.commit(group).await {
            Ok(committed) => acknowledged = committed.changes[0].revision,
            Err(CommitError::NotCommitted(error)) => {
                say(&format!("{error:#}"));
                refused += 1;
            }
            Err(error) => panic!("{:#}", error.cause()),
        }
        match refused {
            0 if number == 30 => {
                let mut rest = fs::File::create(&ballast).expect("made");
                while rest.write_all(&[0; 4096]).is_ok() {}
            }
            20 => fs::remove_file(&ballast).unwrap_or_default(),
            _ => {}
        }
        if refused >= 20 && number > 120 {
            break;
        }
    }
    assert_eq!(store.broken(), None);
    let documents = list(&store).await.expect("a list").len();
    assert_eq!(u64::try_from(documents).expect("few"), acknowledged);
    drop(store);
    let store = open(folder).await.expect("a store");
    assert_eq!(list(&store).await.expect("a list").len(), documents);
}
