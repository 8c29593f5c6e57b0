//! Lists whose readers take their time while documents change.

use service::runtime::tasks::on_thread;

use super::*;
use crate::store::embedded::connections::WAL_LIMIT;

fn wal_bytes(folder: &Path) -> u64 {
    fs::metadata(folder.join("confcast.sqlite-wal")).map_or(0, |file| file.len())
}

#[tokio::test]
async fn a_stalled_reader_gets_its_snapshot_and_does_not_keep_the_file_growing() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let store = open(folder.path()).await.expect("a store");
    fill(&store, 640, 0, 1_000).await;
    let expected = list(&store).await.expect("a list");
    let mut cursor = store.documents(&names()).await.expect("a cursor");
    let first = cursor.next().await.expect("read").expect("documents");
    let mut documents = first.documents;
    for round in 1..=12 {
        fill(&store, 600, round, 1_000).await;
        let delete = Command::Single(Write {
            action: Action::Delete,
            ..write_of(put(&format!("d{:05}", 600 + round), 0, 0))
        });
        store.commit(Arc::from([delete])).await.expect("committed");
        store
            .commit(Arc::from([put(&format!("d00300-{round}"), 0, 0)]))
            .await
            .expect("committed");
        let wal = wal_bytes(folder.path());
        assert!(wal < WAL_LIMIT / 2, "{wal} bytes after round {round}");
    }
    while let Some(chunk) = cursor.next().await.expect("read") {
        documents.extend(chunk.documents);
    }
    assert_eq!(documents, expected);
    assert_ne!(list(&store).await.expect("a list"), expected);
}

fn write_of(command: Command) -> Write {
    match command {
        Command::Single(write) => write,
        Command::ChangeSet(_) => unreachable!("it is one write"),
    }
}

#[tokio::test]
async fn a_list_is_one_snapshot_while_writers_commit() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let store = open(folder.path()).await.expect("a store");
    fill(&store, 400, 0, 900).await;
    let stop = CancellationToken::new();
    let (writer, stopped) = (store.clone(), stop.clone());
    // As in a publisher: a commit blocks its thread.
    let writing = on_thread("writer", async move {
        let mut number = 1;
        while !stopped.is_cancelled() {
            fill(&writer, 400, number, 900).await;
            number += 1;
        }
        Ok(())
    });
    let reading = async {
        for _ in 0..40 {
            // Each list compares itself with its head.
            list(&store).await.expect("one snapshot");
        }
        stop.cancel();
    };
    let (written, ()) = tokio::join!(writing, reading);
    written.expect("written");
}

/// Another program reads the file in one long transaction.
#[tokio::test]
async fn the_log_shrinks_again_after_a_long_read_of_another_program() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let store = open(folder.path()).await.expect("a store");
    fill(&store, 64, 0, 5_000).await;
    let mut other = rusqlite::Connection::open(folder.path().join(FILE)).expect("opened");
    let reading = other.transaction().expect("begun");
    reading
        .query_row("SELECT count(*) FROM documents", [], |row| {
            row.get::<_, i64>(0)
        })
        .expect("read");
    let mut number = 1;
    while wal_bytes(folder.path()) <= WAL_LIMIT {
        fill(&store, 64, number, 5_000).await;
        number += 1;
    }
    // Writes go on, and the log is reused as soon as the other program lets it.
    fill(&store, 64, number, 5_000).await;
    reading.commit().expect("ended");
    fill(&store, 64, number + 1, 5_000).await;
    fill(&store, 64, number + 2, 5_000).await;
    let wal = wal_bytes(folder.path());
    assert!(wal <= WAL_LIMIT, "{wal}");
}
