//! Files that are damaged, foreign, locked or full, and what is said about them.

use std::os::unix::fs::PermissionsExt;

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::*;
use crate::store::damage::{DamageSummary, DamagedPart};

fn folder() -> tempfile::TempDir {
    tempfile::TempDir::new().expect("a folder")
}

#[tokio::test]
async fn a_second_process_is_told_that_the_folder_is_in_use() {
    let folder = folder();
    let store = open(folder.path()).await.expect("a store");
    let words = refusal(folder.path()).await;
    assert!(words.contains("in use by another process"), "{words}");
    drop(store);
    open(folder.path()).await.expect("the lock was released");
}

#[tokio::test]
async fn a_folder_that_cannot_be_used_is_refused_with_its_cause() {
    let folder = folder();
    let file = folder.path().join("file");
    fs::write(&file, "").expect("written");
    let words = refusal(&file.join("folder")).await;
    assert!(words.contains("creating the folder"), "{words}");
    assert!(words.contains("Not a directory"), "{words}");

    let former = folder.path().join("former");
    fs::create_dir(&former).expect("made");
    fs::write(former.join("confcast.redb"), "redb").expect("written");
    let words = refusal(&former).await;
    assert!(words.contains("earlier version"), "{words}");

    for (content, cause) in [
        (Vec::new(), "is empty"),
        (vec![b'x'; 100_000], "is not a database of SQLite"),
    ] {
        let folder = folder.path().join(cause.replace(' ', "-"));
        fs::create_dir(&folder).expect("made");
        fs::write(folder.join(FILE), content).expect("written");
        let words = refusal(&folder).await;
        assert!(words.contains(cause), "{words}");
        assert!(!words.contains("another process"), "{words}");
    }
}

#[tokio::test]
async fn only_the_owner_can_read_the_store() {
    let parent = folder();
    let folder = parent.path().join("data");
    let store = open(&folder).await.expect("a store");
    fill(&store, 1, 0, 1).await;
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    for file in fs::read_dir(&folder).expect("a folder") {
        let path = file.expect("a file").path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    drop(store);
    fs::set_permissions(folder.join(FILE), fs::Permissions::from_mode(0o644)).expect("set");
    let _store = open(&folder).await.expect("a store");
    assert_eq!(mode(&folder.join(FILE)), 0o600);
}

#[tokio::test]
async fn a_write_without_space_is_refused_and_the_next_one_succeeds() {
    let folder = folder();
    let store = open(folder.path()).await.expect("a store");
    fill(&store, 1, 0, 1).await;
    limit(&store, 1).await;
    let group: Arc<[_]> = (0..64)
        .map(|document| put(&format!("e{document}"), 0, 5_000))
        .collect();
    let refused = store.commit(group.clone()).await;
    assert!(
        matches!(refused, Err(CommitError::NotCommitted(_))),
        "{refused:?}"
    );
    assert_eq!(store.broken(), None);
    assert_eq!(list(&store).await.expect("a list").len(), 1);
    limit(&store, 1_000_000).await;
    store.commit(group).await.expect("committed");
    assert_eq!(list(&store).await.expect("a list").len(), 65);
}

/// An error of the disk, as SQLite reports it for a page that cannot be read.
#[tokio::test]
async fn a_read_that_fails_on_the_disk_breaks_the_store() {
    let folder = folder();
    let store = open(folder.path()).await.expect("a store");
    let read = store.read(|_store, _transaction| {
        let error = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR_READ);
        Err::<(), _>(rusqlite::Error::SqliteFailure(error, None).into())
    });
    read.await.expect_err("failed");
    let reason = store.broken().expect("it is broken");
    assert!(reason.contains("failed on its disk"), "{reason}");
    assert!(Store::Embedded(store).check().await.is_err());
}

/// A store with documents of which some are in the log too.
async fn whole_file() -> (Vec<u8>, Vec<Document>) {
    let folder = folder();
    let store = open(folder.path()).await.expect("a store");
    fill(&store, 200, 0, 300).await;
    fill(&store, 100, 1, 900).await;
    let kept = 60;
    let now = Utc::now() + chrono::TimeDelta::hours(1);
    let all: Vec<_> = (1..=300).map(|revision| (name(), revision)).collect();
    store.mark_published(&all).await.expect("marked");
    store
        .trim(&name(), kept, now, 1_000)
        .await
        .expect("trimmed");
    let documents = list(&store).await.expect("a list");
    drop(store);
    let file = fs::read(folder.path().join(FILE)).expect("a file");
    (file, documents)
}

