//! Missing changes come by pages of the feed, and by a load where the feed cannot help.

use super::*;

/// The paths that were requested.
type Requests = Arc<Mutex<Vec<String>>>;

/// A publisher whose A is at the returned revision, at first 7, and whose feed gives one change a
/// page.
fn publisher(trimmed: bool) -> (Arc<AtomicU64>, Requests, impl Fn(&str) -> (u16, String)) {
    let (revision, requests) = (Arc::new(AtomicU64::new(7)), Requests::default());
    let (now, log) = (Arc::clone(&revision), Arc::clone(&requests));
    let answer = move |path: &str| {
        log.lock().expect("not poisoned").push(path.to_owned());
        let revision = now.load(Ordering::Relaxed);
        if path.starts_with("/v1/snapshot") {
            let documents = [document("x", revision, &json!({"v": revision}))];
            return (200, snapshot_of(EPOCH, revision, &documents));
        }
        let since = path
            .strip_prefix("/v1/changes?since=A:")
            .and_then(|rest| rest.split('&').next()?.parse::<u64>().ok());
        match since {
            Some(_since) if trimmed => {
                let mut problem = Problem::new(contract::ProblemKind::FeedGone, "It is trimmed");
                problem.reason = Some("trimmed".to_owned());
                (410, serde_json::to_string(&problem).expect("json"))
            }
            Some(since) => {
                let next = change("x", since + 1, Some(json!({"v": since + 1})));
                (200, feed_of(vec![next], since + 1 < revision))
            }
            None => (200, checked_in(revision, &[])),
        }
    };
    (revision, requests, answer)
}

fn requested(requests: &Mutex<Vec<String>>, what: &str) -> usize {
    requests
        .lock()
        .expect("not poisoned")
        .iter()
        .filter(|path| path.starts_with(what))
        .count()
}

/// The publisher goes on to revision 10, of which only the last event comes, and the replica
/// arrives there.
async fn catches_up_with_10(replica: &Replica, revision: &AtomicU64) {
    following(replica, async {
        eventually("loaded", || replica.view().root().loaded()).await;
        revision.store(10, Ordering::Relaxed);
        let last = event("Update", "x", 10, Some(json!({"v": 10})));
        assert_eq!(replica.receive(last, None).await, EventOutcome::Success);
        eventually("changes", || replica.status().collections[0].revision == 10).await;
    })
    .await;
}

