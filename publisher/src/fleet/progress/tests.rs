use chrono::TimeDelta;
use contract::applied::NotAppliedReason;
use serde_json::json;

use super::*;
use crate::fleet::registry::is_gone;

const COLLECTION: &str = "A";

fn name() -> CollectionName {
    COLLECTION.parse().expect("a name")
}

fn epoch() -> Epoch {
    "00000001-1".parse().expect("an epoch")
}

/// A report with this revision, seen so many seconds ago.
fn record(instance: &str, revision: Revision, ago: i64) -> ReplicaRecord {
    record_with(
        instance,
        ago,
        json!({ "revision": revision, "known": revision }),
    )
}

fn record_with(instance: &str, ago: i64, members: serde_json::Value) -> ReplicaRecord {
    let mut report = json!({ "epoch": epoch(), "state": "current" });
    let merged = report.as_object_mut().expect("an object");
    merged.extend(members.as_object().cloned().unwrap_or_default());
    let seen = Utc::now() - TimeDelta::seconds(ago);
    let record = json!({
        "instance": instance, "bootId": "b", "intervalMs": 1_000, "seen": seen, "gone": false,
        "collections": { COLLECTION: report }
    });
    serde_json::from_value(record).expect("a record")
}

fn write(revision: Revision) -> AppliedWrite {
    AppliedWrite {
        epoch: epoch(),
        revisions: BTreeMap::from([(name(), revision)]),
        documents: Some(vec![(name(), "d".parse().expect("an id"), revision)]),
    }
}

fn progress_of(records: &[ReplicaRecord]) -> Progress {
    let progress = Progress::default();
    progress.replace([].iter(), Utc::now());
    for record in records {
        progress.note(record);
    }
    progress
}

/// The answer at once.
async fn now(progress: &Progress, write: &AppliedWrite, wait: &str) -> Applied {
    let wait = wait.parse().expect("a wait");
    progress
        .until_applied(write, wait, Instant::now(), true)
        .await
}

#[tokio::test]
async fn live_replicas_that_follow_the_collection_count() {
    let mut other = record("other", 9, 0);
    let report = other
        .check_in
        .collections
        .remove(&name())
        .expect("a report");
    let of_other = "B".parse().expect("a name");
    other.check_in.collections.insert(of_other, report);
    let progress = progress_of(&[
        record("a", 5, 0),
        record("b", 4, 0),
        record("gone", 5, 60),
        other,
    ]);
    let all = now(&progress, &write(5), "all").await;
    assert_eq!((all.reached, all.replicas, all.applied), (false, 2, 1));
    let missing: Vec<_> = all
        .missing
        .iter()
        .map(|one| (&*one.instance, one.reason, one.revision))
        .collect();
    assert_eq!(missing, [("b", NotAppliedReason::Behind, 4)]);
    for (wait, reached) in [("1", true), ("50%", true), ("51%", false), ("2", false)] {
        assert_eq!(
            now(&progress, &write(5), wait).await.reached,
            reached,
            "{wait}"
        );
    }
    assert!(now(&progress, &write(4), "all").await.reached);
    // Nobody is left out where there is nobody.
    let none = now(&progress_of(&[]), &write(5), "all").await;
    assert_eq!((none.reached, none.replicas), (true, 0));
    assert!(!now(&progress_of(&[]), &write(5), "1").await.reached);
}

/// Of so many replicas the reports stay arranged for 40 ms, so the second wait begins with those of the
/// first one.
#[tokio::test]
async fn a_report_that_came_before_a_wait_began_ends_it() {
    let others = (0..2_000).map(|number| record(&number.to_string(), 5, 0));
    let records: Vec<_> = others.chain([record("a", 4, 0)]).collect();
    let progress = progress_of(&records);
    assert!(!now(&progress, &write(5), "all").await.reached);
    progress.note(&record("a", 5, 0));
    let deadline = Instant::now() + Duration::from_secs(5);
    let all = "all".parse().expect("a wait");
    let applied = progress.until_applied(&write(5), all, deadline, true).await;
    assert!(applied.reached && applied.waited_ms < 4_000, "{applied:?}");
}

