//! When an epoch is declared.

use super::*;
use crate::api::error::ApiError;

#[tokio::test]
async fn a_restored_store_continues_in_a_new_epoch() {
    let testbed = Testbed::new().await;
    testbed.put(FREE, "a", 1).await;
    let old = testbed.head(FREE).await;
    let (dump, testbed) = testbed.dump().await;
    testbed.put(FREE, "b", 2).await;
    let lost = testbed.head(FREE).await;
    let testbed = testbed.restored(&dump).await;
    assert_eq!(testbed.head(FREE).await, old);

    testbed.check_in("r", proven(&old)).await;
    testbed.check_in("r", proven(&lost)).await;
    let next = testbed.until_declared(old.epoch).await;
    assert_eq!(testbed.metrics.epochs_declared.get(), 1);
    // The same report again, in the old epoch, is no evidence of another restore.
    testbed.check_in("r", proven(&lost)).await;
    let declared = testbed.head(FREE).await;
    testbed.put(FREE, "c", 3).await;
    let log = testbed
        .store
        .changes(&name(FREE), old.revision, 10, usize::MAX)
        .await
        .expect("a log");
    assert!(!log.is_empty() && log.iter().all(|change| change.epoch == next));

    // Restored once more, to before the declaration: replicas of the later history prove it, also
    // those that have no change of it.
    let testbed = testbed.restored(&dump).await;
    assert_eq!(testbed.head(FREE).await.epoch, old.epoch);
    testbed.check_in("r", proven(&declared)).await;
    testbed.until_declared(next).await;

    // And where no replica reports it: a lost history shares its epoch with no other.
    let testbed = testbed.restored(&dump).await;
    testbed.check_in("r", proven(&lost)).await;
    assert!(follows(testbed.until_declared(old.epoch).await, next));
}

/// One check-in of an unknown client declared a new epoch for the whole fleet, again and again.
#[tokio::test]
async fn what_a_client_says_of_itself_declares_nothing() {
    let testbed = Testbed::new().await;
    testbed.put(FREE, "a", 1).await;
    testbed.put(OTHER, "a", 1).await;
    testbed.put(OTHER, "a", 2).await;
    let past = testbed.head(FREE).await;
    let other = testbed.head(OTHER).await;
    testbed.put(FREE, "a", 2).await;
    let head = testbed.head(FREE).await;
    let later = Epoch {
        counter: head.epoch.counter + 1,
        ..head.epoch
    };
    let with = |mut report: serde_json::Value, proof: Option<contract::Proof>| {
        report["proof"] = json!(proof);
        report
    };
    let far = report(head.epoch, 999_999, Digest(1));
    let in_later = report(later, head.revision, head.digest);
    let guessed = "0123456789012345678901234567890123456789".parse().ok();
    let mut known = report(head.epoch, head.revision, head.digest);
    known["known"] = json!(999_999);
    for (claim, resync) in [
        // The watermark itself is ahead, and no proof is given.
        (far.clone(), Some(ResyncReason::Unproven)),
        (with(far.clone(), guessed), Some(ResyncReason::Unproven)),
        // A proof of another revision, of another collection, or of another epoch.
        (with(far.clone(), head.proof), Some(ResyncReason::Unproven)),
        (
            with(known.clone(), past.proof),
            Some(ResyncReason::Unproven),
        ),
        (with(far, other.proof), Some(ResyncReason::Unproven)),
        (known, Some(ResyncReason::Unproven)),
        (in_later.clone(), None),
        (with(in_later, head.proof), None),
        (
            report(
                Epoch {
                    counter: (1 << 63) - 2,
                    ..later
                },
                1,
                Digest(1),
            ),
            None,
        ),
    ] {
        let answer = testbed.check_in("unknown", claim.clone()).await;
        assert_eq!(answer.resync.get(&name(FREE)), resync.as_ref(), "{claim}");
        let listed = testbed.listed().await;
        let shown = &listed[0].check_in.collections[&name(FREE)];
        assert!(
            shown.revision <= head.revision && shown.known <= head.revision,
            "the list shows what was never committed: {shown:?}"
        );
    }
    testbed.declares_nothing(head.epoch).await;
    assert_eq!(testbed.metrics.unproven_claims.get(), 9);
}

