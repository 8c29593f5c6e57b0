//! A repair of rows and heads that were changed by other means.

use contract::repair::{RepairRequest, RepairState};
use rusqlite::Connection;

use super::*;
use crate::repair::repair;

#[tokio::test]
async fn a_repair_makes_rows_and_the_head_true_from_the_log() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let store = open(folder.path()).await.expect("a store");
    fill(&store, 5, 0, 10).await;
    let before = list(&store).await.expect("a list");
    let file = Connection::open(folder.path().join(FILE)).expect("the file");
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
    let folder = tempfile::TempDir::new().expect("a folder");
    let store = open(folder.path()).await.expect("a store");
    fill(&store, 5, 0, 10).await;
    let before = list(&store).await.expect("a list");
    let file = Connection::open(folder.path().join(FILE)).expect("the file");
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