#[tokio::test]
async fn a_replica_says_why_it_has_not_applied_a_write() {
    let refusal = json!({ "id": "d", "revision": 5, "pointer": "/n", "error": "no number" });
    let of_another = json!({ "id": "e", "revision": 5, "pointer": "/n", "error": "no number" });
    let at_5 = |members: serde_json::Value| {
        let mut report = json!({ "revision": 5, "known": 5 });
        let report_members = report.as_object_mut().expect("an object");
        report_members.extend(members.as_object().cloned().unwrap_or_default());
        report
    };
    let cases = [
        (
            at_5(json!({ "refusals": [refusal], "refusedValues": 1 })),
            Some(NotAppliedReason::Refused),
        ),
        (
            at_5(json!({ "refusals": [of_another], "refusedValues": 1 })),
            None,
        ),
        // The list is cut off, so it proves nothing.
        (
            at_5(json!({ "refusals": [of_another], "refusedValues": 2 })),
            Some(NotAppliedReason::Refused),
        ),
        (
            at_5(json!({ "epoch": "00000001-2" })),
            Some(NotAppliedReason::Behind),
        ),
        (
            json!({ "revision": 0, "known": 0, "state": "loading" }),
            Some(NotAppliedReason::Loading),
        ),
        (
            json!({ "revision": 4, "known": 5, "reason": "withdrawn" }),
            Some(NotAppliedReason::Behind),
        ),
    ];
    for (members, reason) in cases {
        let progress = progress_of(&[record_with("a", 0, members.clone())]);
        let applied = now(&progress, &write(5), "all").await;
        let found = applied.missing.first().map(|missing| missing.reason);
        assert_eq!(
            (applied.reached, found),
            (reason.is_none(), reason),
            "{members}"
        );
    }
    // Without the documents of the write, every value up to the revision counts.
    let unknown = |revision| AppliedWrite {
        documents: None,
        ..write(revision)
    };
    let refuses = at_5(json!({ "refusals": [of_another], "refusedValues": 1 }));
    let refuses = progress_of(&[record_with("a", 0, refuses)]);
    assert!(now(&refuses, &unknown(4), "all").await.reached);
    let applied = now(&refuses, &unknown(5), "all").await;
    assert_eq!(applied.missing[0].reason, NotAppliedReason::Refused);
    let mut deaf = record("a", 4, 0);
    deaf.check_in.intake = Some(contract::fleet::IntakeFault::NotReceiving);
    let applied = now(&progress_of(&[deaf]), &write(5), "all").await;
    assert_eq!(applied.missing[0].reason, NotAppliedReason::NotReceiving);
}

#[tokio::test]
async fn a_wait_ends_with_the_report_that_completes_it_or_with_its_time() {
    let progress = progress_of(&[record("a", 5, 0), record("b", 4, 0)]);
    let wanted = write(5);
    let deadline = Instant::now() + Duration::from_secs(60);
    let waiting = progress.until_applied(&wanted, WaitFor::All, deadline, false);
    // The wait is polled first, and has looked at the reports when these come.
    let reports = async {
        // An older report changes nothing.
        progress.note(&record("b", 9, 30));
        progress.note(&record("b", 5, 0));
    };
    let (applied, ()) = tokio::join!(biased; waiting, reports);
    assert!(applied.reached, "{applied:?}");
    let deadline = Instant::now() + Duration::from_millis(20);
    let wait = WaitFor::Replicas(3);
    let late = progress.until_applied(&wanted, wait, deadline, false).await;
    assert_eq!(
        (late.reached, late.applied, late.missing.len()),
        (false, 2, 0)
    );
    assert!(late.waited_ms >= 20, "{late:?}");
}

