//! Events that have nothing but the id of a document (requirement D1, D5).

use super::*;

/// The paths that were requested.
type Requests = Arc<Mutex<Vec<String>>>;

/// A publisher with revisions whose A is at the returned revision, at first 7. Each change is of
/// another document.
fn versioned() -> (
    Arc<AtomicU64>,
    Requests,
    impl Fn(&str) -> (u16, String) + Send + Sync + use<>,
) {
    let (revision, requests) = (Arc::new(AtomicU64::new(7)), Requests::default());
    let (now, log) = (Arc::clone(&revision), Arc::clone(&requests));
    let answer = move |path: &str| {
        log.lock().expect("not poisoned").push(path.to_owned());
        let revision = now.load(Ordering::Relaxed);
        if path.starts_with("/v1/snapshot") {
            return (200, snapshot_of(EPOCH, revision, &[]));
        }
        let since = path
            .strip_prefix("/v1/changes?since=A:")
            .and_then(|rest| rest.split('&').next()?.parse::<u64>().ok());
        match since {
            Some(since) => {
                let next = (since < revision)
                    .then(|| change(&format!("d{}", since + 1), since + 1, Some(json!({"v": 1}))));
                let page = feed_of(next.into_iter().collect(), since + 1 < revision);
                (200, page)
            }
            None => (200, checked_in(revision, &[])),
        }
    };
    (revision, requests, answer)
}

fn requested(requests: &Mutex<Vec<String>>, what: &str) -> usize {
    let requests = requests.lock().expect("not poisoned");
    requests.iter().filter(|path| path.contains(what)).count()
}

async fn changed(replica: &Replica, text: &str) -> EventOutcome {
    replica.receive_id(&name("A"), &id(text), None).await
}

#[tokio::test]
async fn an_id_only_event_brings_its_change_by_the_feed_and_no_check_in() {
    let (revision, requests, answer) = versioned();
    with_publisher(answer, async |replica| {
        following(&replica, async {
            eventually("checked in", || {
                requested(&requests, "/v1/replicas/test") == 1 && replica.view().root().loaded()
            })
            .await;
            for next in 8..=80 {
                revision.store(next, Ordering::Relaxed);
                let outcome = changed(&replica, &format!("d{next}")).await;
                assert_eq!(outcome, EventOutcome::Success);
                eventually("its change", || {
                    replica.status().collections[0].revision == next
                })
                .await;
            }
            assert_eq!(requested(&requests, "/v1/replicas/test"), 1);
        })
        .await;
        assert_eq!(requested(&requests, "/v1/snapshot"), 1);
        assert_eq!(requested(&requests, "/documents/"), 0);
        let status = replica.status();
        assert_eq!(status.events.without_revision, 73);
        assert_eq!(status.collections[0].reason, None, "it counts revisions");
        assert_eq!(status.intake, None, "the events announced the changes");
    })
    .await;
}

#[tokio::test]
async fn id_only_events_that_are_late_repeated_or_of_no_document_change_nothing() {
    let (revision, requests, answer) = versioned();
    with_publisher(answer, async |replica| {
        following(&replica, async {
            eventually("checked in", || {
                requested(&requests, "/v1/replicas/test") == 1 && replica.view().root().loaded()
            })
            .await;
            revision.store(9, Ordering::Relaxed);
            // In the wrong order, twice, and of a document that never was.
            for text in ["d9", "d8", "d8", "nothing"] {
                assert_eq!(changed(&replica, text).await, EventOutcome::Success);
            }
            eventually("both changes", || {
                replica.status().collections[0].revision == 9
            })
            .await;
            let pages = requested(&requests, "/v1/changes");
            let begun = Instant::now();
            for _flood in 0..200 {
                assert_eq!(changed(&replica, "nothing").await, EventOutcome::Success);
            }
            eventually("the feed is read", || {
                requested(&requests, "/v1/changes") > pages
            })
            .await;
            let further = requested(&requests, "/v1/changes") - pages;
            // One at once, then one every 50 ms, and one that was under way.
            let most = 2 + begun.elapsed().as_millis() / 50;
            assert!(
                further as u128 <= most,
                "{further} requests, {most} at most"
            );
        })
        .await;
        assert!(held(&replica, "d8").is_some() && held(&replica, "d9").is_some());
        assert_eq!(replica.status().events.dropped, 0);
        let of_another = replica.receive_id(&name("Other"), &id("x"), None).await;
        assert_eq!(of_another, EventOutcome::Success);
        assert_eq!(replica.status().events.ignored, 1);
    })
    .await;
}

