//! What a check-in reports, and what the replica does with the answer.

use contract::fleet::{CheckIn, CheckInAnswer};

use super::*;
use crate::RawCollection as Collection;

#[tokio::test]
async fn a_check_in_reports_the_watermarks_of_the_replica() {
    let received = Arc::new(Mutex::new(Vec::new()));
    let reports = Arc::clone(&received);
    let answer = move |path: &str, body: &[u8]| match path {
        "/v1/replicas/test" => {
            let report: CheckIn = serde_json::from_slice(body).expect("a check-in");
            reports.lock().expect("not poisoned").push(report);
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
            eventually("a check-in", || {
                !received.lock().expect("not poisoned").is_empty()
            }),
        )
        .await;
        let mut received = received.lock().expect("not poisoned");
        // It was asked to stop: soon nobody waits for it.
        let last = received.pop().expect("a check-in");
        assert_eq!(last.interval_ms, 1);
        let check_in = received.pop().expect("a check-in before the last");
        assert_eq!(last.boot_id, check_in.boot_id);
        let held = replica
            .view()
            .root()
            .collection(&name("A"))
            .and_then(Collection::last_settled);
        let row = &check_in.collections[&name("A")];
        assert_eq!(
            (row.revision, row.known, row.state),
            (7, 7, ReplicaState::Current)
        );
        assert_eq!(
            (
                row.epoch.map(|epoch| epoch.to_string()).as_deref(),
                row.settled
            ),
            (Some(EPOCH), held)
        );
        assert_eq!(
            (check_in.boot_id, check_in.interval_ms),
            (replica.status().boot_id, 40)
        );
        assert_eq!(check_in.base_url.as_deref(), Some("http://127.0.0.1:8081"));
    })
    .await;
}

#[tokio::test]
async fn a_collection_that_diverged_is_loaded_again_and_counted() {
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
            eventually("loaded again", || replica.status().sync.resets == 1),
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

/// A replica that follows a subscriber has nobody who compares the digests for it.
#[tokio::test]
async fn a_replica_compares_the_digests_by_itself() {
    let (right, wrong) = (
        document("x", 7, &json!({"v": 7})),
        document("x", 7, &json!({"v": "wrong"})),
    );
    let heads = vec![
        head("A", EPOCH, 7, std::slice::from_ref(&right)),
        head("B", EPOCH, 0, &[]),
    ];
    let loads = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&loads);
    let answer = move |path: &str| match path {
        // As a subscriber answers: it orders no load.
        "/v1/replicas/test" => {
            let answer = CheckInAnswer {
                heads: heads.clone(),
                ..Default::default()
            };
            (200, serde_json::to_string(&answer).expect("json"))
        }
        _ if counted.fetch_add(1, Ordering::Relaxed) == 0 => {
            (200, snapshot_of(EPOCH, 7, std::slice::from_ref(&wrong)))
        }
        _ => (200, snapshot_of(EPOCH, 7, std::slice::from_ref(&right))),
    };
    with_publisher(answer, async |replica| {
        following(
            &replica,
            eventually("loaded again", || replica.status().sync.resets == 1),
        )
        .await;
        assert_eq!(held(&replica, "x").as_deref(), Some(r#"{"v":7}"#));
        // Equal digests are no alarm.
        replica.check_ins().check_in().await.expect("an answer");
        assert_eq!(
            (loads.load(Ordering::Relaxed), replica.status().sync.resets),
            (2, 1)
        );
    })
    .await;
}

/// A subscriber with a gap holds later changes already, so the digest of its head is not that of
/// its revision.
#[tokio::test]
async fn the_digest_of_an_unsettled_source_is_no_alarm() {
    let right = document("x", 7, &json!({"v": 7}));
    let answer = move |path: &str| match path {
        "/v1/replicas/test" => (200, checked_in(7, &[])),
        _ => (200, snapshot_of(EPOCH, 7, std::slice::from_ref(&right))),
    };
    with_publisher(answer, async |replica| {
        following(
            &replica,
            eventually("loaded", || replica.view().root().loaded()),
        )
        .await;
        replica.check_ins().check_in().await.expect("an answer");
        assert_eq!(replica.status().sync.resets, 0);
        assert_eq!(replica.status().state, ReplicaState::Current);
    })
    .await;
}

#[tokio::test]
async fn the_age_of_an_answer_counts_before_its_request() {
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
        let confirmed = replica.view().confirmed_at;
        replica.check_ins().check_in().await.expect("an answer");
        assert_eq!(
            replica.view().confirmed_at,
            confirmed,
            "heads of an hour ago confirm nothing new"
        );
    })
    .await;
}

