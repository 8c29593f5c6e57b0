//! Values that are posted to an application.

use std::sync::Mutex;

use super::*;

/// What an application got: path and body.
type Posted = Arc<Mutex<Vec<(String, Value)>>>;

#[tokio::test]
async fn over_http_values_are_posted_to_the_application() {
    let posted = Posted::default();
    let failures = Arc::new(std::sync::atomic::AtomicUsize::new(2));
    let app = {
        let (posted, failures) = (Arc::clone(&posted), Arc::clone(&failures));
        HttpServer::new(move || {
            let (posted, failures) = (Arc::clone(&posted), Arc::clone(&failures));
            actix_web::App::new().default_service(web::to(
                move |request: HttpRequest, body: web::Json<Value>| {
                    use std::sync::atomic::Ordering::SeqCst;
                    let fails = failures.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1));
                    let is_known = request.headers().get("dapr-api-token");
                    let is_known = is_known.is_some_and(|token| token == "of-app");
                    let status = match (is_known, fails) {
                        (false, _) => StatusCode::UNAUTHORIZED,
                        (true, Ok(_)) => StatusCode::SERVICE_UNAVAILABLE,
                        (true, Err(_)) => {
                            let entry = (request.path().to_owned(), body.into_inner());
                            posted.lock().expect("no panic").push(entry);
                            StatusCode::OK
                        }
                    };
                    std::future::ready(HttpResponse::build(status).finish())
                },
            ))
        })
    };
    let app = app
        .workers(1)
        .disable_signals()
        .bind("127.0.0.1:0")
        .expect("a port");
    let url = format!("--dapr-api-app-url=http://{}", app.addrs()[0]);
    let app = app.run();
    let handle = app.handle();
    // One that replaces another needs its slot.
    let flags = [SERVED, &url, "--app-api-token=of-app", "--limit-streams=1"];
    let test = check(&flags, publisher(7, 0), async |subscriber| {
        let fetch = async |path: &str| {
            let url = format!("http://{}{path}", subscriber.dapr_api());
            let answer = subscriber.client.get(url).send().await.expect("an answer");
            let status = answer.status().as_u16();
            let text = answer.text().await.expect("text");
            (
                status,
                serde_json::from_str::<Value>(&text).unwrap_or_default(),
            )
        };
        let (status, values) = fetch("/v1.0/configuration/A?key=x&key=none&metadata.a=b").await;
        assert_eq!((status, &values["x"]["value"]), (200, &json!(r#"{"v":1}"#)));
        assert_eq!(values["x"]["version"], "1");
        assert_eq!(fetch("/v1.0-alpha1/configuration/A?key=none").await.0, 204);
        let (status, refused) = fetch("/v1.0/configuration/Unknown").await;
        let code = &refused["errorCode"];
        assert_eq!(
            (status, code),
            (400, &json!("ERR_CONFIGURATION_STORE_NOT_FOUND"))
        );

        let (_status, first) = fetch("/v1.0/configuration/A/subscribe?key=x").await;
        let (_status, second) = fetch("/v1.0-alpha1/configuration/A/subscribe?key=x").await;
        let id = second["id"].as_str().expect("an id");
        // The second one replaced the first.
        let ended = format!(
            "/v1.0/configuration/A/{}/unsubscribe",
            first["id"].as_str().expect("an id")
        );
        assert_eq!(fetch(&ended).await.0, 500);
        let until = |revision: &'static str| {
            let posted = Arc::clone(&posted);
            async move {
                let mut tick = tokio::time::interval(Duration::from_millis(5));
                loop {
                    let last = posted.lock().expect("no panic").last().cloned();
                    if let Some((path, body)) = last
                        && body["items"]["x"]["version"] == revision
                    {
                        return (path, body);
                    }
                    tick.tick().await;
                }
            }
        };
        let (path, body) = timeout(DEADLINE, until("1")).await.expect("posted");
        assert_eq!(path, "/configuration/A/x");
        assert_eq!(body["id"], id);
        let headers = [("content-type", STRUCTURED), ("dapr-api-token", "of-app")];
        let event = envelope(update("x", 8, &json!({"v": 8})));
        subscriber.post(&headers, event).await;
        let (_path, body) = timeout(DEADLINE, until("8")).await.expect("posted");
        assert_eq!(body["items"]["x"]["value"], r#"{"v":8}"#);
        let ended = fetch(&format!("/v1.0/configuration/A/{id}/unsubscribe")).await;
        assert_eq!(ended, (200, json!({"ok": true})));
    });
    let (ended, ()) = tokio::join!(app, async {
        test.await;
        handle.stop(false).await;
    });
    ended.expect("an application that ends well");
}

#[tokio::test]
async fn without_an_application_nothing_is_subscribed_over_http() {
    check(&[SERVED], publisher(7, 0), async |subscriber| {
        let url = format!(
            "http://{}/v1.0/configuration/A/subscribe",
            subscriber.dapr_api()
        );
        let answer = subscriber.client.get(url).send().await.expect("an answer");
        assert_eq!(answer.status(), 500);
        let text = answer.text().await.expect("text");
        assert!(
            text.contains("ERR_APP_CHANNEL_NIL") && text.contains("DAPR_API_APP_URL"),
            "{text}"
        );
    })
    .await;
}