/// A publisher without revisions: a GET by id tells what the document is, and 404 that there is none.
#[tokio::test]
async fn without_revisions_the_document_is_read_by_its_id_and_404_is_no_error() {
    let lists = Arc::new(AtomicUsize::new(0));
    let listed = Arc::clone(&lists);
    let answer = move |path: &str| match path {
        "/v1/collections/A/documents" => {
            listed.fetch_add(1, Ordering::Relaxed);
            (200, r#"[{"id":"x","v":1},{"id":"odd","v":1}]"#.to_owned())
        }
        "/v1/collections/B/documents" => (200, "[]".to_owned()),
        "/v1/collections/A/documents/new" => (200, r#"{"id":"new","v":2}"#.to_owned()),
        "/v1/collections/A/documents/x" | "/v1/collections/A/documents/none" => {
            let problem = Problem::new(contract::ProblemKind::NoData, "There is none");
            (404, serde_json::to_string(&problem).expect("json"))
        }
        "/v1/collections/A/documents/broken" => (500, String::new()),
        _ => not_found(),
    };
    with_publisher(answer, async |replica| {
        let loaded = eventually("loaded", || replica.status().state == ReplicaState::Current);
        following(&replica, loaded).await;
        let lists_before = lists.load(Ordering::Relaxed);
        for text in ["new", "none", "foreign", "x"] {
            assert_eq!(
                changed(&replica, text).await,
                EventOutcome::Success,
                "{text}"
            );
        }
        assert_eq!(
            held(&replica, "new").as_deref(),
            Some(r#"{"id":"new","v":2}"#)
        );
        assert_eq!(held(&replica, "x"), None, "the publisher has it no more");
        assert_eq!(lists.load(Ordering::Relaxed), lists_before);
        // A 404 of something else than the collection removes nothing: the list tells.
        assert_eq!(changed(&replica, "odd").await, EventOutcome::Success);
        assert_eq!(lists.load(Ordering::Relaxed), lists_before + 1);
        assert!(held(&replica, "odd").is_some());
        let late = Some(chrono::DateTime::UNIX_EPOCH);
        let late = replica.receive_id(&name("A"), &id("new"), late).await;
        assert_eq!((late, counts(&replica).expired), (EventOutcome::Success, 1));
        // An answer that fails is asked for again, so nothing is lost.
        assert!(matches!(
            changed(&replica, "broken").await,
            EventOutcome::Retry { .. }
        ));
        assert_eq!(counts(&replica).dropped, 0);
    })
    .await;
}

/// The topic that the sidecar adds names the collection, in every form of a CloudEvent.
#[cfg(feature = "actix")]
#[actix_web::test]
async fn the_topic_of_an_id_only_event_names_its_collection() {
    use actix_web::test::{TestRequest, call_service, init_service, read_body};

    let (_revision, _requests, answer) = versioned();
    with_publisher(answer, async |replica| {
        let loaded = eventually("loaded", || replica.view().root().loaded());
        following(&replica, loaded).await;
        let routes = crate::actix::scope(&replica, &crate::actix::Options::default());
        let app = init_service(App::new().service(routes)).await;
        let post = || TestRequest::post().uri("/dapr/processConfigurationEvents");
        let structured = |data: &str, topic: &str| {
            let event = format!(
                r#"{{"specversion":"1.0","id":"1","source":"s","type":"t"{topic},"data":{data}}}"#
            );
            post()
                .insert_header(("content-type", "application/cloudevents+json"))
                .set_payload(event)
        };
        let binary = [
            ("ce-specversion", "1.0"),
            ("ce-id", "1"),
            ("ce-source", "s"),
            ("ce-type", "t"),
            ("ce-topic", "A"),
            ("content-type", "application/json"),
        ];
        let binary = binary.into_iter().fold(post(), TestRequest::insert_header);
        let of_a = r#","topic":"A""#;
        let cases = [
            (structured(r#"{"id":"d8"}"#, of_a), "SUCCESS", (1, 0, 0)),
            (binary.set_payload(r#"{"id":"d8"}"#), "SUCCESS", (2, 0, 0)),
            (structured(r#"{"id":"d8"}"#, ""), "SUCCESS", (2, 1, 0)),
            (
                structured(r#"{"id":"d8"}"#, r#","topic":"Other""#),
                "SUCCESS",
                (2, 2, 0),
            ),
            (structured(r#"{"id":7}"#, of_a), "DROP", (2, 2, 1)),
            (
                structured(r#"{"id":"d8","op":"Update"}"#, of_a),
                "SUCCESS",
                (2, 3, 1),
            ),
        ];
        for (request, status, expected) in cases {
            let answer = call_service(&app, request.to_request()).await;
            let reply: Value = serde_json::from_slice(&read_body(answer).await).expect("json");
            assert_eq!(reply["status"], status);
            let counts = counts(&replica);
            let counts = (counts.without_revision, counts.ignored, counts.dropped);
            assert_eq!(counts, expected);
        }
    })
    .await;
}

/// An id-only event cannot ask for a check-in, so the page that it leads to does.
#[tokio::test]
async fn a_page_that_asks_for_it_is_confirmed_at_once() {
    let (revision, requests, answer) = versioned();
    let asks = Arc::new(AtomicBool::new(false));
    let asking = Arc::clone(&asks);
    let answer = move |request: &HttpRequest, _body: &[u8]| {
        let path = request.uri().to_string();
        let (status, mut body) = answer(&path);
        if path == "/v1/replicas/test" {
            body = body.replacen('{', r#"{"reportAfterMs":600000,"confirmAfterMs":1,"#, 1);
        }
        let mut response =
            HttpResponse::build(StatusCode::from_u16(status).expect("a status code"));
        if path.starts_with("/v1/changes") && asking.load(Ordering::Relaxed) {
            response.insert_header((contract::feed::CONFIRM_HEADER, "applied"));
        }
        response.body(body)
    };
    with_server(answer, async |url| {
        let replica = replica(vec![url]);
        following(&replica, async {
            let check_ins = || requested(&requests, "/v1/replicas/test");
            let bring = async |next| {
                revision.store(next, Ordering::Relaxed);
                changed(&replica, &format!("d{next}")).await;
                eventually("its change", || {
                    replica.status().collections[0].revision == next
                })
                .await;
            };
            eventually("checked in", || {
                check_ins() == 1 && replica.view().root().loaded()
            })
            .await;
            bring(8).await;
            asks.store(true, Ordering::Relaxed);
            bring(9).await;
            eventually("a check-in", || check_ins() == 2).await;
        })
        .await;
    })
    .await;
}