/// What the replica holds of other collections may be the only evidence that a database was restored.
#[tokio::test]
async fn a_replica_that_lacks_a_collection_checks_in_before_it_loads() {
    let received = Arc::new(AtomicU64::new(0));
    let report = Arc::clone(&received);
    let behind = move |path: &str, body: &[u8]| match path {
        "/v1/replicas/test" => {
            let check_in: CheckIn = serde_json::from_slice(body).expect("a check-in");
            report.store(check_in.collections[&name("A")].revision, Ordering::Relaxed);
            (200, checked_in(5, &[]))
        }
        _ => (200, snapshot_of(EPOCH, 5, &[])),
    };
    with_listener(behind, async |url| {
        let replica = replica(vec![url]);
        let mut partial = state::Machine::new(&BTreeSet::from([name("A")]));
        let load = partial.begin_load();
        let heads = vec![head("A", EPOCH, 7, &[])];
        let builder = state::Snapshot::begin(snapshot::SnapshotStart {
            epoch: EPOCH.parse().expect("an epoch"),
            heads,
        });
        let snapshot = builder
            .complete(
                &snapshot::SnapshotEnd {
                    end: true,
                    count: 0,
                },
                partial.root(),
            )
            .expect("complete");
        partial.install(load, snapshot).expect("installed");
        let mut image = Vec::new();
        partial
            .root()
            .write_image(&state::image::ImageMeta::default(), &mut image)
            .expect("written");
        let image = state::Image::read(image.as_slice()).expect("intact");
        replica.cache().restore(image, None);
        assert_eq!(
            replica
                .view()
                .root()
                .collections()
                .filter(|(_name, held)| held.loaded())
                .count(),
            1
        );
        assert!(!replica.view().root().loaded());
        following(
            &replica,
            eventually("a check-in", || received.load(Ordering::Relaxed) == 7),
        )
        .await;
    })
    .await;
}

/// A publisher of another store must not hide one of the right store.
#[tokio::test]
async fn a_publisher_of_another_store_is_skipped() {
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
            let restored = Replica::new(settings(vec![wrong, right])).expect("a client");
            let mut image = Vec::new();
            replica
                .view()
                .root()
                .write_image(&state::image::ImageMeta::default(), &mut image)
                .expect("written");
            let image = state::Image::read(image.as_slice()).expect("intact");
            restored.cache().restore(image, None);
            restored.cache().open();
            restored
                .check_ins()
                .check_in()
                .await
                .expect("the right one answers");
            assert_eq!(
                (restored.status().state, held(&restored, "x").as_deref()),
                (ReplicaState::Current, Some(r#"{"v":7}"#))
            );
        })
        .await;
    })
    .await;
}