/// A true proof beside false numbers proves what it proves, and no more.
#[tokio::test]
async fn a_proof_of_what_the_store_has_is_no_evidence() {
    let testbed = Testbed::new().await;
    testbed.put(FREE, "a", 1).await;
    let head = testbed.head(FREE).await;
    let mut claim = report(head.epoch, 999_999, Digest(1));
    claim["known"] = json!(head.revision);
    claim["proof"] = json!(head.proof);
    testbed.check_in("unknown", claim).await;
    testbed.declares_nothing(head.epoch).await;
}

#[tokio::test]
async fn a_blank_store_declares_nothing_without_the_operator() {
    let testbed = Testbed::new().await;
    let (blank, testbed) = testbed.dump().await;
    testbed.put(FREE, "a", 1).await;
    let lost = testbed.head(FREE).await;
    // A blank store has less than every replica.
    let testbed = testbed.restored(&blank).await;
    testbed.check_in("r", proven(&lost)).await;
    testbed.declares_nothing(lost.epoch).await;
    let declared = testbed
        .fleet
        .declare(RestoreEpochRequest::default())
        .await
        .expect("declared");
    assert!(follows(declared.epoch, lost.epoch));
}

fn milliseconds(days: u64) -> u64 {
    u64::try_from(Utc::now().timestamp_millis()).expect("after 1970") + days * 86_400_000
}

#[tokio::test]
async fn the_operator_names_a_counter_within_a_day_of_the_clock() {
    let testbed = Testbed::new().await;
    testbed.put(FREE, "a", 1).await;
    let epoch = testbed.head(FREE).await.epoch;
    // No replica can use the counters up: this one proves nothing.
    for counter in [milliseconds(3_650), (1 << 63) - 2, u64::MAX] {
        let forged = Epoch { counter, ..epoch };
        testbed.check_in("r", report(forged, 1, Digest(1))).await;
        let declared = testbed
            .fleet
            .declare(RestoreEpochRequest::default())
            .await
            .expect("declared")
            .epoch;
        assert!(declared.counter < milliseconds(1), "{declared}");
    }
    let by_hand = |counter| RestoreEpochRequest {
        counter: Some(counter),
        ..RestoreEpochRequest::default()
    };
    for counter in [milliseconds(2), u64::MAX] {
        let refused = testbed.fleet.declare(by_hand(counter)).await;
        let problem = ApiError::from(refused.expect_err("out of bounds")).problem;
        assert_eq!(
            (problem.status, problem.pointer.as_deref()),
            (400, Some("/counter"))
        );
    }
    let counter = milliseconds(0) + 3_600_000;
    let declared = testbed.fleet.declare(by_hand(counter)).await;
    assert_eq!(declared.expect("declared").epoch.counter, counter + 1);
}

/// An epoch that was declared while the clock was years ahead, and then lost with its database.
#[tokio::test]
async fn an_epoch_that_the_operator_asks_for_is_after_every_proven_one() {
    let testbed = Testbed::new().await;
    testbed.put(FREE, "a", 1).await;
    let (dump, testbed) = testbed.dump().await;
    let epoch = testbed.head(FREE).await.epoch;
    let years = Epoch {
        counter: milliseconds(3_650),
        ..epoch
    };
    let declared = testbed.store.declare_epoch(epoch, years).await;
    assert!(declared.expect("declared"));
    let lost = testbed.head(FREE).await;
    let testbed = testbed.restored(&dump).await;
    testbed.check_in("r", proven(&lost)).await;
    let declared = testbed.until_declared(years).await;
    assert_eq!(declared.counter, years.counter + 1);
}

#[tokio::test]
async fn another_store_takes_over_the_lineage_of_the_replicas() {
    let testbed = Testbed::new().await;
    testbed.put(FREE, "a", 1).await;
    let ours = testbed.head(FREE).await.epoch;
    let theirs = Epoch {
        lineage: ours.lineage ^ 5,
        counter: 4,
    };
    let adopt = |lineage: u32| RestoreEpochRequest {
        adopt: Some(format!("{lineage:08x}")),
        ..RestoreEpochRequest::default()
    };
    let refused = async |lineage| {
        let refused = testbed.fleet.declare(adopt(lineage)).await;
        let problem = ApiError::from(refused.expect_err("refused")).problem;
        assert_eq!(problem.status, 409);
        problem.detail
    };
    assert!(refused(theirs.lineage).await.contains("nothing to adopt"));
    testbed.check_in("one", report(theirs, 9, Digest(1))).await;
    let ahead = Epoch {
        counter: milliseconds(0) + 3_600_000,
        ..theirs
    };
    let used_up = Epoch {
        counter: (1 << 63) - 2,
        ..theirs
    };
    for (instance, epoch) in [("two", ahead), ("unknown", used_up)] {
        testbed
            .check_in(instance, report(epoch, 9, Digest(1)))
            .await;
    }
    // A report alone does not say which lineage is taken over.
    let other = Epoch {
        lineage: ours.lineage ^ 6,
        counter: 1,
    };
    testbed.check_in("other", report(other, 9, Digest(1))).await;
    let listed = refused(ours.lineage).await;
    for epoch in [theirs, other] {
        assert!(
            listed.contains(&format!("{:08x}", epoch.lineage)),
            "{listed}"
        );
    }
    let declared = testbed.fleet.declare(adopt(theirs.lineage)).await;
    let declared = declared.expect("declared").epoch;
    assert_eq!(declared.counter, ahead.counter + 1);
    assert_eq!(testbed.head(FREE).await.epoch, declared);
}

