//! What check-ins are answered.

use super::*;

#[tokio::test]
async fn a_digest_is_compared_at_every_revision_of_the_log() {
    let testbed = Testbed::new().await;
    let empty = testbed.head(FREE).await;
    testbed.put(FREE, "a", 1).await;
    let past = testbed.head(FREE).await;
    testbed.put(FREE, "a", 2).await;
    testbed.put(FREE, "b", 3).await;
    let head = testbed.head(FREE).await;
    assert!(0 < past.revision && past.revision < head.revision);
    for (revision, digest) in [
        (0, empty.digest),
        (past.revision, past.digest),
        (head.revision, head.digest),
    ] {
        let well = testbed
            .check_in("r", report(head.epoch, revision, digest))
            .await;
        assert_eq!(
            (well.heads, well.age, well.resync.len()),
            (vec![head.clone()], 0, 0)
        );
        let wrong = testbed
            .check_in("r", report(head.epoch, revision, Digest(digest.0 ^ 1)))
            .await;
        assert_eq!(
            wrong.resync.get(&name(FREE)),
            Some(&ResyncReason::Diverged),
            "{revision}"
        );
    }
    let elsewhere = Epoch {
        lineage: head.epoch.lineage ^ 1,
        counter: 1,
    };
    let other = testbed
        .check_in("r", report(elsewhere, head.revision, Digest(7)))
        .await;
    assert!(
        other.resync.is_empty(),
        "a point of another history is not compared"
    );
    // One replica raises one alarm in a minute, however often it reports.
    assert_eq!(testbed.metrics.diverged.get(), 1);
}

/// A fleet reports more points than the cache holds and one batch reads.
#[tokio::test]
async fn every_history_point_gets_its_digest_in_the_end() {
    let testbed = Testbed::new().await;
    for number in 0..200 {
        testbed.put(FREE, "a", number).await;
    }
    for number in 0..2 {
        testbed.put(OTHER, "a", number).await;
    }
    let (_batcher, mut task) = CheckInBatcher::new(testbed.store.clone(), 4_096);
    task.fill_cache();
    let epoch = testbed.head(FREE).await.epoch;
    let point = |collection: &str, revision| HistoryPoint {
        collection: name(collection),
        epoch,
        revision,
    };
    let points: Vec<_> = (1..200)
        .map(|revision| point(FREE, revision))
        .chain([point(OTHER, 1)])
        .collect();
    let mut left: BTreeSet<_> = points.iter().collect();
    // Each point has one chance in four with each read.
    for _read in 0..200 {
        let snapshot = task
            .read(points.iter().collect())
            .await
            .expect("a snapshot");
        left.retain(|point| snapshot.digest(point).is_none());
    }
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn one_read_answers_all_waiting_check_ins() {
    let testbed = Testbed::new().await;
    testbed.put(FREE, "a", 1).await;
    let head = testbed.head(FREE).await;
    let all = (0..1_000).map(|number| {
        let (testbed, head) = (&testbed, head.clone());
        async move {
            let name = format!("r{number}");
            let answer = testbed
                .check_in(&name, report(head.epoch, head.revision, head.digest))
                .await;
            assert_eq!(answer.heads, [head]);
        }
    });
    futures_util::future::join_all(all).await;
    assert_eq!(testbed.listed().await.len(), 1_000);
    let (batcher, task) = CheckInBatcher::new(testbed.store.clone(), 4_096);
    let waiting = futures_util::future::join_all((0..100).map(|_| batcher.snapshot(Vec::new())));
    let never = CancellationToken::new();
    let running = never.run_until_cancelled(task.run(CancellationToken::new()));
    let answered = async {
        let snapshots = waiting.await;
        never.cancel();
        snapshots
    };
    let (snapshots, _ended) = futures_util::future::join(answered, running).await;
    let first = snapshots[0].as_ref().expect("a snapshot");
    assert!(
        snapshots
            .iter()
            .flatten()
            .all(|snapshot| Arc::ptr_eq(snapshot, first))
    );
    assert_eq!(snapshots.iter().flatten().count(), 100);
}

#[tokio::test]
async fn as_many_check_ins_wait_as_the_limit_and_the_next_is_refused() {
    let testbed = Testbed::new().await;
    let (batcher, task) = CheckInBatcher::new(testbed.store.clone(), 2);
    let waiting = futures_util::future::join_all((0..3).map(|_| batcher.snapshot(Vec::new())));
    let never = CancellationToken::new();
    let running = never.run_until_cancelled(task.run(CancellationToken::new()));
    let answered = async {
        let snapshots = waiting.await;
        // The queue is empty again.
        let next = batcher.snapshot(Vec::new()).await;
        never.cancel();
        (snapshots, next)
    };
    let ((snapshots, next), _ended) = futures_util::future::join(answered, running).await;
    assert!(
        matches!(snapshots.as_slice(), [Ok(_), Ok(_), Err(FleetError::Busy)]),
        "{snapshots:?}"
    );
    assert!(next.is_ok(), "{next:?}");
}

#[tokio::test]
async fn the_pause_between_early_check_ins_grows_with_the_fleet() {
    let testbed = Testbed::new().await;
    let head = testbed.head(FREE).await;
    let at_head = || report(head.epoch, head.revision, head.digest);
    let answer = testbed.check_in("first", at_head()).await;
    assert_eq!(answer.report_after_ms, Some(500));
    for number in 1..300 {
        testbed.check_in(&format!("r{number}"), at_head()).await;
    }
    let answer = testbed.check_in("first", at_head()).await;
    assert_eq!(answer.report_after_ms, Some(600), "300 replicas, 2 ms each");
}

#[tokio::test]
async fn a_check_in_after_the_end_is_refused_as_stopping() {
    let testbed = Testbed::new().await;
    let (batcher, task) = CheckInBatcher::new(testbed.store.clone(), 4_096);
    drop(task);
    let refused = batcher.snapshot(Vec::new()).await;
    assert!(matches!(refused, Err(FleetError::Stopping)), "{refused:?}");
}

/// A publisher without HTTP drops its `Fleet`; its tasks must still run until they are stopped.
#[tokio::test]
async fn the_tasks_run_until_the_stop_also_without_a_fleet() {
    let mut testbed = Testbed::new().await;
    let (replacement, _tasks) = Fleet::new(
        testbed.store.clone(),
        4_096,
        Duration::from_secs(3_600),
        None,
        Default::default(),
        testbed.metrics.clone(),
    );
    drop(std::mem::replace(&mut testbed.fleet, replacement));
    let ended = tokio::time::timeout(Duration::from_millis(200), testbed.tasks.join_next()).await;
    assert!(ended.is_err(), "a task ended before the stop: {ended:?}");
    testbed.stop.cancel();
    while let Some(ended) = testbed.tasks.join_next().await {
        ended.expect("no panic").expect("no error");
    }
}
