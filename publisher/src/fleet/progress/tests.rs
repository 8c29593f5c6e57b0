use chrono::{TimeDelta, Utc};
use contract::{applied::NotAppliedReason, fleet::CheckIn};
use serde_json::json;

use super::*;
use crate::store::replicas::ReplicaRow;

const COLLECTION: &str = "A";

fn name() -> CollectionName {
    COLLECTION.parse().expect("a name")
}

fn epoch() -> Epoch {
    "00000001-1".parse().expect("an epoch")
}

/// A report with this revision, seen so many seconds ago.
fn record(instance: &str, revision: Revision, ago: u64) -> Record {
    record_with(
        instance,
        ago,
        json!({ "revision": revision, "known": revision }),
    )
}

fn record_with(instance: &str, ago: u64, members: serde_json::Value) -> Record {
    let mut report = json!({ "epoch": epoch(), "state": "current" });
    let merged = report.as_object_mut().expect("an object");
    merged.extend(members.as_object().cloned().unwrap_or_default());
    let seconds = i64::try_from(ago).expect("seconds");
    let seen = Utc::now() - TimeDelta::seconds(seconds);
    let record = json!({
        "instance": instance, "bootId": "b", "intervalMs": 1_000, "seen": seen, "gone": false,
        "collections": { COLLECTION: report }
    });
    let row: ReplicaRow = serde_json::from_value(record).expect("a record");
    Record {
        row: Arc::new(row),
        at: Instant::now() - Duration::from_secs(ago),
    }
}

/// Changes the check-in of a record.
fn changed(mut record: Record, change: impl FnOnce(&mut CheckIn)) -> Record {
    change(&mut Arc::make_mut(&mut record.row).record.check_in);
    record
}

/// A store that has every revision.
async fn has_all() -> Option<Newest> {
    let names = [name(), "B".parse().expect("a name")];
    Some(names.map(|name| (name, Revision::MAX)).into())
}

fn write(revision: Revision) -> AppliedWrite {
    AppliedWrite {
        epoch: epoch(),
        revisions: BTreeMap::from([(name(), revision)]),
        documents: Some(vec![(name(), "d".parse().expect("an id"), revision)]),
    }
}

fn progress_of(records: &[Record]) -> Progress {
    let progress = Progress::default();
    progress.replace(&[], Instant::now());
    for record in records {
        progress.note(record);
    }
    progress
}

/// The answer at once.
async fn now(progress: &Progress, write: &AppliedWrite, wait: &str) -> Applied {
    let wait = wait.parse().expect("a wait");
    progress
        .until_applied(write, wait, Instant::now(), true, has_all)
        .await
}

#[tokio::test]
async fn live_replicas_that_follow_the_collection_count() {
    let other = changed(record("other", 9, 0), |check_in| {
        let report = check_in.collections.remove(&name()).expect("a report");
        let of_other = "B".parse().expect("a name");
        check_in.collections.insert(of_other, report);
    });
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
    let applied = progress
        .until_applied(&write(5), all, deadline, true, has_all)
        .await;
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
    let deaf = changed(record("a", 4, 0), |check_in| {
        check_in.intake = Some(contract::fleet::IntakeFault::NotReceiving);
    });
    let applied = now(&progress_of(&[deaf]), &write(5), "all").await;
    assert_eq!(applied.missing[0].reason, NotAppliedReason::NotReceiving);
}

