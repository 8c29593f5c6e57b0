//! Events of a publisher that counts revisions.

use super::*;

/// A publisher whose collection A is at the returned revision, with a change log that holds
/// revision 8 only.
pub(super) fn at_revision_8() -> (Arc<AtomicU64>, impl Fn(&str) -> (u16, String)) {
    let feed = feed_of(vec![change("x", 8, Some(json!({"v": 8})))], false);
    let revision = Arc::new(AtomicU64::new(7));
    let now = Arc::clone(&revision);
    let answer = move |path: &str| {
        let revision = now.load(Ordering::Relaxed);
        let documents = [document("x", revision, &json!({"v": revision}))];
        match path {
            "/v1/replicas/test" => (200, checked_in(revision, &[])),
            "/v1/changes?since=A:7&epoch=0f86d081-1" => (200, feed.clone()),
            "/v1/snapshot?collections=A,B" => (200, snapshot_of(EPOCH, revision, &documents)),
            "/v1/collections/A/changes?since=7&limit=1&epoch=0f86d081-1" => (200, feed.clone()),
            "/v1/collections/A/changes?since=8&limit=1&epoch=0f86d081-1" => (200, feed.clone()),
            _ => (503, String::new()),
        }
    };
    (revision, answer)
}

#[tokio::test]
async fn events_are_applied_counted_by_decision_and_fetched() {
    let (_revision, answer) = at_revision_8();
    with_publisher(answer, async |replica| {
        following(
            &replica,
            eventually("loaded", || replica.view().root().loaded()),
        )
        .await;
        let send = async |data| {
            replica
                .receive(data, Some(chrono::DateTime::UNIX_EPOCH))
                .await
        };

        assert_eq!(
            send(event("Update", "x", 8, None)).await,
            EventOutcome::Success
        );
        assert_eq!(held(&replica, "x").as_deref(), Some(r#"{"v":8}"#));
        assert_eq!(
            send(event("Update", "x", 8, None)).await,
            EventOutcome::Success
        );
        // The log answers with another revision, so the value cannot be had.
        assert!(matches!(
            send(event("Update", "x", 9, None)).await,
            EventOutcome::Retry { .. }
        ));
        // A checksum that does not hold: the record is fetched instead, and it cannot be had here.
        let mut damaged = event("Update", "x", 11, Some(json!({"v": 11})));
        damaged["configData"]["v"] = json!(12);
        assert!(matches!(send(damaged).await, EventOutcome::Retry { .. }));
        assert_eq!(
            send(event("Update", "x", 10, Some(json!({"v": 10})))).await,
            EventOutcome::Success
        );
        assert_eq!(
            send(event("Update", "x", 9, Some(json!({"v": 9})))).await,
            EventOutcome::Success
        );
        assert_eq!(held(&replica, "x").as_deref(), Some(r#"{"v":10}"#));
        let mut foreign = event("Delete", "x", 12, None);
        foreign["epoch"] = json!("0f86d081-2");
        assert_eq!(send(foreign).await, EventOutcome::Success);
        assert!(held(&replica, "x").is_some());

        let expected = EventCounts {
            applied: 2,
            duplicate: 1,
            superseded: 1,
            other_epoch: 1,
            fetched: 1,
            retried: 2,
            ..EventCounts::default()
        };
        assert_eq!(counts(&replica), expected);
    })
    .await;
}

/// Whoever can send events must not be able to send as many requests to the publishers.
#[tokio::test]
async fn an_event_waits_for_a_place_before_its_value_is_requested() {
    let (_revision, answer) = at_revision_8();
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&requests);
    let answer = move |path: &str| {
        if path.contains("limit=1") {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        answer(path)
    };
    with_publisher(answer, async |replica| {
        let loaded = eventually("loaded", || replica.view().root().loaded());
        following(&replica, loaded).await;
        let places = &replica.intake().source.value_requests;
        let taken = places.acquire_many(crate::source::VALUE_REQUESTS as u32);
        let taken = taken.await.expect("no value is requested");
        let near = || replica.receive(event("Update", "x", 8, None), None);
        let outcome = near().await;
        assert!(matches!(outcome, EventOutcome::Retry { .. }), "{outcome:?}");
        assert_eq!(requests.load(Ordering::Relaxed), 0);
        drop(taken);
        assert_eq!(near().await, EventOutcome::Success);
        assert_eq!(requests.load(Ordering::Relaxed), 1);
    })
    .await;
}

#[tokio::test]
async fn events_without_a_revision_lead_to_one_check_in() {
    let (revision, answer) = at_revision_8();
    let check_ins = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&check_ins);
    let answer = move |path: &str| {
        if path == "/v1/replicas/test" {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        answer(path)
    };
    with_publisher(answer, async |replica| {
        let change = json!({"collection": "A", "op": "Delete", "id": "x"});
        following(&replica, async {
            eventually("loaded", || check_ins.load(Ordering::Relaxed) == 1).await;
            revision.store(8, Ordering::Relaxed);
            for _ in 0..100 {
                assert_eq!(
                    replica.receive(change.clone(), None).await,
                    EventOutcome::Success
                );
            }
            assert!(
                held(&replica, "x").is_some(),
                "the event alone changes nothing"
            );
            eventually("in step", || replica.status().collections[0].revision == 8).await;
            assert_eq!(check_ins.load(Ordering::Relaxed), 2);
            assert_eq!(counts(&replica).without_revision, 100);
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn invalid_events_are_dropped_and_at_most_32_are_remembered() {
    let replica = replica(Vec::new());
    let invalid = [
        (json!("text"), "wrong-type"),
        (json!([1]), "wrong-type"),
        (
            json!({"collection": "A", "op": "update", "id": "x", "revision": 1}),
            "wrong-type",
        ),
        (
            json!({"collection": "A", "op": "Update", "id": {}}),
            "wrong-type",
        ),
        (
            json!({"collection": "A", "op": "Update", "id": "a/b"}),
            "wrong-type",
        ),
        (
            json!({"collection": "A", "op": "Update", "id": "x", "revision": -1}),
            "wrong-type",
        ),
        (
            json!({"collection": "A", "op": "Update", "id": "x", "configData": 5, "revision": 1}),
            "wrong-type",
        ),
        (
            json!({"collection": "A", "op": "Update", "id": "x".repeat(100_000)}),
            "wrong-type",
        ),
    ];
    for _ in 0..5 {
        for (data, expected) in &invalid {
            let answer = replica.receive(data.clone(), None).await;
            assert!(
                matches!(answer, EventOutcome::Drop { reason, .. } if reason == *expected),
                "{data}: {answer:?}"
            );
        }
    }
    for ignored in [
        json!({}),
        json!({"collection": 5}),
        json!({"collection": "Unknown", "op": 7}),
        // Of an event without a revision the source document says so (requirement A23).
        json!({"collection": "A"}),
        json!({"collection": "A", "op": "update", "id": "x"}),
        Value::Null,
    ] {
        assert_eq!(replica.receive(ignored, None).await, EventOutcome::Success);
    }
    let status = replica.status();
    assert_eq!(
        (
            status.events.dropped,
            status.events.ignored,
            status.drops.len()
        ),
        (40, 6, 32)
    );
    assert!(status.drops.iter().all(|drop| drop.error.len() <= 300));
}

#[tokio::test]
async fn an_event_before_the_first_load_waits_for_it() {
    let body = snapshot_of(EPOCH, 7, &[document("x", 7, &json!({"v": 7}))]);
    with_publisher(
        move |_path| (200, body.clone()),
        async |replica| {
            assert_eq!(
                replica
                    .receive(event("Update", "x", 8, Some(json!({"v": 8}))), None)
                    .await,
                EventOutcome::Success
            );
            assert_eq!((held(&replica, "x"), counts(&replica).early), (None, 1));
            following(
                &replica,
                eventually("loaded", || replica.view().root().loaded()),
            )
            .await;
            assert_eq!(held(&replica, "x").as_deref(), Some(r#"{"v":8}"#));
        },
    )
    .await;
}