#[tokio::test]
async fn the_rows_of_other_publishers_replace_older_reports_only() {
    let progress = progress_of(&[
        record("here", 5, 0),
        record("forgotten", 5, 2),
        record("both", 4, 2),
        record("new", 5, 0),
    ]);
    let rows = [
        record("here", 4, 1),
        record("there", 5, 0),
        record("both", 5, 0),
    ];
    progress.replace(rows.iter(), Utc::now() - TimeDelta::seconds(1));
    let applied = now(&progress, &write(5), "all").await;
    assert_eq!((applied.reached, applied.replicas), (true, 4));
}

#[tokio::test]
async fn before_the_rows_of_the_store_were_read_no_number_is_enough() {
    let progress = Progress::default();
    progress.note(&record("a", 5, 0));
    for wait in ["all", "1"] {
        assert!(!now(&progress, &write(5), wait).await.reached, "{wait}");
    }
    progress.replace([record("a", 5, 0), record("b", 5, 0)].iter(), Utc::now());
    assert_eq!(now(&progress, &write(5), "all").await.replicas, 2);
}

/// What is counted from the arranged reports is what each replica for itself says, whatever it reports.
#[test]
fn a_look_counts_as_each_report_does() {
    let other: CollectionName = "B".parse().expect("a name");
    let mut records = Vec::new();
    for number in 0..64 {
        let revision = number % 8;
        let mut members = json!({ "revision": revision, "known": revision });
        let refuses = json!([{ "id": if number % 3 == 0 { "d" } else { "e" }, "revision": revision,
            "pointer": "/a", "error": "no number" }]);
        if number % 5 == 0 {
            members["refusals"] = refuses;
            members["refusedValues"] = json!(1 + number % 2);
        }
        if number % 7 == 0 {
            members["epoch"] = json!("00000001-2");
        }
        let ago = if number % 11 == 0 { 60 } else { 0 };
        let mut record = record_with(&format!("r{number}"), ago, members);
        if number % 4 == 0 {
            let report = record.check_in.collections[&name()].clone();
            record.check_in.collections.insert(other.clone(), report);
        }
        records.push(Arc::new(record));
    }
    let at = Utc::now();
    let look = Look::new(records.iter().cloned(), at);
    for target in 0..10 {
        let one = write(target);
        let several = AppliedWrite {
            revisions: BTreeMap::from([(name(), target), (other.clone(), 3)]),
            ..one.clone()
        };
        for write in [one, several] {
            let standing = look.standing(&write, true);
            let live = records.iter().filter(|record| !is_gone(record, at));
            let missing = live.clone().filter(|record| {
                let progress = Look::new([Arc::clone(record)].into_iter(), at);
                progress.standing(&write, true).missing.len() == 1
            });
            assert_eq!(standing.missing.len(), missing.count(), "{target}");
            assert_eq!(standing.replicas, live.count());
            assert_eq!(standing.applied + standing.missing.len(), standing.replicas);
            assert_eq!(standing.gone, records.len() - standing.replicas);
        }
    }
}

/// Many waits for a write that thousands of replicas do not apply end in time.
#[tokio::test]
async fn many_waits_of_many_replicas_end_in_time() {
    let records: Vec<_> = (0..4_000)
        .map(|number| record(&format!("r{number}"), 1, 0))
        .collect();
    let progress = progress_of(&records);
    let begun = Instant::now();
    let deadline = begun + Duration::from_millis(500);
    let write = write(5);
    let waits = (0..500).map(|_wait| progress.until_applied(&write, WaitFor::All, deadline, true));
    let all = futures_util::future::join_all(waits);
    let noted = async {
        // Each check-in wakes all of them.
        while Instant::now() < deadline {
            for record in records.iter().take(50) {
                progress.note(record);
            }
            tokio::task::yield_now().await;
        }
    };
    let (all, ()) = tokio::join!(all, noted);
    assert!(
        all.iter()
            .all(|applied| !applied.reached && applied.missing.len() == 100)
    );
    // A pass over all replicas for each of them took 30 s.
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
}
