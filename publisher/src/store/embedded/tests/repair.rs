//! A repair of rows and heads that were changed by other means.

use contract::repair::{RepairRequest, RepairState};
use rusqlite::Connection;

use super::*;
use crate::repair::repair;

/// A store with documents of that many bytes, and its file for changes by hand.
async fn filled(documents: usize, bytes: usize) -> (tempfile::TempDir, Embedded, Connection) {
    let folder = tempfile::TempDir::new().expect("a folder");
    let store = open(folder.path()).await.expect("a store");
    fill(&store, documents, 0, bytes).await;
    let file = Connection::open(folder.path().join(FILE)).expect("the file");
    (folder, store, file)
}

#[tokio::test]
async fn a_repair_makes_rows_and_the_head_true_from_the_log() {
    let (_folder, store, file) = filled(5, 10).await;
    let before = list(&store).await.expect("a list");
    file.execute_batch(
        "UPDATE documents SET revision = 99 WHERE id = 'd00001';
         UPDATE documents SET value = x'7b7d' WHERE id = 'd00002';
         DELETE FROM documents WHERE id = 'd00003';
         INSERT INTO documents VALUES ('A', 'not an id/', 1, 1, x'7b7d');
         INSERT INTO documents VALUES ('A', x'00', 1, 1, x'7b7d');
         UPDATE heads SET crc = 1;",
    )
    .expect("changed by hand");
    let whole = Store::Embedded(store.clone());
    let run = async |apply| {
        let request = RepairRequest {
            apply,
            ..RepairRequest::default()
        };
        let repaired = repair(&whole, &name(), &request).await;
        repaired.expect("a report").report
    };
    let dry = run(false).await;
    assert_eq!(dry.state, RepairState::Repairable, "{dry:?}");
    assert_eq!((dry.from_log.count, dry.stray.count), (3, 2), "{dry:?}");
    let applied = run(true).await;
    assert_eq!(applied.state, RepairState::Repaired, "{applied:?}");
    assert_eq!(list(&store).await.expect("a list"), before);
    let again = run(false).await;
    assert_eq!(again.state, RepairState::Whole, "{again:?}");
}

#[tokio::test]
async fn a_repair_leaves_damaged_and_missing_records_behind() {
    let (_folder, store, file) = filled(5, 10).await;
    let before = list(&store).await.expect("a list");
    file.execute_batch(
        "DELETE FROM changes WHERE revision = 2; UPDATE changes SET crc = 1 WHERE revision = 3;",
    )
    .expect("changed by hand");
    let whole = Store::Embedded(store.clone());
    for (apply, state) in [
        (false, RepairState::Repairable),
        (true, RepairState::Repaired),
        (false, RepairState::Whole),
    ] {
        let request = RepairRequest {
            apply,
            ..RepairRequest::default()
        };
        let repaired = repair(&whole, &name(), &request).await;
        let report = repaired.expect("a report").report;
        assert_eq!(report.state, state, "{report:?}");
        let damaged = if state == RepairState::Whole { 0 } else { 2 };
        assert_eq!(report.records.count, damaged, "{report:?}");
        let oldest = report.head_after.map(|head| head.oldest);
        assert_eq!(oldest, Some(4), "the log begins after them");
    }
    assert_eq!(list(&store).await.expect("a list"), before);
}

/// A page of rows had a number and no bytes: 500 rows of 4 MiB were read at once.
#[tokio::test]
async fn a_page_of_rows_ends_when_they_reach_its_bytes() {
    let (_folder, store, file) = filled(7, 1_000).await;
    file.execute_batch("INSERT INTO documents VALUES ('A', x'00', 1, 1, x'7b7d')")
        .expect("a row that no publisher wrote");
    let whole = Store::Embedded(store);
    let mut keys = Vec::new();
    loop {
        let page = whole.stored_rows(&name(), keys.last(), 500, 2_000).await;
        let page = page.expect("rows");
        if page.is_empty() {
            break;
        }
        assert!(page.len() <= 2, "{}", page.len());
        keys.extend(page.into_iter().map(|row| row.key));
    }
    assert_eq!(keys.len(), 8, "none is read twice or left out");
}

/// A pass of the scrub removed what it did not examine, and the store was healthy again.
#[tokio::test]
async fn a_damaged_record_or_head_is_known_until_it_is_repaired() {
    let (_folder, store, file) = filled(5, 10).await;
    let whole = Store::Embedded(store.clone());
    let scrub = crate::repair::Scrub::new(whole.clone(), 1_000_000);
    let known = || {
        let damage = store.damage().summary();
        (damage.from_log, damage.ignored, damage.refused)
    };
    for (damage, expected) in [
        ("UPDATE heads SET crc = 1", (1, 0, 0)),
        ("UPDATE changes SET crc = 1 WHERE revision = 2", (0, 1, 0)),
    ] {
        file.execute_batch(damage).expect("changed by hand");
        // A reader of the log finds a record; the scrub reads the head itself.
        let read = store.records::<contract::Change>(&name(), 1, 1, 1).await;
        read.expect("a page, which ends before a damaged record");
        for _pass in 0..2 {
            scrub.pass(&name()).await.expect("a pass");
            assert_eq!(known(), expected, "{damage}");
        }
        let request = RepairRequest {
            apply: true,
            ..RepairRequest::default()
        };
        let repaired = repair(&whole, &name(), &request).await.expect("a report");
        assert_eq!(repaired.report.state, RepairState::Repaired);
        assert_eq!(known(), (0, 0, 0), "{damage}");
        // The relay reads it again and again, because it cannot be published.
        let far = Utc::now() + chrono::TimeDelta::hours(1);
        let pending = whole.pending(&name(), 0, far..far, 9).await;
        pending.expect("a page");
        scrub.pass(&name()).await.expect("a pass");
        assert_eq!(known(), (0, 0, 0), "{damage}");
    }
}

