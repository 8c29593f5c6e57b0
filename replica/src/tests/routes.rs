//! The routes that a sidecar calls, mounted in the application of a service.

use actix_web::test::{TestRequest, call_service, init_service, read_body};

use contract::sidecar::{BulkReply, BulkSubscribe, EntryReply, EventReply, EventReplyStatus};
use futures_util::{StreamExt, stream::FuturesUnordered};

use super::{events::at_revision_8, *};
use crate::{
    actix::{MAX_ENTRIES, Options, scope, take_bulk},
    intake::EventSource,
    source::VALUE_REQUESTS,
};

/// What a request is answered by an application that has a route of its own.
async fn answered(config: Config, options: &Options, request: TestRequest) -> (u16, String) {
    let replica = Replica::new(config).expect("a client");
    let own = web::resource("/own").get(async || "own");
    let app = init_service(App::new().service(own).service(scope(&replica, options))).await;
    let answer = call_service(&app, request.to_request()).await;
    let status = answer.status().as_u16();
    (
        status,
        String::from_utf8_lossy(&read_body(answer).await).into_owned(),
    )
}

fn get(path: &str) -> TestRequest {
    TestRequest::get().uri(path)
}

#[actix_web::test]
async fn a_sidecar_gets_one_subscription_per_followed_collection() {
    let options = Options {
        pubsub_name: "other".to_owned(),
        ..Options::default()
    };
    let (status, topics) = answered(settings(Vec::new()), &options, get("/dapr/subscribe")).await;
    let topics: Value = serde_json::from_str(&topics).expect("json");
    assert_eq!(
        (status, &topics[0]["topic"], &topics[1]["topic"]),
        (200, &json!("A"), &json!("B"))
    );
    assert_eq!(topics[0]["pubsubname"], "other");
    assert_eq!(
        topics[0]["routes"]["default"],
        "/dapr/processConfigurationEvents"
    );
    let silent = Config {
        events: Events::None,
        ..settings(Vec::new())
    };
    assert_eq!(
        answered(silent, &options, get("/dapr/subscribe")).await,
        (200, "[]".to_owned())
    );
    // What an application answers would count before what is declared.
    let declared = Options {
        declared: true,
        ..Options::default()
    };
    assert_eq!(
        answered(settings(Vec::new()), &declared, get("/dapr/subscribe")).await,
        (200, "[]".to_owned())
    );
    assert_eq!(
        answered(settings(Vec::new()), &options, get("/own")).await,
        (200, "own".to_owned())
    );
}

#[actix_web::test]
async fn events_can_be_posted_only_where_they_are_posted() {
    let post = || TestRequest::post().uri("/dapr/processConfigurationEvents");
    let posted = answered(settings(Vec::new()), &Options::default(), post()).await;
    assert_eq!(posted.0, 200, "{}", posted.1);
    for events in [Events::None, Events::Feed] {
        let config = Config {
            events,
            ..settings(Vec::new())
        };
        let answer = answered(config, &Options::default(), post()).await;
        assert_eq!(answer.0, 404, "{}", answer.1);
    }
}

#[actix_web::test]
async fn the_token_of_the_replica_is_the_default() {
    let token = |text: &'static str| crate::HeaderValue::from_static(text);
    let config = Config {
        app_token: Some(token("sesame")),
        ..settings(Vec::new())
    };
    let own = Options {
        token: Some(token("other")),
        ..Options::default()
    };
    for (options, given, status) in [
        (&Options::default(), "sesame", 200),
        (&Options::default(), "guess", 401),
        (&own, "other", 200),
        (&own, "sesame", 401),
    ] {
        let request = get("/dapr/subscribe").insert_header(("dapr-api-token", given));
        let answer = answered(config.clone(), options, request).await;
        assert_eq!(answer.0, status, "{given}: {}", answer.1);
        assert!(
            status == 200 || answer.1.contains("unauthorized"),
            "{}",
            answer.1
        );
    }
}

#[test]
fn the_token_of_the_replica_leaves_the_host_inside_of_tls_only_and_not_at_all_with_a_sidecar() {
    let replica = |publisher: &str, events: Events| {
        Replica::new(Config {
            app_token: Some(crate::HeaderValue::from_static("sesame")),
            events,
            ..settings(vec![publisher.parse().expect("a URL")])
        })
    };
    for (publisher, events, is_allowed) in [
        ("http://other:1", Events::Local, false),
        ("http://other:1", Events::Posted, false),
        ("http://other:1", Events::Dapr, true),
        ("https://other:1", Events::Local, true),
        ("http://127.0.0.1:1", Events::Local, true),
    ] {
        let built = replica(publisher, events.clone());
        assert_eq!(built.is_ok(), is_allowed, "{publisher} {events:?}");
    }
}

