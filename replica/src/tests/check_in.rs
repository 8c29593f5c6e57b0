//! What a replica says of itself, and what it makes of the answer.

use contract::fleet::CheckIn;

use super::*;
use crate::RawCollection as Collection;

#[tokio::test]
async fn it_says_where_it_is() {
    let heard = Arc::new(Mutex::new(None));
    let hears = Arc::clone(&heard);
    let answer = move |path: &str, body: &[u8]| match path {
        "/v1/replicas/test" => {
            *hears.lock().expect("unharmed") =
                Some(serde_json::from_slice::<CheckIn>(body).expect("a check-in"));
            (200, checked_in(7, &[]))
        }
        _ => (
            200,
            snapshot_of(EPOCH, 7, &[document("x", 7, &json!({"v": 7}))]),
        ),
    };
    with_listener(answer, async |url| {
        let config = Config {
            base_url: Some(Url::parse("http://127.0.0.1:8081").expect("a URL")),
            check_in: Duration::from_millis(40),
            ..settings(vec![url])
        };
        let replica = Replica::new(config).expect("a client");
        following(
            &replica,
            eventually("a check-in", || heard.lock().expect("unharmed").is_some()),
        )
        .await;
        let said = heard.lock().expect("unharmed").take().expect("a check-in");
        let held = replica
            .view()
            .root()
            .collection(&name("A"))
            .and_then(Collection::last_settled);
        let report = &said.collections[&name("A")];
        assert_eq!(
            (report.revision, report.known, report.state),
            (7, 7, ReplicaState::Current)
        );
        assert_eq!(
            (
                report.epoch.map(|epoch| epoch.to_string()).as_deref(),
                report.settled
            ),
            (Some(EPOCH), held)
        );
        assert_eq!(
            (said.boot_id, said.interval_ms),
            (replica.status().boot_id, 40)
        );
        assert_eq!(said.base_url.as_deref(), Some("http://127.0.0.1:8081"));
    })
    .await;
}

#[tokio::test]
async fn a_replica_that_has_diverged_is_loaded_anew_and_says_so() {
    let (right, wrong) = (
        document("x", 7, &json!({"v": 7})),
        document("x", 6, &json!({"v": "wrong"})),
    );
    let loads = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&loads);
    let answer = move |path: &str| match path {
        "/v1/replicas/test" if counted.load(Ordering::Relaxed) == 1 => (200, checked_in(7, &["A"])),
        "/v1/replicas/test" => (200, checked_in(7, &[])),
        _ if counted.fetch_add(1, Ordering::Relaxed) == 0 => {
            (200, snapshot_of(EPOCH, 7, std::slice::from_ref(&wrong)))
        }
        _ => (200, snapshot_of(EPOCH, 7, std::slice::from_ref(&right))),
    };
    with_publisher(answer, async |replica| {
        following(
            &replica,
            eventually("loaded anew", || replica.status().sync.resets == 1),
        )
        .await;
        assert_eq!(held(&replica, "x").as_deref(), Some(r#"{"v":7}"#));
        assert_eq!(
            (
                replica.status().state,
                replica.status().collections[0].reason.clone()
            ),
            (ReplicaState::Current, None)
        );
    })
    .await;
}

#[tokio::test]
async fn an_answer_from_further_down_is_older_by_its_age() {
    let answer = move |path: &str| match path {
        "/v1/replicas/test" => (
            200,
            checked_in(7, &[]).replace(r#""age":0"#, r#""age":3600000"#),
        ),
        _ => (
            200,
            snapshot_of(EPOCH, 7, &[document("x", 7, &json!({"v": 7}))]),
        ),
    };
    with_publisher(answer, async |replica| {
        following(
            &replica,
            eventually("loaded", || replica.view().root().loaded()),
        )
        .await;
        let confirmed = replica.view().confirmed;
        replica.check_in().await.expect("an answer");
        assert_eq!(
            replica.view().confirmed,
            confirmed,
            "an hour ago confirms nothing new"
        );
    })
    .await;
}

/// What it holds of the others may be the only evidence that a database was restored.
#[tokio::test]
async fn a_replica_that_lacks_a_collection_checks_in_all_the_same() {
    let heard = Arc::new(AtomicU64::new(0));
    let hears = Arc::clone(&heard);
    let behind = move |path: &str, body: &[u8]| match path {
        "/v1/replicas/test" => {
            let said: CheckIn = serde_json::from_slice(body).expect("a check-in");
            hears.store(said.collections[&name("A")].revision, Ordering::Relaxed);
            (200, checked_in(5, &[]))
        }
        _ => (200, snapshot_of(EPOCH, 5, &[])),
    };
    with_listener(behind, async |url| {
        let replica = replica(vec![url]);
        let mut part = state::Machine::new(&BTreeSet::from([name("A")]));
        let generation = part.begin_load();
        let heads = vec![head("A", EPOCH, 7, &[])];
        let builder = state::Snapshot::begin(snapshot::SnapshotStart {
            epoch: EPOCH.parse().expect("an epoch"),
            heads,
        });
        let whole = builder
            .complete(
                &snapshot::SnapshotEnd {
                    end: true,
                    count: 0,
                },
                part.root(),
            )
            .expect("complete");
        part.install(generation, whole).expect("installed");
        let mut image = Vec::new();
        part.root()
            .write_image(&state::image::ImageMeta::default(), &mut image)
            .expect("written");
        let image = state::Image::read(image.as_slice()).expect("intact");
        assert!(replica.write(|writer| writer.machine.restore(image)));
        assert!(!replica.view().root().loaded());
        following(
            &replica,
            eventually("a check-in", || heard.load(Ordering::Relaxed) == 7),
        )
        .await;
    })
    .await;
}

/// One publisher that is wrong must not stand before one that is right.
#[tokio::test]
async fn a_publisher_of_another_store_is_passed_over() {
    let right = |path: &str, _body: &[u8]| match path {
        "/v1/replicas/test" => (200, checked_in(7, &[])),
        _ => (
            200,
            snapshot_of(EPOCH, 7, &[document("x", 7, &json!({"v": 7}))]),
        ),
    };
    let other = "11111111-1";
    let wrong = move |path: &str, _body: &[u8]| match path {
        "/v1/replicas/test" => {
            let heads = vec![head("A", other, 9, &[]), head("B", other, 9, &[])];
            (200, json!({ "heads": heads }).to_string())
        }
        _ => (200, snapshot_of(other, 9, &[])),
    };
    with_listener(right, async |right| {
        with_listener(wrong, async |wrong| {
            let replica = replica(vec![right.clone(), wrong.clone()]);
            following(
                &replica,
                eventually("loaded", || replica.view().root().loaded()),
            )
            .await;
            let moved = Replica::new(settings(vec![wrong, right])).expect("a client");
            let mut image = Vec::new();
            replica
                .view()
                .root()
                .write_image(&state::image::ImageMeta::default(), &mut image)
                .expect("written");
            let image = state::Image::read(image.as_slice()).expect("intact");
            assert!(moved.write(|writer| writer.machine.restore(image)));
            moved.check_in().await.expect("the right one answers");
            assert_eq!(
                (moved.status().state, held(&moved, "x").as_deref()),
                (ReplicaState::Current, Some(r#"{"v":7}"#))
            );
        })
        .await;
    })
    .await;
}
