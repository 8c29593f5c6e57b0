//! The routes that a sidecar calls, mounted in the application of a service.

use actix_web::test::{TestRequest, call_service, init_service, read_body};

use super::*;
use crate::actix::{Options, scope};

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
