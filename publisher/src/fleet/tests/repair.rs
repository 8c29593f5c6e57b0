//! A repair that changes what replicas hold: they learn of it whatever interrupts the repair.

use contract::repair::{RepairReport, RepairRequest, RepairState};
use futures_util::poll;
use rusqlite::Connection;

use super::*;
use crate::repair::{repair, repairs};

const DISCARD: RepairRequest = RepairRequest {
    apply: true,
    discard: true,
    collections: Vec::new(),
};

impl Testbed {
    /// A collection with the documents `a` and `b`; nothing whole says what `a` is.
    async fn with_a_lost_document() -> Self {
        let testbed = Self::new().await;
        testbed.put(FREE, "a", 1).await;
        testbed.put(FREE, "b", 2).await;
        let file = testbed.folder.path().join("confcast.sqlite");
        let file = Connection::open(file).expect("the file");
        file.execute_batch(
            "DELETE FROM changes WHERE revision <= 2;
             UPDATE documents SET value = x'7b7d' WHERE id = 'a'",
        )
        .expect("changed by hand");
        testbed
    }

    async fn repair(&mut self) -> RepairReport {
        let (repairs, task) = repairs(self.store.clone(), self.fleet.clone());
        self.tasks.spawn(task.run(self.stop.clone()));
        let report = repairs.run(DISCARD, [name(FREE)].into()).await;
        report.expect("repaired").expect("no other repair")
    }

    /// A report of what replicas held before the repair.
    async fn holds(&self, head: &Head) -> CheckInAnswer {
        let report = report(head.epoch, head.revision, head.digest);
        self.check_in("r", report).await
    }
}

/// Records of the log may be left that a repair lets the log begin after: they say nothing more of a
/// document that was moved aside.
#[tokio::test]
async fn what_a_repair_moved_aside_is_absent_whatever_the_log_lacked() {
    for lacks in [
        // All records of the document; one between them and the end; the newest one.
        "DELETE FROM changes WHERE revision = 1;",
        "DELETE FROM changes WHERE revision = 2;",
        "UPDATE changes SET crc = 1 WHERE revision = 2;",
        "DELETE FROM changes WHERE revision = 3;",
        "UPDATE changes SET crc = 1 WHERE revision = 3;",
        "DELETE FROM changes WHERE revision > 1;",
        "DELETE FROM changes;",
    ] {
        let mut testbed = Testbed::new().await;
        for id in ["a", "b", "c"] {
            testbed.put(FREE, id, 1).await;
        }
        let before = testbed.head(FREE).await;
        assert_eq!(before.revision, 3);
        let file = testbed.folder.path().join("confcast.sqlite");
        let file = Connection::open(file).expect("the file");
        let spoil = "UPDATE documents SET value = x'7b7d', revision = 77 WHERE id = 'a';";
        file.execute_batch(&format!("{spoil}{lacks}"))
            .expect("changed by hand");
        let report = testbed.repair().await;
        let state = report.collections[0].state;
        assert_eq!(state, RepairState::Repaired, "{lacks} {report:?}");
        assert_eq!(report.epoch_failure, None, "{lacks}");
        let epoch = report.epoch.expect("declared");
        assert!(follows(epoch, before.epoch), "{lacks}");
        let head = testbed.head(FREE).await;
        let place = (head.epoch, head.revision, head.count);
        assert_eq!(place, (epoch, before.revision, 2), "{lacks}");
        let get = async |id: &str| {
            let id = id.parse().expect("an id");
            let document = testbed.store.document(&name(FREE), &id).await;
            document.unwrap_or_else(|error| panic!("{lacks} {id}: {error:#}"))
        };
        assert_eq!(get("a").await, None, "{lacks}");
        assert!(get("b").await.is_some() && get("c").await.is_some());
        testbed.put(FREE, "a", 2).await;
        assert!(get("a").await.is_some(), "{lacks}");
        let again = testbed.repair().await;
        let state = again.collections[0].state;
        assert_eq!((state, again.epoch), (RepairState::Whole, None), "{lacks}");
    }
}

#[tokio::test]
async fn a_repair_that_discards_a_document_declares_an_epoch() {
    let mut testbed = Testbed::with_a_lost_document().await;
    let before = testbed.head(FREE).await;
    let report = testbed.repair().await;
    assert_eq!(report.epoch_failure, None);
    assert!(follows(report.epoch.expect("declared"), before.epoch));
    let head = testbed.head(FREE).await;
    assert_eq!((head.revision, head.count), (before.revision, 1));
    assert!(head.proof.is_some());
}

/// The process stops after the head was replaced and before the epoch is declared.
#[tokio::test]
async fn a_stop_before_the_epoch_of_a_repair_loses_no_declaration() {
    let testbed = Testbed::with_a_lost_document().await;
    let before = testbed.head(FREE).await;
    let repaired = repair(&testbed.store, &name(FREE), &DISCARD).await;
    let repaired = repaired.expect("repaired");
    assert_eq!(repaired.report.state, RepairState::Repaired);
    assert!(repaired.needs_epoch);
    let head = testbed.head(FREE).await;
    assert_eq!((head.epoch, head.proof), (before.epoch, None));

    // Until then a replica that holds the discarded document is told to load.
    let answer = testbed.holds(&before).await;
    let resync = answer.resync.get(&name(FREE));
    assert_eq!(resync, Some(&ResyncReason::Diverged));
    let scrub = |testbed: &Testbed| crate::repair::Scrub::new(testbed.store.clone(), 1_000_000);
    scrub(&testbed).pass(&name(FREE)).await.expect("a pass");
    assert_eq!(testbed.store.damage().summary().ignored, 1);

    let testbed = Testbed::on(testbed.closed().await).await;
    testbed.until_declared(before.epoch).await;
    assert!(testbed.head(FREE).await.proof.is_some());
    scrub(&testbed).pass(&name(FREE)).await.expect("a pass");
    assert_eq!(testbed.store.damage().summary().ignored, 0);
}

#[tokio::test]
async fn the_next_repair_declares_the_epoch_that_one_before_needed() {
    let mut testbed = Testbed::with_a_lost_document().await;
    let before = testbed.head(FREE).await;
    let repaired = repair(&testbed.store, &name(FREE), &DISCARD).await;
    assert!(repaired.expect("repaired").needs_epoch);
    let report = testbed.repair().await;
    assert!(follows(report.epoch.expect("declared"), before.epoch));
}

#[tokio::test]
async fn a_repair_goes_on_when_its_client_goes_away() {
    let mut testbed = Testbed::with_a_lost_document().await;
    let before = testbed.head(FREE).await;
    let (repairs, task) = repairs(testbed.store.clone(), testbed.fleet.clone());
    {
        let mut client = std::pin::pin!(repairs.run(DISCARD, [name(FREE)].into()));
        assert!(poll!(&mut client).is_pending());
        // Another one is refused, whether or not the first one is waited for.
        let other = repairs.run(DISCARD, [name(FREE)].into()).await;
        assert!(other.expect("refused").is_none());
    }
    testbed.tasks.spawn(task.run(testbed.stop.clone()));
    testbed.until_declared(before.epoch).await;
    assert_eq!(testbed.head(FREE).await.count, 1);
}