/// Opens a file and reads everything. Whatever can be read has to be right. The number of calls that
/// failed.
async fn read_all(file: &[u8], expected: &[Document]) -> usize {
    let folder = folder();
    fs::write(folder.path().join(FILE), file).expect("written");
    let store = match open(folder.path()).await {
        Ok(store) => store,
        Err(error) => return not_a_panic(&error),
    };
    let mut failed = 0;
    match list(&store).await {
        Ok(documents) => assert_eq!(documents, expected, "a wrong list"),
        Err(error) => failed += not_a_panic(&error),
    }
    for document in expected {
        match store.document(&name(), document.id()).await {
            Ok(read) => assert_eq!(read.as_ref(), Some(document), "a wrong document"),
            Err(error) => failed += not_a_panic(&error),
        }
    }
    match store
        .records::<contract::Change>(&name(), 240, 1_000, usize::MAX)
        .await
    {
        Ok(changes) => {
            let revisions: Vec<_> = changes.iter().map(|change| change.revision).collect();
            // A page ends before a damaged record.
            let whole: Vec<_> = (241..=300).collect();
            assert!(whole.starts_with(&revisions), "{revisions:?}");
            failed += usize::from(revisions != whole);
            for change in changes {
                let logged = change.config_data.expect("a value");
                let document = Document::new(change.id, change.revision, &logged);
                assert!(expected.contains(&document), "a wrong record");
            }
        }
        Err(error) => failed += not_a_panic(&error),
    }
    failed
}

fn not_a_panic(error: &anyhow::Error) -> usize {
    let words = format!("{error:#}");
    assert!(!words.contains("panicked"), "{words}");
    1
}

#[tokio::test]
async fn a_flipped_byte_never_gives_a_wrong_value() {
    let (file, documents) = whole_file().await;
    assert_eq!(read_all(&file, &documents).await, 0);
    let mut random = StdRng::seed_from_u64(7);
    let mut unnoticed = 0;
    for _ in 0..200 {
        let mut file = file.clone();
        let at = random.random_range(0..file.len());
        let bit = random.random_range(0..8);
        file[at] ^= 1 << bit;
        say(&format!("byte {at}, bit {bit}"));
        unnoticed += usize::from(read_all(&file, &documents).await == 0);
    }
    // Free space of pages, `pending`, `replicas`, and rows that are read from the log.
    assert!(
        unnoticed > 0,
        "one damaged row keeps everything from being read"
    );
}

#[tokio::test]
async fn a_cut_file_never_gives_a_wrong_value() {
    let (file, documents) = whole_file().await;
    for part in 0..20 {
        let length = file.len() * part / 20;
        say(&format!("{length} bytes"));
        assert!(read_all(&file[..length], &documents).await > 0);
    }
}

/// Changes rows by other means.
async fn spoil(store: &Embedded, sql: &'static str) {
    let spoilt = store.write(Durability::Synced, move |_store, transaction| {
        transaction.execute_batch(sql)?;
        Ok(End::Commit(()))
    });
    spoilt.await.expect("spoilt");
}

#[tokio::test]
async fn a_damaged_row_is_read_from_the_log_and_replaced_by_the_next_write() {
    let folder = folder();
    let store = open(folder.path()).await.expect("a store");
    fill(&store, 3, 0, 10).await;
    let documents = list(&store).await.expect("a list");
    spoil(
        &store,
        "UPDATE documents SET value = CAST('{}' AS BLOB) WHERE id = 'd00001'",
    )
    .await;
    assert_eq!(list(&store).await.expect("a list"), documents);
    let id = documents[1].id();
    let read = store.document(&name(), id).await.expect("read");
    assert_eq!(read.as_ref(), Some(&documents[1]));
    // The rules see the value of the log, so the head stays right.
    fill(&store, 2, 2, 10).await;
    spoil(&store, "DELETE FROM changes").await;
    let head = store.heads(&names()).await.expect("heads").remove(0);
    assert_eq!(
        (head.count, list(&store).await.expect("a list").len()),
        (3, 3)
    );

    // Without a record the row alone is refused, by name, and no list omits it.
    spoil(
        &store,
        "UPDATE documents SET revision = 77 WHERE id = 'd00001'",
    )
    .await;
    let refused = store.document(&name(), id).await.expect_err("refused");
    assert!(refused.to_string().contains("\"d00001\" of A"), "{refused}");
    list(&store).await.expect_err("a list without it is wrong");
    let other = store.document(&name(), documents[2].id()).await;
    assert_eq!(other.expect("read").as_ref(), Some(&documents[2]));
    let refused = store.commit(Arc::from([put("d00001", 3, 1)])).await;
    assert!(
        matches!(refused, Err(CommitError::Refused(_))),
        "{refused:?}"
    );
    // Absence is not proven either until all documents were read.
    let absent = "absent".parse().expect("an id");
    store
        .document(&name(), &absent)
        .await
        .expect_err("unproven");
}

