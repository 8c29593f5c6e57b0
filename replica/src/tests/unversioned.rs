//! A publisher that follows the source document only.

use super::*;

#[tokio::test]
async fn a_publisher_without_revisions_can_be_followed() {
    let list = Arc::new(Mutex::new(r#"[{"id":"x","v":1}]"#.to_owned()));
    let listed = Arc::clone(&list);
    let answer = move |path: &str| match path {
        "/v1/collections/A/documents" => (200, listed.lock().expect("not poisoned").clone()),
        "/v1/collections/B/documents" => (200, r#"{"items":[]}"#.to_owned()),
        "/v1/collections/A/documents/bare" => (200, r#"{"id":"bare","v":2}"#.to_owned()),
        "/v1/collections/A/documents/own" => (
            200,
            r#"{"id":"own","crc":"","configData":{"v":3}}"#.to_owned(),
        ),
        "/v1/collections/A/documents/other" => (200, r#"{"id":"bare","v":2}"#.to_owned()),
        _ => not_found(),
    };
    with_publisher(answer, async |replica| {
        following(
            &replica,
            eventually("loaded", || replica.status().state == ReplicaState::Current),
        )
        .await;
        let status = replica.status();
        assert_eq!(
            (status.epoch, status.collections[0].reason.as_deref()),
            (None, Some("unversioned"))
        );
        assert_eq!(held(&replica, "x").as_deref(), Some(r#"{"id":"x","v":1}"#));

        let plain = |op: &str, id: &str| json!({"collection": "A", "op": op, "id": id, "crc": ""});
        let with = |id: &str, value: Value| {
            let mut data = plain("Update", id);
            data["configData"] = value;
            data
        };
        let send = async |data| replica.receive(data, None).await;
        assert_eq!(
            send(with("x", json!({"v": 5}))).await,
            EventOutcome::Success
        );
        assert_eq!(held(&replica, "x").as_deref(), Some(r#"{"v":5}"#));
        assert_eq!(send(plain("Create", "bare")).await, EventOutcome::Success);
        assert_eq!(
            held(&replica, "bare").as_deref(),
            Some(r#"{"id":"bare","v":2}"#)
        );
        assert_eq!(send(plain("Update", "own")).await, EventOutcome::Success);
        assert_eq!(held(&replica, "own").as_deref(), Some(r#"{"v":3}"#));
        assert_eq!(send(plain("Delete", "own")).await, EventOutcome::Success);
        assert_eq!(held(&replica, "own"), None);

        let late = replica
            .receive(
                with("x", json!({"v": 6})),
                Some(chrono::DateTime::UNIX_EPOCH),
            )
            .await;
        assert_eq!(
            (late, held(&replica, "x").as_deref()),
            (EventOutcome::Success, Some(r#"{"v":5}"#))
        );
        assert_eq!(counts(&replica).expired, 1);

        // GetById fails, or answers another document: the whole list is read.
        for unknown in ["gone", "other"] {
            *list.lock().expect("not poisoned") = format!(r#"[{{"id":"seen","v":"{unknown}"}}]"#);
            assert_eq!(send(plain("Update", unknown)).await, EventOutcome::Success);
            assert_eq!(
                held(&replica, "seen"),
                Some(format!(r#"{{"id":"seen","v":"{unknown}"}}"#))
            );
        }
        *list.lock().expect("not poisoned") = r#"[{"id":"y"}]"#.to_owned();
        assert_eq!(
            send(plain("Delete", "unknown")).await,
            EventOutcome::Success
        );
        assert_eq!(
            (held(&replica, "seen"), held(&replica, "y").is_some()),
            (None, true)
        );

        // A list that cannot be read costs nothing, and the broker sends the event again.
        *list.lock().expect("not poisoned") = "{}".to_owned();
        assert!(matches!(
            send(plain("Update", "gone")).await,
            EventOutcome::Retry { .. }
        ));
        assert!(held(&replica, "y").is_some());
    })
    .await;
}

#[tokio::test]
async fn callers_that_wait_for_a_list_share_one_that_was_requested_later() {
    let readings = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&readings);
    let answer = move |path: &str| {
        if path == "/v1/collections/A/documents" {
            counted.fetch_add(1, Ordering::Relaxed);
            return (200, "[]".to_owned());
        }
        not_found()
    };
    with_publisher(answer, async |replica| {
        let collection = name("A");
        let loads = (0..50).map(|_| replica.intake().unversioned.load_list(&collection));
        let loaded = futures_util::future::join_all(loads).await;
        assert!(loaded.iter().all(Result::is_ok));
        // All callers but the first share one list.
        assert_eq!(readings.load(Ordering::Relaxed), 2);
    })
    .await;
}