#[tokio::test]
async fn a_gap_is_caught_up_by_pages_of_the_feed_after_the_grace() {
    let (revision, requests, answer) = publisher(false);
    with_publisher(answer, async |replica| {
        following(&replica, async {
            eventually("loaded", || replica.view().root().loaded()).await;
            revision.store(10, Ordering::Relaxed);
            let begun = Instant::now();
            let last = event("Update", "y", 10, Some(json!({"v": 10})));
            assert_eq!(replica.receive(last, None).await, EventOutcome::Success);
            assert_eq!(replica.status().collections[0].revision, 7);
            eventually("changes", || replica.status().collections[0].revision == 10).await;
            assert!(
                begun.elapsed() >= Duration::from_millis(200),
                "events may overtake each other"
            );
            assert_eq!(held(&replica, "x").as_deref(), Some(r#"{"v":9}"#));
        })
        .await;
        let counts = replica.status().sync;
        assert_eq!(
            (counts.loads, counts.pages, counts.changes, counts.resets),
            (1, 2, 2, 0)
        );
        assert_eq!(
            (
                requested(&requests, "/v1/snapshot"),
                requested(&requests, "/v1/changes")
            ),
            (1, 2)
        );
    })
    .await;
}

#[tokio::test]
async fn changes_that_the_log_no_longer_holds_come_by_a_load() {
    let (revision, requests, answer) = publisher(true);
    with_publisher(answer, async |replica| {
        catches_up_with_10(&replica, &revision).await;
        assert_eq!(
            (
                replica.status().sync.loads,
                requested(&requests, "/v1/snapshot")
            ),
            (2, 2)
        );
    })
    .await;
}

/// Found by the fault campaign: a history that was named twice left a replica that requested pages
/// and refused them, indefinitely.
#[tokio::test]
async fn a_feed_that_cannot_be_used_leads_to_a_load() {
    let (revision, _requests, answer) = publisher(false);
    let damaging = move |path: &str| {
        let (status, body) = answer(path);
        (
            status,
            if path.starts_with("/v1/changes") {
                body.replace(EPOCH, "0f86d081-9")
            } else {
                body
            },
        )
    };
    with_publisher(damaging, async |replica| {
        catches_up_with_10(&replica, &revision).await;
        assert_eq!(replica.status().sync.loads, 2);
    })
    .await;
}

#[tokio::test]
async fn a_page_with_a_gap_or_a_damaged_value_is_refused() {
    let mut damaged = change("x", 8, Some(json!({"v": 8})));
    damaged.crc = Some(contract::Crc(1));
    let mut foreign = change("x", 8, Some(json!({"v": 8})));
    foreign.epoch = "0f86d081-2".parse().expect("an epoch");
    let valueless = Change {
        op: Operation::Update,
        ..change("x", 8, None)
    };
    let gap = vec![change("x", 8, None), change("x", 10, None)];
    for page in [
        vec![change("x", 9, None)],
        gap,
        vec![damaged],
        vec![foreign],
        vec![valueless],
    ] {
        let body = feed_of(page, false);
        with_publisher(
            move |_path| (200, body.clone()),
            async |replica| {
                let cursor = crate::source::Cursor::from([(name("A"), 7)]);
                let epoch = EPOCH.parse().expect("an epoch");
                let source = replica.source();
                let begun = source
                    .request_page(&cursor, epoch)
                    .await
                    .expect("an answer");
                assert!(source.read_page(begun, &cursor, epoch).await.is_err());
            },
        )
        .await;
    }
}

#[tokio::test]
async fn a_publisher_that_hangs_delays_a_load_by_seconds() {
    // It accepts, in its backlog, and never answers.
    let hung = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let hung = Url::parse(&format!(
        "http://{}",
        hung.local_addr().expect("an address")
    ))
    .map(|url| (hung, url));
    let (_listener, hung) = hung.expect("a URL");
    let (_revision, _requests, answer) = publisher(false);
    let begun = Instant::now();
    with_listener(
        move |path, _body| answer(path),
        async |url| {
            let replica = replica(vec![hung, url]);
            following(
                &replica,
                eventually("loaded", || replica.view().root().loaded()),
            )
            .await;
        },
    )
    .await;
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
}

/// A change of one collection that no publisher has does not delay another collection.
#[tokio::test]
async fn an_unavailable_change_does_not_delay_other_collections() {
    let answer = move |path: &str| {
        if path.starts_with("/v1/snapshot") {
            return (
                200,
                snapshot_of(EPOCH, 7, &[document("x", 7, &json!({"v": 7}))]),
            );
        }
        if path.starts_with("/v1/replicas") {
            return (200, checked_in(7, &[]));
        }
        // The publisher has nothing of A and everything of B.
        let mut change = change("x", 1, Some(json!({"v": 1})));
        change.collection = name("B");
        (
            200,
            feed_of(
                if path.contains("B:0") {
                    vec![change]
                } else {
                    Vec::new()
                },
                false,
            ),
        )
    };
    with_publisher(answer, async |replica| {
        following(&replica, async {
            eventually("loaded", || replica.view().root().loaded()).await;
            assert_eq!(
                replica
                    .receive(event("Update", "y", 9, Some(json!({}))), None)
                    .await,
                EventOutcome::Success
            );
            eventually("a catch-up without a change", || {
                replica.status().sync.pages == 1
            })
            .await;
            let mut other = event("Update", "y", 2, Some(json!({})));
            other["collection"] = json!("B");
            assert_eq!(replica.receive(other, None).await, EventOutcome::Success);
            eventually("the other one catches up", || {
                replica.status().collections[1].revision == 2
            })
            .await;
        })
        .await;
    })
    .await;
}