#[tokio::test]
async fn a_row_that_vanished_is_not_absent() {
    let folder = folder();
    let store = open(folder.path()).await.expect("a store");
    fill(&store, 3, 0, 10).await;
    let documents = list(&store).await.expect("a list");
    let id = documents[1].id();
    spoil(&store, "DELETE FROM documents WHERE id = 'd00001'").await;
    drop(store);
    let store = open(folder.path()).await.expect("the rest is served");
    let read = store.document(&name(), id).await.expect("by the log");
    assert_eq!(read.as_ref(), Some(&documents[1]));
    list(&store).await.expect_err("a wrong list");
    spoil(&store, "DELETE FROM changes").await;
    store.document(&name(), id).await.expect_err("unproven");
}

/// The time to open a store does not grow with its documents.
#[tokio::test]
async fn opening_verifies_heads_and_leaves_documents_to_readers_and_the_scrub() {
    let folder = folder();
    let store = open(folder.path()).await.expect("a store");
    fill(&store, 4, 0, 10).await;
    let documents = list(&store).await.expect("a list");
    spoil(
        &store,
        "UPDATE documents SET value = CAST('{}' AS BLOB) WHERE id = 'd00001';
         DELETE FROM documents WHERE id = 'd00002';
         UPDATE heads SET crc = 1",
    )
    .await;
    drop(store);
    let store = open(folder.path()).await.expect("a store");
    let known = |store: &Embedded| store.damage().summary();
    assert_eq!(known(&store).from_log, 1, "the head, at once");
    assert_eq!(known(&store).example, Some((name(), DamagedPart::Head)));
    for (number, document) in documents.iter().enumerate() {
        let read = store.document(&name(), document.id()).await.expect("read");
        assert_eq!(read.as_ref(), Some(document), "{number}");
    }
    assert_eq!(known(&store).from_log, 3, "by readers");
    // The first write makes the head true, so that the scrub has one to compare with.
    fill(&store, 1, 1, 10).await;
    spoil(&store, "DELETE FROM changes").await;
    drop(store);
    let store = open(folder.path()).await.expect("a store");
    assert_eq!(known(&store), DamageSummary::default());
    let whole = Store::Embedded(store.clone());
    let scrub = crate::repair::Scrub::new(whole, 1_000_000);
    scrub.pass(&name()).await.expect("a pass");
    assert_eq!(known(&store).refused, 2, "by the scrub: a row, and the sum");
    let gone = documents[2].id();
    store.document(&name(), gone).await.expect_err("unproven");
}

#[tokio::test]
async fn the_record_of_a_damaged_row_is_found_by_its_document_also_in_a_file_without_the_table() {
    let statement = async |store: &Embedded| {
        let prepared = store.read(|_store, transaction| {
            let statement = document_log::newest_of_document(transaction)?;
            Ok(statement.expanded_sql().expect("a text"))
        });
        prepared.await.expect("prepared")
    };
    let folder = folder();
    let store = open(folder.path()).await.expect("a store");
    fill(&store, 2, 0, 10).await;
    spoil(
        &store,
        "DROP TABLE document_log; DELETE FROM documents WHERE id = 'd00001'",
    )
    .await;
    let id = "d00001".parse().expect("an id");
    let read = store.document(&name(), &id).await;
    assert!(read.expect("by the log").is_some(), "without the table");
    assert!(!statement(&store).await.contains("document_log"));
    drop(store);
    let store = open(folder.path()).await.expect("a store");
    // SQLite refuses to prepare it where there is no such table.
    assert!(statement(&store).await.contains("document_log"));
    // Text that is no JSON has no id, and keeps nothing from being written.
    spoil(&store, "UPDATE changes SET record = 'x' WHERE revision = 1").await;
}

/// A row that does not name its revision needs the log to be whole after the record of its document.
#[tokio::test]
async fn a_record_is_the_newest_only_where_the_log_is_whole_after_it() {
    let folder = folder();
    let store = open(folder.path()).await.expect("a store");
    fill(&store, 4, 0, 10).await;
    let documents = list(&store).await.expect("a list");
    let read = async |number: usize| store.document(&name(), documents[number].id()).await;
    spoil(&store, "UPDATE documents SET revision = 'x'").await;
    for _again in 0..2 {
        let by_log = read(2).await.expect("by the log");
        assert_eq!(by_log.as_ref(), Some(&documents[2]));
    }
    // Older than what was read of the log before.
    spoil(&store, "UPDATE changes SET crc = 1 WHERE revision = 2").await;
    for _again in 0..2 {
        read(0)
            .await
            .expect_err("revision 2 may be of this document");
        assert_eq!(
            read(3).await.expect("by the log").as_ref(),
            Some(&documents[3])
        );
    }
    // Newer than that.
    let changed = store.commit(Arc::from([put("d00003", 1, 1)])).await;
    assert_eq!(changed.expect("committed").changes.len(), 1);
    spoil(&store, "DELETE FROM changes WHERE revision = 5").await;
    for _again in 0..2 {
        read(2)
            .await
            .expect_err("revision 5 may be of this document");
    }
}

