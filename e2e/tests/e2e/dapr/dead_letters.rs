//! Dead letters through real sidecars: whatever no replica took is kept by the publisher, with the
//! reason, and can be sent again.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context, ensure};
use chrono::Utc;
use contract::dead_letter::{DeadLetter, DeadLetterList, DeadLetterReason};
use e2e::{
    client::Api,
    testbed::{
        FREE, StoreKind, Testbed, Transport,
        ports::free_port,
        redis::Redis,
        services::Service,
        sidecar::{self, Sidecar},
        wait::eventually,
    },
};
use reqwest::Method;
use serde_json::{Value, json};

use super::{DEAD_LETTERS, EVENTS, Outcome, stream, time};

const LETTERS: &str = "/v1/dead-letters";

async fn list(api: &Api, query: &str) -> anyhow::Result<DeadLetterList> {
    let answer = api.get(&format!("{LETTERS}{query}")).await?.expect(200)?;
    Ok(serde_json::from_str(&answer.body)?)
}

/// The letter of the event whose data has this value of the member `mark`, as soon as it is as
/// `check` says.
async fn letter(
    api: &Api,
    mark: &str,
    check: impl Fn(&DeadLetter) -> bool,
) -> anyhow::Result<DeadLetter> {
    eventually(&format!("the dead letter {mark}"), async || {
        for item in list(api, "").await?.items {
            let answer = api.get(&format!("{LETTERS}/{}", item.id)).await?;
            let letter: DeadLetter = serde_json::from_str(&answer.expect(200)?.body)?;
            let text = letter.original.text.clone().unwrap_or_default();
            if text.contains(&format!(r#""mark":"{mark}""#)) {
                ensure!(check(&letter), "not yet: {letter:?}");
                return Ok(letter);
            }
        }
        anyhow::bail!("there is none yet")
    })
    .await
}

async fn publish(sidecar: &Sidecar, ttl: u64, data: &Value) -> Outcome {
    let body = data.to_string();
    let status = sidecar.publish(FREE, Some(ttl), "application/json", body);
    ensure!(status.await? == 204);
    Ok(())
}

#[tokio::test]
async fn a_dropped_event_is_one_letter_with_the_reason_of_the_replicas() -> Outcome {
    let mut testbed = Testbed::start(StoreKind::Embedded, Transport::Dapr).await?;
    let sidecar = testbed.publisher_sidecar.as_mut().context("a sidecar")?;
    sidecar.until_subscribed().await?;
    let api = testbed.publisher.api();
    let poison = |mark: &str| json!({"collection": FREE, "op": "Create", "id": 7, "mark": mark});
    publish(sidecar, 60, &poison("first")).await?;
    // Two replicas report it, and two sidecars move it.
    let letter_1 = letter(&api, "first", |letter| letter.count == 4).await?;
    ensure!(
        letter_1.reason == DeadLetterReason::Dropped
            && letter_1.cause.as_deref() == Some("wrong-type")
            && letter_1.replicas.len() == 2,
        "{letter_1:?}"
    );
    let original: Value = serde_json::from_str(&letter_1.original.text.unwrap_or_default())?;
    ensure!(original["data"] == poison("first"), "{original}");
    ensure!(original["source"] == sidecar::PUBLISHER, "{original}");

    // What no replica can read is not sent again.
    let path = format!("{LETTERS}/{}/replay", letter_1.id);
    let refused = api
        .send(Method::POST, &path, &[], "{}")
        .await?
        .expect(409)?;
    ensure!(refused.body.contains("not-replayable"), "{}", refused.body);
    let metrics = api.get("/metrics").await?.body;
    for line in [
        "confcast_dead_letters{state=\"open\"} 1\n",
        "confcast_dead_letters_evicted_total 0\n",
    ] {
        ensure!(metrics.contains(line), "{line} {metrics}");
    }

    // A discarded letter does not come back with another start of the sidecar.
    let path = format!("{LETTERS}/{}", letter_1.id);
    api.send(Method::DELETE, &path, &[], "")
        .await?
        .expect(200)?;
    sidecar.kill()?;
    sidecar.start().await?;
    sidecar.until_subscribed().await?;
    publish(sidecar, 60, &poison("second")).await?;
    letter(&api, "second", |letter| letter.count == 4).await?;
    ensure!(list(&api, "").await?.items.len() == 1, "it came back");
    Ok(())
}

#[tokio::test]
async fn a_letter_waits_for_a_publisher_that_is_away() -> Outcome {
    let mut testbed = Testbed::start(StoreKind::Embedded, Transport::Dapr).await?;
    let sidecar = testbed.publisher_sidecar.as_ref().context("a sidecar")?;
    sidecar.until_subscribed().await?;
    testbed.publisher.stop().await?;
    let poison = json!({"collection": FREE, "op": "Create", "id": 7, "mark": "away"});
    publish(sidecar, 60, &poison).await?;
    let redis = testbed.redis.as_ref().context("a redis")?;
    eventually("both sidecars moved it", async || {
        let moved = stream(redis, DEAD_LETTERS).await?.len();
        ensure!(moved == 2, "{moved}");
        Ok(())
    })
    .await?;
    testbed.publisher.start().await?;
    let api = testbed.publisher.api();
    letter(&api, "away", |letter| letter.count == 4).await?;
    Ok(())
}

/// A subscriber in another language, which takes no event while it is told not to.
struct OtherSubscriber {
    port: u16,
    shared: actix_web::web::Data<Shared>,
    server: actix_web::dev::ServerHandle,
    running: tokio::task::JoinHandle<std::io::Result<()>>,
}

#[derive(Default)]
struct Shared {
    takes: AtomicBool,
    /// The events that it took, by their id.
    taken: Mutex<BTreeMap<String, Value>>,
}

impl OtherSubscriber {
    fn start() -> anyhow::Result<Self> {
        use actix_web::{App, HttpResponse, HttpServer, web};
        async fn subscribe() -> HttpResponse {
            HttpResponse::Ok().json(json!([{"pubsubname": "pubsub-config", "topic": FREE,
                "routes": {"default": EVENTS}, "deadLetterTopic": DEAD_LETTERS}]))
        }
        async fn take(shared: web::Data<Shared>, body: web::Bytes) -> HttpResponse {
            if !shared.takes.load(Ordering::SeqCst) {
                return HttpResponse::InternalServerError().finish();
            }
            let event: Value = serde_json::from_slice(&body).unwrap_or_default();
            let id = event["id"].as_str().unwrap_or_default().to_owned();
            let mut taken = shared.taken.lock().expect("no poison");
            taken.insert(id, event);
            HttpResponse::Ok().json(json!({"status": "SUCCESS"}))
        }
        let port = free_port()?;
        let shared = web::Data::from(Arc::<Shared>::default());
        let data = shared.clone();
        let server = HttpServer::new(move || {
            App::new()
                .app_data(data.clone())
                .route("/dapr/subscribe", web::get().to(subscribe))
                .route(EVENTS, web::post().to(take))
        })
        .workers(1)
        .disable_signals()
        .bind(("127.0.0.1", port))?
        .run();
        let handle = server.handle();
        #[expect(clippy::disallowed_methods, reason = "ended on drop, with the test")]
        let running = tokio::spawn(server);
        Ok(Self {
            port,
            shared,
            server: handle,
            running,
        })
    }

    fn taken(&self, id: &str) -> Option<Value> {
        let taken = self.shared.taken.lock().expect("no poison");
        taken.get(id).cloned()
    }
}

impl Drop for OtherSubscriber {
    fn drop(&mut self) {
        drop(self.server.stop(false));
        self.running.abort();
    }
}

/// Attempts that are used up, an event that expired, and what arrives when the letters are sent again
/// after the cause is mended.
#[tokio::test]
async fn events_that_were_not_taken_or_expired_are_sent_again() -> Outcome {
    let redis = Redis::start().await?;
    let other = OtherSubscriber::start()?;
    let mut listener = Sidecar::new(sidecar::SUBSCRIBER, other.port, "replica-1", &redis)?;
    let mut publisher = Service::publisher()?
        .with("AURA_CONFIGURATION_COLLECTIONS", FREE)
        .with("AURA_CONFIGURATION_EVENTS_MANAGER", "DAPR");
    let mut sidecar = Sidecar::new(sidecar::PUBLISHER, publisher.port(), "publisher", &redis)?;
    publisher.set("DAPR_GRPC_PORT", sidecar.grpc_port().to_string());
    publisher.start().await?;
    sidecar.start().await?;
    sidecar.until_subscribed().await?;
    listener.start().await?;
    listener.until_subscribed().await?;
    let api = publisher.api();

    // The event of a change, and one without a revision.
    let change = json!({"id": "a", "mark": "change"});
    api.create(FREE, &change).await?.expect(201)?;
    let data = json!({"collection": FREE, "op": "Create", "id": "b", "mark": "foreign"});
    publish(&sidecar, 60, &data).await?;
    let not_taken = |letter: &DeadLetter| letter.reason == DeadLetterReason::NotTaken;
    let of_change = letter(&api, "change", not_taken).await?;
    let foreign = letter(&api, "foreign", not_taken).await?;
    ensure!(
        of_change.event.revision == Some(1) && of_change.count == 1,
        "{of_change:?}"
    );

    // An event that its sidecar reads after its time to live.
    listener.kill()?;
    publish(
        &sidecar,
        1,
        &json!({"collection": FREE, "op": "Create", "id": "c", "mark": "late"}),
    )
    .await?;
    eventually("it has expired", async || {
        let events = stream(&redis, FREE).await?;
        let late = events.iter().find(|event| event["data"]["mark"] == "late");
        let expiration = time(&late.context("in the stream")?["expiration"])?;
        ensure!(Utc::now() > expiration, "not yet");
        Ok(())
    })
    .await?;
    listener.start().await?;
    listener.until_subscribed().await?;
    let expired = letter(&api, "late", |letter| {
        letter.reason == DeadLetterReason::Expired
    })
    .await?;

    other.shared.takes.store(true, Ordering::SeqCst);
    for (letter, sent) in [
        (&of_change, "change"),
        (&foreign, "original"),
        (&expired, "original"),
    ] {
        let path = format!("{LETTERS}/{}/replay", letter.id);
        let answer = api
            .send(Method::POST, &path, &[], "{}")
            .await?
            .expect(200)?;
        ensure!(answer.json()?["sent"] == sent, "{}", answer.body);
        let id = letter.event.event_id.as_deref().context("an id")?;
        let arrived = eventually("it arrives", async || other.taken(id).context("not yet")).await?;
        let original: Value =
            serde_json::from_str(letter.original.text.as_deref().unwrap_or_default())?;
        ensure!(arrived["data"]["id"] == original["data"]["id"], "{arrived}");
        ensure!(time(&arrived["expiration"])? > Utc::now(), "{arrived}");
    }
    let replayed = list(&api, "?replayed=true").await?;
    ensure!(
        replayed.items.len() == 3 && (replayed.kept, replayed.open) == (3, 0),
        "{replayed:?}"
    );
    let path = format!("{LETTERS}?replayed=true");
    let discarded = api
        .send(Method::DELETE, &path, &[], "")
        .await?
        .expect(200)?;
    ensure!(discarded.json()?["discarded"] == 3, "{}", discarded.body);
    Ok(())
}

/// Only the sidecar may deliver dead letters where there is a token.
#[tokio::test]
async fn the_token_of_the_publisher_protects_its_dead_letters() -> Outcome {
    let mut publisher = Service::publisher()?
        .with("AURA_CONFIGURATION_EVENTS_MANAGER", "DAPR")
        .with("APP_API_TOKEN", "s3cret");
    publisher.start().await?;
    let api = publisher.api();
    for (path, method) in [
        ("/dapr/subscribe", Method::GET),
        ("/dapr/deadLetters", Method::POST),
    ] {
        let headers = [("content-type", super::CLOUD_EVENT)];
        let body = if method == Method::GET { "" } else { "{}" };
        api.send(method.clone(), path, &headers, body)
            .await?
            .expect(401)?;
        let headers = [headers[0], ("dapr-api-token", "s3cret")];
        api.send(method, path, &headers, body).await?.expect(200)?;
    }
    ensure!(
        !publisher.output().contains("s3cret"),
        "a secret in the log"
    );
    Ok(())
}