/// The counter was set by hand; a renewal is the way out, and only then.
#[tokio::test]
async fn a_lineage_is_renewed_when_its_counters_are_near_their_end() {
    let testbed = Testbed::new().await;
    testbed.put(FREE, "a", 1).await;
    let renew = || RestoreEpochRequest {
        renew: true,
        ..RestoreEpochRequest::default()
    };
    let refused = async |request| {
        let refused = testbed.fleet.declare(request).await;
        ApiError::from(refused.expect_err("refused")).problem
    };
    let problem = refused(renew()).await;
    assert_eq!(problem.status, 409);
    assert!(problem.detail.contains("not near the end"), "{problem:?}");
    let mixed = RestoreEpochRequest {
        counter: Some(1),
        ..renew()
    };
    let problem = refused(mixed).await;
    assert_eq!(
        (problem.status, problem.pointer.as_deref()),
        (400, Some("/renew"))
    );

    let first = testbed.head(FREE).await.epoch;
    let last = Epoch {
        counter: i64::MAX as u64,
        ..first
    };
    let declared = testbed.store.declare_epoch(first, last).await;
    assert!(declared.expect("declared"));
    let before = testbed.head(FREE).await;
    testbed.check_in("r", proven(&before)).await;
    let problem = refused(RestoreEpochRequest::default()).await;
    assert_eq!(problem.status, 409);
    assert!(problem.detail.contains("--renew"), "{problem:?}");

    let renewed = testbed.fleet.declare(renew()).await.expect("renewed").epoch;
    assert_ne!(renewed.lineage, last.lineage);
    assert!(renewed.counter <= milliseconds(0), "{renewed}");
    let head = testbed.head(FREE).await;
    assert_eq!((head.epoch, head.revision), (renewed, before.revision));
    // A replica of the lineage before it learns that this one replaces it, and is no evidence.
    let answer = testbed.check_in("r", proven(&before)).await;
    assert!(answer.heads[0].replaces.includes(last));
    assert_eq!(testbed.metrics.unproven_claims.get(), 0);
    testbed.put(FREE, "b", 1).await;
    assert_eq!(refused(renew()).await.status, 409);
}

/// A dump was put back and a document is written before an epoch is declared.
#[tokio::test]
async fn what_a_restored_store_lost_is_not_applied() {
    let testbed = Testbed::new().await;
    testbed.put(FREE, "a", 1).await;
    let (dump, testbed) = testbed.dump().await;
    for number in 2..9 {
        testbed.put(FREE, "a", number).await;
    }
    let lost = testbed.head(FREE).await;
    let testbed = testbed.restored(&dump).await;
    testbed.check_in("before", proven(&lost)).await;
    testbed.put(FREE, "a", 10).await;
    testbed.check_in("after", proven(&lost)).await;
    let head = testbed.head(FREE).await;
    let write = AppliedWrite {
        epoch: lost.epoch,
        revisions: BTreeMap::from([(name(FREE), head.revision)]),
        documents: None,
    };
    let is_not_applied = async || {
        let applied = (testbed.fleet)
            .until_applied(&write, WaitFor::All, Instant::now(), true)
            .await;
        assert_eq!(
            (applied.reached, applied.applied),
            (false, 0),
            "{applied:?}"
        );
    };
    let begun = Instant::now();
    while testbed.head(FREE).await.epoch == lost.epoch && begun.elapsed() < Duration::from_secs(2) {
        is_not_applied().await;
    }
    testbed.until_declared(lost.epoch).await;
    is_not_applied().await;
}