/// Damaged records are part of a page, so that the sweep goes on after them.
#[tokio::test]
async fn damaged_pending_records_do_not_hide_later_ones() {
    let (_folder, store, file) = filled(5, 10).await;
    file.execute_batch("UPDATE changes SET crc = 1 WHERE revision <= 3")
        .expect("changed by hand");
    let far = Utc::now() + chrono::TimeDelta::hours(1);
    let page = async |since| {
        store
            .pending(&name(), since, far..far, 2)
            .await
            .expect("a page")
    };
    let revisions = |page: &crate::store::PendingPage| -> Vec<_> {
        page.changes.iter().map(|change| change.revision).collect()
    };
    let first = page(0).await;
    assert_eq!((revisions(&first), first.next), (vec![], Some(2)));
    let second = page(2).await;
    assert_eq!((revisions(&second), second.next), (vec![4], Some(4)));
    let third = page(4).await;
    assert_eq!((revisions(&third), third.next), (vec![5], None));
}

/// It was repaired to a head without the document, and answered 404, although nobody asked to discard.
#[tokio::test]
async fn a_row_that_is_gone_with_its_record_is_given_up_only_on_request() {
    let (_folder, store, file) = filled(5, 10).await;
    file.execute_batch(
        "DELETE FROM documents WHERE id = 'd00001'; DELETE FROM changes WHERE revision <= 3",
    )
    .expect("changed by hand");
    list(&store).await.expect_err("a document is gone");
    let id = "d00001".parse().expect("an id");
    let whole = Store::Embedded(store.clone());
    let run = async |apply, discard| {
        let request = RepairRequest {
            apply,
            discard,
            ..RepairRequest::default()
        };
        repair(&whole, &name(), &request).await.expect("a report")
    };
    for apply in [false, true, true] {
        let refused = run(apply, false).await;
        let report = refused.report;
        assert_eq!(report.state, RepairState::Unrecoverable, "{report:?}");
        let named = &report.unrecoverable.named[0].damage;
        assert!(named.contains("4 documents"), "{named}");
        assert!(!refused.needs_epoch);
        store.document(&name(), &id).await.expect_err("not absent");
        list(&store).await.expect_err("no list without it");
    }
    let discarded = run(true, true).await;
    assert_eq!(discarded.report.state, RepairState::Repaired);
    assert!(discarded.needs_epoch, "replicas hold the document");
    assert_eq!(store.document(&name(), &id).await.expect("read"), None);
    assert_eq!(list(&store).await.expect("a list").len(), 4);
}

/// It was answered with 200, also after a list had found that the rows do not add up.
#[tokio::test]
async fn an_earlier_row_that_fits_its_checksum_is_read_from_the_log() {
    let (folder, store, file) = filled(3, 10).await;
    file.execute_batch("CREATE TABLE earlier AS SELECT * FROM documents WHERE id < 'd00002'")
        .expect("copied");
    fill(&store, 3, 2, 10).await;
    let deletion = Command::Single(Write {
        collection: name(),
        id: "d00001".parse().expect("an id"),
        action: Action::Delete,
        expected: Expected::Any,
        context: contract::Context::default(),
        checked: None,
        origin: crate::decide::Origin::default(),
    });
    store.commit(Arc::from([deletion])).await.expect("deleted");
    let documents = list(&store).await.expect("a list");
    file.execute_batch("INSERT OR REPLACE INTO documents SELECT * FROM earlier")
        .expect("earlier rows");
    // Before anything else has read the rows.
    for (id, expected) in [("d00000", Some(&documents[0])), ("d00001", None)] {
        let read = store.document(&name(), &id.parse().expect("an id")).await;
        assert_eq!(read.expect("read").as_ref(), expected, "{id}");
    }
    drop(store);
    // A new process, and the scrub alone.
    let store = open(folder.path()).await.expect("a store");
    let scrub = crate::repair::Scrub::new(Store::Embedded(store.clone()), 1_000_000);
    scrub.pass(&name()).await.expect("a pass");
    let summary = store.damage().summary();
    assert_eq!(
        (summary.from_log, summary.ignored, summary.refused),
        (1, 1, 0)
    );
    assert_eq!(list(&store).await.expect("a list"), documents);
    // A new process: the first list finds that the rows do not add up, and the next one reads the log.
    drop((scrub, store));
    let store = open(folder.path()).await.expect("a store");
    list(&store).await.expect_err("they do not add up");
    assert_eq!(store.damage().summary().refused, 1);
    assert_eq!(list(&store).await.expect("a list"), documents);
    assert_eq!(store.damage().summary().refused, 0);
    // A write does not build on an earlier value.
    drop(store);
    let store = open(folder.path()).await.expect("a store");
    let written = store.commit(Arc::from([put("d00000", 3, 10)])).await;
    assert_eq!(written.expect("committed").changes.len(), 1);
    // The write found the row, so the list reads the log.
    assert_eq!(list(&store).await.expect("a list").len(), 2);
}
