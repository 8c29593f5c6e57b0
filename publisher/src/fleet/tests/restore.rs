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

    testbed
        .check_in("r", report(old.epoch, old.revision, old.digest))
        .await;
    testbed
        .check_in("r", report(old.epoch, lost.revision, lost.digest))
        .await;
    let next = testbed.until_declared(old.epoch).await;
    assert_eq!(testbed.metrics.epochs_declared.get(), 1);
    // The same report again, in the old epoch, is no evidence of another restore.
    testbed
        .check_in("r", report(old.epoch, lost.revision, lost.digest))
        .await;
    testbed.put(FREE, "c", 3).await;
    let log = testbed
        .store
        .changes(&name(FREE), old.revision, 10, usize::MAX)
        .await
        .expect("a log");
    assert!(!log.is_empty() && log.iter().all(|change| change.epoch == next));

    // Restored once more, to before the declaration: replicas of the later history report it.
    let testbed = testbed.restored(&dump).await;
    assert_eq!(testbed.head(FREE).await.epoch, old.epoch);
    testbed
        .check_in("r", report(next, 1, Digest::default()))
        .await;
    testbed.until_declared(next).await;

    // And where no replica reports it: a lost history shares its epoch with no other.
    let testbed = testbed.restored(&dump).await;
    testbed
        .check_in("r", report(old.epoch, lost.revision, lost.digest))
        .await;
    assert!(follows(testbed.until_declared(old.epoch).await, next));
}

#[tokio::test]
async fn an_implausible_epoch_and_a_blank_store_declare_nothing() {
    let testbed = Testbed::new().await;
    let epoch = testbed.head(FREE).await.epoch;
    // A blank store has less than every replica.
    testbed.check_in("r", report(epoch, 5, Digest(1))).await;
    testbed
        .check_in(
            "r",
            report(
                Epoch {
                    counter: 2,
                    ..epoch
                },
                5,
                Digest(1),
            ),
        )
        .await;
    let waits = async {
        loop {
            assert_eq!(testbed.head(FREE).await.epoch, epoch);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    assert!(
        tokio::time::timeout(Duration::from_secs(1), waits)
            .await
            .is_err()
    );
    // The operator may declare one.
    let declared = testbed
        .fleet
        .declare(RestoreEpochRequest::default())
        .await
        .expect("declared");
    assert!(follows(
        declared.epoch,
        Epoch {
            counter: 2,
            ..epoch
        }
    ));
    // A counter that no store can have reached is ignored.
    testbed.put(FREE, "a", 1).await;
    testbed
        .check_in(
            "r",
            report(
                Epoch {
                    counter: u64::MAX,
                    ..epoch
                },
                1,
                Digest(1),
            ),
        )
        .await;
    let again = testbed
        .fleet
        .declare(RestoreEpochRequest::default())
        .await
        .expect("declared")
        .epoch;
    assert!(follows(again, declared.epoch) && again.counter < u64::MAX / 4);
}

/// An epoch that was declared while the clock was years ahead, and then lost with its database.
#[tokio::test]
async fn an_epoch_that_the_operator_asks_for_is_after_every_reported_one() {
    let testbed = Testbed::new().await;
    testbed.put(FREE, "a", 1).await;
    let epoch = testbed.head(FREE).await.epoch;
    let years = 10 * 365 * 86_400_000;
    let lost = Epoch {
        counter: u64::try_from(Utc::now().timestamp_millis()).expect("after 1970") + years,
        ..epoch
    };
    testbed.check_in("r", report(lost, 1, Digest(1))).await;
    let implausible = Epoch {
        counter: u64::MAX,
        ..epoch
    };
    testbed
        .check_in("s", report(implausible, 1, Digest(1)))
        .await;
    let declared = testbed
        .fleet
        .declare(RestoreEpochRequest::default())
        .await
        .expect("declared")
        .epoch;
    assert!(
        follows(declared, lost) && declared.counter < lost.counter + years,
        "{declared}"
    );
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
    let adopt = RestoreEpochRequest { adopt: true };
    let status = |answer: Result<EpochDeclared, FleetError>| {
        answer.map_err(|error| ApiError::from(error).problem.status)
    };
    assert_eq!(status(testbed.fleet.declare(adopt.clone()).await), Err(409));
    testbed.check_in("one", report(theirs, 9, Digest(1))).await;
    testbed
        .check_in(
            "two",
            report(
                Epoch {
                    counter: 3,
                    ..theirs
                },
                9,
                Digest(1),
            ),
        )
        .await;
    testbed
        .check_in(
            "other",
            report(
                Epoch {
                    lineage: ours.lineage ^ 6,
                    counter: 1,
                },
                9,
                Digest(1),
            ),
        )
        .await;
    assert_eq!(status(testbed.fleet.declare(adopt.clone()).await), Err(409));
    testbed.check_in("other", report(ours, 1, Digest(1))).await;
    let declared = testbed.fleet.declare(adopt).await.expect("declared");
    assert!(follows(declared.epoch, theirs));
    assert_eq!(testbed.head(FREE).await.epoch, declared.epoch);
}