#[actix_web::test]
async fn events_that_arrive_at_the_same_time_are_applied_together_and_answered_afterwards() {
    let (_revision, answer) = at_revision_8();
    with_publisher(answer, async |replica| {
        let loaded = eventually("loaded", || replica.view().root().loaded());
        following(&replica, loaded).await;
        let app = init_service(App::new().service(scope(&replica, &Options::default()))).await;
        let post = |revision: u64| {
            let data = event("Update", "x", revision, Some(json!({"v": revision})));
            let body = json!({
                "specversion": "1.0", "id": revision.to_string(), "source": "s", "type": "t",
                "datacontenttype": "application/json", "data": data,
            });
            let request = TestRequest::post().uri("/dapr/processConfigurationEvents");
            let request = request.insert_header(("content-type", "application/cloudevents+json"));
            call_service(&app, request.set_payload(body.to_string()).to_request())
        };
        let mut answers: FuturesUnordered<_> = (8..=40).map(post).collect();
        let first = answers.next().await.expect("an answer");
        assert_eq!(held(&replica, "x").as_deref(), Some(r#"{"v":40}"#));
        assert_eq!(
            read_body(first).await,
            serde_json::to_string(&EventReply::default()).expect("json")
        );
        let rest: Vec<_> = answers.collect().await;
        assert!(rest.iter().all(|answer| answer.status() == 200));
        assert_eq!(counts(&replica).applied, 33);
    })
    .await;
}

/// Also in a service that bounds no bodies itself.
#[actix_web::test]
async fn large_events_wait_for_a_place_and_small_ones_do_not() {
    let replica = Replica::new(settings(Vec::new())).expect("a client");
    let app = init_service(App::new().service(scope(&replica, &Options::default()))).await;
    let post = |bytes: usize| {
        let request = TestRequest::post()
            .uri(contract::event::ROUTE)
            .insert_header(("content-type", "application/cloudevents+json"))
            .set_payload("x".repeat(bytes));
        call_service(&app, request.to_request())
    };
    let places = &replica.intake().large_events;
    let taken = places.try_acquire_many(crate::actix::LARGE_EVENTS as u32);
    let taken = taken.expect("no event is under way");
    let mut large = std::pin::pin!(post(100 << 10));
    assert!(futures_util::poll!(&mut large).is_pending());
    let small = read_body(post(1_000).await).await;
    assert!(String::from_utf8_lossy(&small).contains("DROP"));
    drop(taken);
    let large = read_body(large.await).await;
    assert!(String::from_utf8_lossy(&large).contains("DROP"));
    assert_eq!(
        places.available_permits(),
        crate::actix::LARGE_EVENTS,
        "an event that was answered has no place"
    );
}

/// A bulk of events that are no CloudEvents.
fn bulk_of(entries: usize, event: &Value) -> Value {
    let entries: Vec<_> = (0..entries)
        .map(|entry| json!({"entryId": entry.to_string(), "event": event}))
        .collect();
    json!({ "entries": entries })
}

#[actix_web::test]
async fn the_entries_of_a_bulk_that_are_too_many_are_asked_for_again() {
    let replica = Replica::new(settings(Vec::new())).expect("a client");
    let app = init_service(App::new().service(scope(&replica, &Options::default()))).await;
    let entries = MAX_ENTRIES + 2;
    let request = TestRequest::post()
        .uri(contract::event::ROUTE)
        .insert_header(("content-type", "application/json"))
        .set_payload(bulk_of(entries, &json!("text")).to_string());
    let answer = read_body(call_service(&app, request.to_request()).await).await;
    let answer: BulkReply = serde_json::from_slice(&answer).expect("a reply to a bulk");
    assert_eq!(answer.statuses.len(), entries, "each entry has a result");
    let (taken, left) = answer.statuses.split_at(MAX_ENTRIES);
    let all = |entries: &[EntryReply], status| entries.iter().all(|entry| entry.status == status);
    assert!(all(taken, EventReplyStatus::Drop) && all(left, EventReplyStatus::Retry));
    assert_eq!(counts(&replica).retried, 2);
}

/// All places for requests of values: until they are dropped no value can be requested.
async fn all_value_requests(intake: &crate::intake::Intake) -> tokio::sync::SemaphorePermit<'_> {
    let places = &intake.source.value_requests;
    let taken = places.acquire_many(VALUE_REQUESTS as u32).await;
    taken.expect("places")
}

/// Each event of a bulk may wait for a value, one after the other.
#[tokio::test]
async fn a_bulk_has_one_deadline_for_all_of_its_entries() {
    with_publisher(at_revision_8().1, async |replica| {
        let loaded = eventually("loaded", || replica.view().root().loaded());
        following(&replica, loaded).await;
        let intake = replica.intake();
        let taken = all_value_requests(intake).await;
        let event = json!({"specversion": "1.0", "id": "1", "source": "test", "type": "t",
            "datacontenttype": "application/json", "data": event("Update", "x", 8, None)});
        let take = async |entries, time| {
            let bulk = serde_json::from_value(bulk_of(entries, &event)).expect("a bulk");
            let deadline = tokio::time::Instant::now() + time;
            take_bulk(intake, EventSource::Service, bulk, deadline).await
        };
        let begun = Instant::now();
        let statuses = take(20, Duration::from_millis(100)).await;
        assert!(begun.elapsed() < Duration::from_secs(2));
        assert_eq!(statuses.len(), 20);
        let retried = |entry: &EntryReply| entry.status == EventReplyStatus::Retry;
        assert!(statuses.iter().all(retried));
        drop(taken);
        let statuses = take(1, Duration::from_secs(10)).await;
        assert_eq!(statuses[0].status, EventReplyStatus::Success);
    })
    .await;
}

/// An entry that can never be applied, or must come again, decides nothing about the others.
#[tokio::test]
async fn each_entry_of_a_bulk_has_its_own_result() {
    with_publisher(at_revision_8().1, async |replica| {
        let loaded = eventually("loaded", || replica.view().root().loaded());
        following(&replica, loaded).await;
        let intake = replica.intake();
        let _taken = all_value_requests(intake).await;
        let envelope = |data: Value| {
            json!({"specversion": "1.0", "id": "1", "source": "test", "type": "t",
                "datacontenttype": "application/json", "data": data})
        };
        let mut damaged = event("Update", "y", 10, Some(json!({"n": 1})));
        damaged["crc"] = json!(config(&json!({"n": 2})).crc());
        let events = [
            envelope(event("Update", "x", 8, Some(json!({"v": 8})))),
            json!("not an event"),
            envelope(json!({"collection": "A", "op": "Update", "id": 7})),
            // Its value is not the one that its checksum is of, as after floating point.
            envelope(damaged),
            // Without a revision, as the source document has it.
            envelope(json!({"collection": "A", "op": "Update", "id": "x"})),
            envelope(event("Update", "z", 9, Some(json!({"v": 9})))),
        ];
        let entries = events.iter().enumerate();
        let entries = entries.map(|(id, event)| json!({"entryId": id.to_string(), "event": event}));
        let bulk = json!({"entries": entries.collect::<Vec<_>>()});
        let bulk = serde_json::from_value(bulk).expect("a bulk");
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        let statuses = take_bulk(intake, EventSource::Service, bulk, deadline).await;
        let statuses: Vec<_> = statuses.iter().map(|entry| entry.status).collect();
        use EventReplyStatus::{Drop, Retry, Success};
        assert_eq!(statuses, [Success, Drop, Drop, Retry, Success, Success]);
        assert_eq!(held(&replica, "z").as_deref(), Some(r#"{"v":9}"#));
        assert_eq!((counts(&replica).applied, counts(&replica).dropped), (2, 2));
    })
    .await;
}

/// The entries that say their order themselves are applied together; the others keep the order of the
/// bulk.
#[tokio::test]
async fn the_changes_of_a_bulk_are_applied_as_one_view() {
    with_publisher(at_revision_8().1, async |replica| {
        let loaded = eventually("loaded", || replica.view().root().loaded());
        following(&replica, loaded).await;
        let cache = &replica.intake().cache;
        let before = replica
            .view()
            .root()
            .collection(&name("A"))
            .expect("A")
            .watermark();
        let entry = |number: u64| {
            let data = event(
                "Update",
                &format!("d{number}"),
                before + number,
                Some(json!({"v": 1})),
            );
            let event = json!({"specversion": "1.0", "id": number.to_string(), "source": "test",
                "type": "t", "datacontenttype": "application/json", "data": data});
            json!({"entryId": number.to_string(), "event": event})
        };
        let entries: Vec<_> = (1..=40).map(entry).collect();
        let bulk = serde_json::from_value(json!({"entries": entries})).expect("a bulk");
        let mut written = cache.written();
        let mut views = 0;
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        let source = EventSource::Posted(None);
        let mut taking = std::pin::pin!(take_bulk(replica.intake(), source, bulk, deadline));
        // The views are counted on the task that takes the bulk: none is overlooked.
        let statuses = loop {
            tokio::select! {
                biased;
                changed = written.changed() => {
                    changed.expect("the cache is there");
                    views += 1;
                }
                statuses = &mut taking => break statuses,
            }
        };
        views += usize::from(written.has_changed().expect("the cache is there"));
        let success = |entry: &EntryReply| entry.status == EventReplyStatus::Success;
        assert_eq!(statuses.len(), 40);
        assert!(statuses.iter().all(success));
        let ids: Vec<_> = statuses
            .iter()
            .map(|entry| entry.entry_id.as_str())
            .collect();
        assert_eq!((ids[0], ids[39]), ("1", "40"), "in the order of the bulk");
        assert_eq!(counts(&replica).applied, 40);
        assert_eq!(views, 1);
    })
    .await;
}

/// Sidecars gather events only where that is set.
#[actix_web::test]
async fn a_sidecar_is_told_to_gather_events_where_that_is_set() {
    let subscription = async |bulk| {
        let options = Options {
            bulk,
            ..Options::default()
        };
        let (_status, topics) =
            answered(settings(Vec::new()), &options, get("/dapr/subscribe")).await;
        let topics: Value = serde_json::from_str(&topics).expect("json");
        topics[0]["bulkSubscribe"].clone()
    };
    assert_eq!(
        subscription(BulkSubscribe::of_interval(0)).await,
        json!(null)
    );
    assert_eq!(
        subscription(BulkSubscribe::of_interval(5)).await,
        json!({"enabled": true, "maxMessagesCount": 10, "maxAwaitDurationMs": 5})
    );
}