/// The replica was away during the renewal: it starts with the image of the lineage before.
#[tokio::test]
async fn a_renewed_lineage_is_followed_and_another_one_is_not() {
    let lineages = Arc::new(Mutex::new(r#"["0f86d082"]"#));
    let offered = Arc::clone(&lineages);
    let answer = move |path: &str| {
        let renewed = "22222222-1";
        let body = match path {
            "/v1/replicas/test" => heads_of(renewed, 7),
            _ => snapshot_of(renewed, 7, &[document("x", 7, &json!({"v": 8}))]),
        };
        let lineages = *offered.lock().expect("not poisoned");
        let named = format!(r#""oldest":1,"replaces":{lineages}}}"#);
        (200, body.replace(r#""oldest":1}"#, &named))
    };
    let old = snapshot_of(EPOCH, 7, &[document("x", 7, &json!({"v": 7}))]);
    let mut image = Vec::new();
    with_publisher(
        move |_path| (200, old.clone()),
        async |replica| {
            following(&replica, eventually("loaded", || replica.view().loaded())).await;
            replica
                .view()
                .root()
                .write_image(&state::image::ImageMeta::default(), &mut image)
                .expect("written");
        },
    )
    .await;
    with_publisher(answer, async |replica| {
        let image = state::Image::read(image.as_slice()).expect("intact");
        replica.cache().restore(image, None);
        replica.cache().open();
        let refused = replica.check_ins().check_in().await;
        refused.expect_err("it replaces another lineage");
        assert_eq!(
            replica.status().collections[0].reason.as_deref(),
            Some("other-store")
        );
        assert_eq!(held(&replica, "x").as_deref(), Some(r#"{"v":7}"#));
        *lineages.lock().expect("not poisoned") = r#"["0f86d082","0f86d081"]"#;
        for _again in 0..2 {
            replica.check_ins().check_in().await.expect("followed");
        }
        assert_eq!(
            (replica.status().state, held(&replica, "x").as_deref()),
            (ReplicaState::Current, Some(r#"{"v":8}"#))
        );
        // Replicas that follow this one have to learn of it as well.
        let ours = EPOCH.parse().expect("an epoch");
        assert!(replica.view().root().replaces().includes(ours));
    })
    .await;
}

/// The instances that checked in, with the revision of A that each reported.
type Reports = Arc<Mutex<Vec<(String, u64)>>>;

/// A publisher at the revision `current`. It asks the replica `early` for early
/// check-ins and no other replica. The revisions of A that each check-in reported are added to `log`.
fn reporting_publisher(
    current: Arc<AtomicU64>,
    log: Reports,
) -> impl Fn(&str, &[u8]) -> (u16, String) {
    move |path: &str, body: &[u8]| {
        let revision = current.load(Ordering::Relaxed);
        let Some(instance) = path.strip_prefix("/v1/replicas/") else {
            let documents = [document("x", revision, &json!({"v": revision}))];
            return (200, snapshot_of(EPOCH, revision, &documents));
        };
        let check_in: CheckIn = serde_json::from_slice(body).expect("a check-in");
        log.lock().expect("not poisoned").push((
            instance.to_owned(),
            check_in.collections[&name("A")].revision,
        ));
        let mut answer: CheckInAnswer =
            serde_json::from_str(&checked_in(revision, &[])).expect("an answer");
        answer.report_after_ms = (instance == "early").then_some(50);
        (200, serde_json::to_string(&answer).expect("json"))
    }
}

#[tokio::test]
async fn a_moved_watermark_is_reported_early_if_the_publisher_asks_for_it() {
    let revision = Arc::new(AtomicU64::new(7));
    let reports = Reports::default();
    let answer = reporting_publisher(revision.clone(), reports.clone());
    with_listener(answer, async |url| {
        let build = |instance: &str| {
            let config = Config {
                instance: instance.to_owned(),
                ..settings(vec![url.clone()])
            };
            Replica::new(config).expect("a client")
        };
        let early = build("early");
        let plain = build("plain");
        let reported = |instance: &str| -> Vec<u64> {
            let reports = reports.lock().expect("not poisoned");
            let of_instance = reports.iter().filter(|report| report.0 == instance);
            of_instance.map(|report| report.1).collect()
        };
        let test = async {
            eventually("both checked in", || {
                reported("early") == [7] && reported("plain") == [7]
            })
            .await;
            for first in [8, 11] {
                revision.store(first + 2, Ordering::Relaxed);
                let started = Instant::now();
                for revision in first..first + 3 {
                    let data = event("Update", "x", revision, Some(json!({"v": revision})));
                    for replica in [&early, &plain] {
                        let outcome = replica.receive(data.clone(), None).await;
                        assert_eq!(outcome, EventOutcome::Success);
                    }
                }
                eventually("an early check-in", || {
                    reported("early").last() == Some(&(first + 2))
                })
                .await;
                assert!(started.elapsed() >= Duration::from_millis(300));
            }
            assert_eq!(reported("early"), [7, 10, 13], "changes are gathered");
            assert_eq!(
                reported("plain"),
                [7],
                "nothing asked it for early check-ins"
            );
        };
        following(&early, following(&plain, test)).await;
    })
    .await;
}

/// Runs `test` with a replica of these settings that gets every change by the feed alone: revision 8
/// of A. The first check-in fails.
async fn without_events(
    change: impl FnOnce(Config) -> Config,
    test: impl AsyncFnOnce(Replica, Arc<Mutex<Vec<CheckIn>>>),
) {
    let received = Arc::new(Mutex::new(Vec::new()));
    let reports = Arc::clone(&received);
    let asked = AtomicUsize::new(0);
    let answer = move |path: &str, body: &[u8]| {
        if path.starts_with("/v1/snapshot") {
            return (
                200,
                snapshot_of(EPOCH, 7, &[document("x", 7, &json!({"v": 7}))]),
            );
        }
        if path.contains("/changes") {
            let of_a = self::change("x", 8, Some(json!({"v": 8})));
            return (200, feed_of(vec![of_a], false));
        }
        reports
            .lock()
            .expect("not poisoned")
            .push(serde_json::from_slice::<CheckIn>(body).expect("a check-in"));
        match asked.fetch_add(1, Ordering::Relaxed) {
            0 => (503, String::new()),
            _ => (200, checked_in(8, &[])),
        }
    };
    with_listener(answer, async |url| {
        let config = Config {
            check_in: Duration::from_millis(40),
            ..settings(vec![url])
        };
        let replica = Replica::new(change(config)).expect("a client");
        following(&replica, test(replica.clone(), received)).await;
    })
    .await;
}

#[tokio::test]
async fn a_local_replica_that_names_no_url_reports_after_one_lost_change_that_it_is_not_reached() {
    use contract::fleet::{IntakeFault, Transport};
    let local = |config: Config| Config {
        events: Events::Local,
        ..config
    };
    without_events(local, async |replica, received| {
        eventually("reported", || {
            let received = received.lock().expect("not poisoned");
            received.last().is_some_and(|report| {
                (report.intake, report.transport, report.base_url.is_none())
                    == (
                        Some(IntakeFault::NotReceiving),
                        Some(Transport::Local),
                        true,
                    )
            })
        })
        .await;
        // The settings of the publisher may name the replica: an event proves that it is reached.
        let event = event("Update", "x", 9, Some(json!({"v": 9})));
        assert_eq!(replica.receive(event, None).await, EventOutcome::Success);
        assert_eq!(replica.status().intake, None);
    })
    .await;
    let reachable = |config: Config| Config {
        base_url: Some(nobody()),
        ..local(config)
    };
    without_events(reachable, async |replica, _received| {
        eventually("caught up", || {
            held(&replica, "x").as_deref() == Some(r#"{"v":8}"#)
        })
        .await;
        assert_eq!(
            replica.status().intake,
            None,
            "one change may be lost on the way"
        );
    })
    .await;
}

#[tokio::test]
async fn an_error_is_reported_until_a_request_succeeds() {
    without_events(std::convert::identity, async |_replica, received| {
        let reported = || {
            let received = received.lock().expect("not poisoned");
            let errors = received.iter().map(|report| report.last_error.clone());
            errors.collect::<Vec<_>>()
        };
        eventually("reported and over", || {
            matches!(&reported()[..], [None, Some(_), .., None])
        })
        .await;
        let error = reported().remove(1).unwrap_or_default();
        assert!(error.contains("503"), "{error}");
    })
    .await;
}