#[tokio::test]
async fn a_damaged_head_is_read_from_the_log_and_replaced_by_the_next_write() {
    let folder = folder();
    let store = open(folder.path()).await.expect("a store");
    fill(&store, 3, 0, 10).await;
    let heads = store.heads(&names()).await.expect("heads");
    for sql in [
        "UPDATE heads SET head = replace(head, '\"count\":3', '\"count\":4')",
        "DELETE FROM heads",
    ] {
        spoil(&store, sql).await;
        assert_eq!(store.heads(&names()).await.expect("heads"), heads, "{sql}");
        list(&store).await.expect("a list");
    }
    fill(&store, 2, 1, 10).await;
    spoil(&store, "DELETE FROM changes").await;
    assert_eq!(store.heads(&names()).await.expect("heads")[0].revision, 5);
    spoil(&store, "DELETE FROM heads").await;
    store
        .heads(&names())
        .await
        .expect_err("an empty collection");
    let refused = store.commit(Arc::from([put("x", 0, 1)])).await;
    assert!(
        matches!(refused, Err(CommitError::Refused(_))),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_synced_write_is_synced_also_after_one_that_was_not() {
    let folder = folder();
    let store = open(folder.path()).await.expect("a store");
    for (durability, expected) in [
        (Durability::Later, 1),
        (Durability::Synced, 2),
        (Durability::Later, 1),
        (Durability::Synced, 2),
    ] {
        let level = store.write(durability, |_store, transaction| {
            let level = transaction.query_row("PRAGMA synchronous", [], |row| row.get(0))?;
            Ok(End::RollBack::<i64>(level))
        });
        assert_eq!(level.await.expect("read"), expected);
    }
}

/// Every write was refused, and the store was ready.
#[tokio::test]
async fn a_full_disk_is_not_ready_until_a_write_succeeds() {
    let folder = folder();
    let store = open(folder.path()).await.expect("a store");
    fill(&store, 1, 0, 10).await;
    let ready = Store::Embedded(store.clone());
    let full = async || {
        limit(&store, 1).await;
        let mut number = 0;
        // Until no free page is left.
        while store
            .commit(Arc::from([put(&format!("x{number}"), 0, 9_000)]))
            .await
            .is_ok()
        {
            number += 1;
        }
        let refused = ready.check().await.expect_err("it is full");
        assert!(refused.to_string().contains("is full"), "{refused}");
    };
    full().await;
    limit(&store, 1_000_000).await;
    ready.check().await.expect_err("nobody has written");
    let counted = ready.disk_full().get();
    assert!(counted > 0, "an alert counts what was refused");
    fill(&store, 1, 2, 9_000).await;
    ready.check().await.expect("a write succeeded");
    // Where nobody writes the check finds out.
    full().await;
    limit(&store, 1_000_000).await;
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    let found = async {
        while ready.check().await.is_err() {
            ticks.tick().await;
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(20), found).await;
    found.expect("it is ready again");
    list(&store).await.expect("it adds up");
}

/// A repair failed, because the log cannot be read without a head.
#[tokio::test]
async fn a_head_that_nothing_tells_is_not_ready_and_is_made_of_the_rows_on_request() {
    let folder = folder();
    let store = open(folder.path()).await.expect("a store");
    fill(&store, 3, 0, 10).await;
    let documents = list(&store).await.expect("a list");
    spoil(&store, "DELETE FROM heads; DELETE FROM changes").await;
    let whole = Store::Embedded(store.clone());
    let refused = whole.check().await.expect_err("no head");
    assert!(
        refused.to_string().contains("restore a backup"),
        "{refused}"
    );
    let run = async |discard| {
        let request = contract::repair::RepairRequest {
            apply: true,
            discard,
            ..contract::repair::RepairRequest::default()
        };
        let repaired = crate::repair::repair(&whole, &name(), &request).await;
        repaired.expect("a report")
    };
    let report = run(false).await.report;
    let named = &report.unrecoverable.named[0].damage;
    assert!(named.contains("restore a backup"), "{report:?}");
    whole.check().await.expect_err("nothing was done");
    let taken = run(true).await;
    assert!(taken.needs_epoch, "{:?}", taken.report);
    whole.check().await.expect("a head");
    assert_eq!(list(&store).await.expect("a list"), documents);
}
