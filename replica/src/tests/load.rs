//! Loads: which are installed, which are refused, and what stays.

use super::*;

#[tokio::test]
async fn the_first_load_makes_the_replica_current() {
    let body = snapshot_of(EPOCH, 7, &[document("x", 7, &json!({"v": 7}))]);
    with_publisher(
        move |path| match path {
            "/v1/snapshot?collections=A,B" => (200, body.clone()),
            _ => not_found(),
        },
        async |replica| {
            assert_eq!(replica.status().state, ReplicaState::Loading);
            following(
                &replica,
                eventually("loaded", || replica.status().state == ReplicaState::Current),
            )
            .await;
            let status = replica.status();
            assert_eq!(
                status.epoch,
                Some(EPOCH.parse::<Epoch>().expect("an epoch"))
            );
            assert_eq!(
                status
                    .collections
                    .iter()
                    .map(|row| row.revision)
                    .collect::<Vec<_>>(),
                [7, 0]
            );
            assert_eq!(held(&replica, "x").as_deref(), Some(r#"{"v":7}"#));
        },
    )
    .await;
}

#[tokio::test]
async fn a_snapshot_that_is_not_proven_complete_is_refused() {
    let whole = snapshot_of(
        EPOCH,
        7,
        &[
            document("x", 7, &json!({"v": 7})),
            document("y", 6, &json!({"v": 6})),
        ],
    );
    let lines: Vec<&str> = whole.lines().collect();
    let bad = [
        ("empty", String::new()),
        ("no end line", whole[..whole.len() - 27].to_owned()),
        ("cut in an item", whole[..whole.len() - 60].to_owned()),
        (
            "an item short",
            [lines[0], lines[1], r#"{"end":true,"count":1}"#].join("\n"),
        ),
        (
            "a wrong count",
            whole.replace(r#""count":2}"#, r#""count":3}"#),
        ),
        ("a damaged value", whole.replace(r#"{"v":6}"#, r#"{"v":9}"#)),
        (
            "an item twice",
            [lines[0], lines[1], lines[1], lines[3]].join("\n"),
        ),
        (
            "a collection short",
            whole.replace(r#""collection":"B""#, r#""collection":"C""#),
        ),
        ("an endless line", "x".repeat(6 * 1024 * 1024)),
        ("a page of something else", "<html>\n".to_owned()),
    ];
    for (what, body) in bad {
        with_publisher(
            move |_path| (200, body.clone()),
            async |replica| {
                let root = replica.view().root().clone();
                let error = replica.source().snapshot(&root).await.expect_err(what);
                assert!(!replica.view().root().loaded(), "{what}: {error}");
            },
        )
        .await;
    }
}

#[tokio::test]
async fn a_failed_load_is_tried_again() {
    let (calls, body) = (AtomicUsize::new(0), snapshot_of(EPOCH, 0, &[]));
    with_publisher(
        move |path| match calls.fetch_add(1, Ordering::Relaxed) {
            _ if path.starts_with("/v1/replicas") => (200, checked_in(0, &[])),
            0 => (500, String::new()),
            1 => (200, body[..body.len() - 10].to_owned()),
            _ => (200, body.clone()),
        },
        async |replica| {
            following(&replica, async {
                eventually("a failure", || replica.status().last_error.is_some()).await;
                assert_eq!(replica.status().state, ReplicaState::Loading);
                eventually("loaded", || replica.status().state == ReplicaState::Current).await;
                eventually("no error", || replica.status().last_error.is_none()).await;
            })
            .await;
        },
    )
    .await;
}

#[tokio::test]
async fn good_values_are_never_replaced_by_another_store_or_an_older_history() {
    let documents = [document("x", 7, &json!({"v": 7}))];
    let offer = Arc::new(Mutex::new((
        200,
        snapshot_of(EPOCH, 7, &documents),
        heads_of(EPOCH, 7),
    )));
    let offered = Arc::clone(&offer);
    let answer = move |path: &str| {
        let (status, snapshot, heads) = offered.lock().expect("not poisoned").clone();
        (
            status,
            if path.starts_with("/v1/snapshot") {
                snapshot
            } else {
                heads
            },
        )
    };
    with_publisher(answer, async |replica| {
        following(
            &replica,
            eventually("loaded", || replica.view().root().loaded()),
        )
        .await;
        let other = "11111111-1";
        let bad = [
            (
                "another store",
                (200, snapshot_of(other, 9, &documents), heads_of(other, 9)),
                Some("other-store"),
            ),
            (
                "a blank store",
                (200, snapshot_of(other, 0, &[]), heads_of(other, 0)),
                Some("other-store"),
            ),
            (
                "an old copy",
                (200, snapshot_of(EPOCH, 6, &[]), heads_of(EPOCH, 6)),
                None,
            ),
            (
                "no heads",
                (200, String::new(), r#"{"heads":[]}"#.to_owned()),
                None,
            ),
            ("404", (404, String::new(), String::new()), None),
            ("lists", (200, "[]".to_owned(), "[]".to_owned()), None),
        ];
        for (what, bad, reason) in bad {
            *offer.lock().expect("not poisoned") = bad;
            let failed = |replica: &Replica| replica.status().last_error.is_some();
            // A new run checks in at once; a run that was in step before clears the error first.
            replica.stats().set_last_error(None);
            following(&replica, eventually(what, || failed(&replica))).await;
            let status = replica.status();
            assert_eq!(
                (status.collections[0].count, status.collections[0].revision),
                (1, 7),
                "{what}"
            );
            if let Some(reason) = reason {
                assert_eq!(
                    (status.state, status.collections[0].reason.as_deref()),
                    (ReplicaState::Stale, Some(reason)),
                    "{what}"
                );
            }
        }
        *offer.lock().expect("not poisoned") =
            (200, snapshot_of(EPOCH, 7, &documents), heads_of(EPOCH, 7));
        following(
            &replica,
            eventually("current again", || {
                replica.status().state == ReplicaState::Current
            }),
        )
        .await;
        let newer = [document("z", 9, &json!({}))];
        *offer.lock().expect("not poisoned") = (
            200,
            snapshot_of("0f86d081-2", 9, &newer),
            heads_of("0f86d081-2", 9),
        );
        following(
            &replica,
            eventually("a newer history", || held(&replica, "z").is_some()),
        )
        .await;
        assert_eq!(held(&replica, "x"), None);
    })
    .await;
}

#[tokio::test]
async fn an_unknown_collection_is_no_sign_of_a_publisher_without_revisions() {
    let problem = Problem::new(
        contract::ProblemKind::UnknownCollection,
        "There is no collection B",
    );
    let problem = serde_json::to_string(&problem).expect("json");
    let answer = move |path: &str| match path {
        "/v1/snapshot?collections=A,B" => (404, problem.clone()),
        _ => (200, "[]".to_owned()),
    };
    with_publisher(answer, async |replica| {
        following(
            &replica,
            eventually("a failure", || replica.status().last_error.is_some()),
        )
        .await;
        assert_eq!(replica.status().state, ReplicaState::Loading);
    })
    .await;
}

#[tokio::test]
async fn a_collection_that_no_publisher_serves_is_named_and_does_not_hold_up_the_others() {
    let detail = "There is no collection \"B\" here; add it to AURA_CONFIGURATION_COLLECTIONS.";
    let problem = Problem::new(contract::ProblemKind::UnknownCollection, detail);
    let problem = serde_json::to_string(&problem).expect("json");
    let documents = [document("x", 7, &json!({"v": 7}))];
    let both = snapshot_of(EPOCH, 7, &documents);
    // The publisher serves A alone, until it is restarted.
    let serves_both = Arc::new(AtomicBool::new(false));
    let restarted = Arc::clone(&serves_both);
    let loads = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&loads);
    let answer = move |path: &str| {
        let all = restarted.load(Ordering::Relaxed);
        let without_b = |heads: String| {
            let mut answer: Value = serde_json::from_str(&heads).expect("json");
            answer["heads"]
                .as_array_mut()
                .expect("heads")
                .retain(|head| all || head["collection"] == "A");
            answer.to_string()
        };
        match path {
            "/v1/snapshot?collections=A,B" if !all => (404, problem.clone()),
            "/v1/snapshot?collections=A,B" => (200, both.clone()),
            "/v1/snapshot?collections=A" => {
                counted.fetch_add(1, Ordering::Relaxed);
                let (start, rest) = both.split_once('\n').expect("lines");
                (200, format!("{}\n{rest}", without_b(start.to_owned())))
            }
            "/v1/collections" => (200, without_b(heads_of(EPOCH, 7))),
            _ => (200, without_b(checked_in(7, &[]))),
        }
    };
    with_listener(
        move |path, _body| answer(path),
        async |url| {
            let replica = Replica::new(Config {
                check_in: Duration::from_millis(100),
                ..settings(vec![nobody(), url])
            })
            .expect("a client");
            let row = |name: &str| {
                let status = replica.status();
                let row =
                    |row: &&contract::status::CollectionStatus| row.collection.as_str() == name;
                let row = status.collections.iter().find(row).expect("a row");
                (row.state, row.reason.clone())
            };
            following(&replica, async {
                eventually("A is current", || row("A").0 == ReplicaState::Current).await;
                assert_eq!(held(&replica, "x").as_deref(), Some(r#"{"v":7}"#));
                let of_b = (ReplicaState::Loading, Some("unknown-collection".to_owned()));
                assert_eq!(row("B"), of_b);
                let confirmed = replica.view().confirmed_at;
                eventually("check-ins go on to confirm A", || {
                    replica.view().confirmed_at > confirmed
                })
                .await;
                let error = replica.status().last_error.expect("an error");
                assert!(error.contains("no publisher serves B"), "{error}");
                assert!(error.contains("Unknown collection (404)"), "{error}");
                assert!(error.contains(detail), "{error}");
                assert_eq!(
                    loads.load(Ordering::Relaxed),
                    1,
                    "one load, not one per check-in"
                );
                // It is served later: the replica takes it up by itself.
                serves_both.store(true, Ordering::Relaxed);
                eventually("B is current", || row("B").0 == ReplicaState::Current).await;
                eventually("no error", || replica.status().last_error.is_none()).await;
                assert!(replica.view().loaded());
            })
            .await;
        },
    )
    .await;
}

/// One document of B is refused: a load of both collections brought neither.
#[tokio::test]
async fn a_collection_with_a_refused_document_is_named_and_does_not_hold_up_the_others() {
    let detail = "the stored document b of B is damaged and the change log does not have it";
    let problem = Problem::new(contract::ProblemKind::Unreadable, detail);
    let problem = serde_json::to_string(&problem).expect("json");
    let both = snapshot_of(EPOCH, 7, &[document("x", 7, &json!({"v": 7}))]);
    let (start, rest) = both.split_once('\n').expect("lines");
    let mut start: Value = serde_json::from_str(start).expect("json");
    let heads = start["heads"].as_array_mut().expect("heads");
    heads.retain(|head| head["collection"] == "A");
    let only_a = format!("{start}\n{rest}");
    // Broken off, or refused before the first byte.
    for broken in [
        (200, both[..both.len() - 10].to_owned()),
        (500, problem.clone()),
    ] {
        let loads = Arc::new(AtomicUsize::new(0));
        let (counted, problem, only_a) = (Arc::clone(&loads), problem.clone(), only_a.clone());
        let answer = move |path: &str, _body: &[u8]| match path {
            "/v1/snapshot?collections=A,B" => {
                counted.fetch_add(1, Ordering::Relaxed);
                broken.clone()
            }
            "/v1/snapshot?collections=A" => (200, only_a.clone()),
            "/v1/snapshot?collections=B" => (500, problem.clone()),
            _ => (200, checked_in(7, &[])),
        };
        with_listener(answer, async |url| {
            let replica = Replica::new(Config {
                check_in: Duration::from_millis(50),
                ..settings(vec![url])
            })
            .expect("a client");
            let state = |name: &str| {
                let status = replica.status();
                let mut rows = status.collections.iter();
                let row = rows.find(|row| row.collection.as_str() == name);
                row.expect("a row").state
            };
            following(&replica, async {
                eventually("A is current", || state("A") == ReplicaState::Current).await;
                assert_eq!(held(&replica, "x").as_deref(), Some(r#"{"v":7}"#));
                assert_eq!(state("B"), ReplicaState::Loading);
                let confirmed = replica.view().confirmed_at;
                eventually("check-ins go on to confirm A", || {
                    replica.view().confirmed_at > confirmed
                })
                .await;
                let error = replica.status().last_error.expect("an error");
                assert!(error.contains("B cannot be loaded"), "{error}");
                assert!(error.contains(detail), "{error}");
                assert!(!error.contains("is it running"), "{error}");
                assert_eq!(
                    loads.load(Ordering::Relaxed),
                    1,
                    "not one load per check-in"
                );
            })
            .await;
        })
        .await;
    }
}