#[tokio::test]
async fn a_wait_ends_with_the_report_that_completes_it_or_with_its_time() {
    let progress = progress_of(&[record("a", 5, 0), record("b", 4, 0)]);
    let wanted = write(5);
    let deadline = Instant::now() + Duration::from_secs(60);
    let waiting = progress.until_applied(&wanted, WaitFor::All, deadline, false, has_all);
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
    let late = progress
        .until_applied(&wanted, wait, deadline, false, has_all)
        .await;
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
    progress.replace(&rows, Instant::now() - Duration::from_secs(1));
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
    progress.replace(&[record("a", 5, 0), record("b", 5, 0)], Instant::now());
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
            record = changed(record, |check_in| {
                let report = check_in.collections[&name()].clone();
                check_in.collections.insert(other.clone(), report);
            });
        }
        if number % 13 == 0 {
            Arc::make_mut(&mut record.row).source.ahead.insert(name());
        }
        records.push(record);
    }
    let at = Instant::now();
    let look = Look::new(records.clone(), at);
    let of_store = [
        None,
        Some(Newest::from([(name(), 5), (other.clone(), 5)])),
        Some(Newest::new()),
    ];
    for target in 0..10 {
        let one = write(target);
        let several = AppliedWrite {
            revisions: BTreeMap::from([(name(), target), (other.clone(), 3)]),
            ..one.clone()
        };
        let writes = [one, several];
        let cases = (writes.iter()).flat_map(|write| of_store.iter().map(move |of| (write, of)));
        for (write, newest) in cases {
            let newest = newest.as_ref();
            let standing = look.standing(write, newest, true);
            let live = records.iter().filter(|record| !record.is_gone(at));
            let missing = live.clone().filter(|record| {
                let alone = Look::new(vec![Record::clone(record)], at);
                alone.standing(write, newest, true).missing.len() == 1
            });
            assert_eq!(standing.missing.len(), missing.count(), "{target}");
            assert_eq!(standing.replicas, live.count());
            assert_eq!(standing.applied + standing.missing.len(), standing.replicas);
            assert_eq!(standing.gone, records.len() - standing.replicas);
        }
    }
}

/// A dump was put back: replicas still report what it does not have.
#[tokio::test]
async fn a_report_beyond_the_store_or_of_another_epoch_is_not_applied() {
    let progress = progress_of(&[record("a", 50, 0)]);
    let write = write(21);
    let all = WaitFor::All;
    let wait = async |newest: Option<Newest>| {
        let deadline = Instant::now();
        let newest = async || newest.clone();
        progress
            .until_applied(&write, all, deadline, true, newest)
            .await
    };
    let beyond = wait(Some(Newest::from([(name(), 21)]))).await;
    assert_eq!(
        (beyond.reached, beyond.replicas, beyond.applied),
        (false, 1, 0)
    );
    assert_eq!(beyond.missing[0].reason, NotAppliedReason::Behind);
    assert!(beyond.missing[0].detail.contains("restored"), "{beyond:?}");
    let of_another_epoch = wait(Some(Newest::new())).await;
    assert_eq!(
        (of_another_epoch.reached, of_another_epoch.applied),
        (false, 0)
    );
    assert!(!wait(None).await.reached, "the store does not answer");
    assert!(wait(Some(Newest::from([(name(), 50)]))).await.reached);
    // It was ahead when it checked in: what was written since proves nothing.
    let mut ahead = record("a", 50, 0);
    Arc::make_mut(&mut ahead.row).source.ahead.insert(name());
    progress.note(&ahead);
    assert!(!wait(has_all().await).await.reached);
}

#[tokio::test]
async fn a_replica_that_is_not_listed_is_one_that_has_not_applied_it() {
    let known = Arc::<KnownReplicas>::default();
    let progress = Progress::new(known.clone());
    progress.replace(&[record("a", 5, 0)], Instant::now());
    known.refuse("unlisted", Instant::now() + Duration::from_secs(60));
    let all = now(&progress, &write(5), "all").await;
    assert_eq!((all.reached, all.applied, all.unlisted), (false, 1, 1));
    for (wait, reached) in [("1", true), ("50%", true), ("51%", false)] {
        assert_eq!(
            now(&progress, &write(5), wait).await.reached,
            reached,
            "{wait}"
        );
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
    let waits =
        (0..500).map(|_wait| progress.until_applied(&write, WaitFor::All, deadline, true, has_all));
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
