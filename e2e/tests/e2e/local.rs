//! Events without a broker, when a subscriber is frozen, restarts with other settings, or names
//! another host.

use std::time::Duration;

use anyhow::ensure;
use e2e::{
    client::Api,
    testbed::{
        CHANNELS, FREE, StoreKind, Testbed, Transport, numbered, sample,
        services::Service,
        wait::{TIMEOUT, eventually, within},
    },
};
use reqwest::Method;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::timeout,
};

type Outcome = anyhow::Result<()>;

#[tokio::test]
async fn a_frozen_subscriber_does_not_delay_other_subscribers() -> Outcome {
    let mut testbed = Testbed::start(StoreKind::Embedded, Transport::Local).await?;
    let api = testbed.publisher.api();
    api.create(FREE, &json!({"id": "a"})).await?.expect(201)?;
    testbed.until_same(FREE, "a").await?;

    testbed.subscribers[0].pause()?;
    for number in 0..200 {
        api.put(FREE, "a", &numbered(number)).await?.expect(200)?;
    }
    until_at(&testbed.subscribers[1].api(), 201, Duration::from_secs(10)).await?;

    // The other one may have caught up from the feed before an attempt timed out.
    eventually("the publisher notices the frozen one", async || {
        let log = testbed.publisher.output();
        ensure!(log.contains("does not take events"), "{log}");
        Ok(())
    })
    .await?;

    testbed.subscribers[0].resume()?;
    until_events_arrive(&api, &testbed.subscribers[0]).await?;
    testbed.until_converged(FREE).await?;
    eventually(
        "the log says once that it began and once that it ended",
        async || {
            let output = testbed.publisher.output();
            for line in ["does not take events", "takes events again"] {
                ensure!(output.matches(line).count() == 1, "{line:?}: {output}");
            }
            Ok(())
        },
    )
    .await
}

#[tokio::test]
async fn a_restarted_subscriber_receives_events_of_an_added_collection() -> Outcome {
    let mut testbed = Testbed::prepare(StoreKind::Embedded, Transport::Local).await?;
    testbed.publisher.start().await?;
    let api = testbed.publisher.api();
    api.create(FREE, &json!({"id": "a"})).await?.expect(201)?;
    let mut subscriber = testbed
        .subscribers
        .remove(0)
        .with("AURA_CONFIGURATION_COLLECTIONS", CHANNELS);
    subscriber.start().await?;
    let mut channel = sample(CHANNELS)?;
    let id = channel["id"].as_str().unwrap_or_default().to_owned();
    api.create(CHANNELS, &channel).await?.expect(201)?;
    let held = subscriber.api();
    eventually("the change arrives", async || {
        held.document(CHANNELS, &id).await?.expect(200).map(drop)
    })
    .await?;

    subscriber.kill()?;
    channel["metadata"] = json!({"changed": "while it was away"});
    api.put(CHANNELS, &id, &channel).await?.expect(200)?;
    let mut subscriber = subscriber.with(
        "AURA_CONFIGURATION_COLLECTIONS",
        format!("{CHANNELS},{FREE}"),
    );
    subscriber.start().await?;
    until_events_arrive(&api, &subscriber).await
}

/// The token is sent to the subscriber only, and the password of its URL is in no log.
#[tokio::test]
async fn a_subscriber_cannot_direct_events_to_another_host() -> Outcome {
    let subscriber = TcpListener::bind("127.0.0.1:0").await?;
    let elsewhere = std::net::TcpListener::bind("127.0.0.1:0")?;
    elsewhere.set_nonblocking(true)?;
    let host = subscriber.local_addr()?;
    let route = format!("http://{}/dapr/subscribe", elsewhere.local_addr()?);
    let mut publisher = Service::publisher()?
        .with("AURA_CONFIGURATION_COLLECTIONS", FREE)
        .with(
            "AURA_CONFIGURATION_LOCAL_SUBSCRIBERS",
            format!("http://user:hunter2@{host}"),
        )
        .with("APP_API_TOKEN", "secret");
    publisher.start().await?;
    publisher
        .api()
        .create(FREE, &json!({"id": "a"}))
        .await?
        .expect(201)?;

    let routes = json!([{"topic": FREE, "routes": {"default": route}}]).to_string();
    let request = answer(
        &subscriber,
        &format!("307 Elsewhere\r\nlocation: {route}"),
        "",
    )
    .await?;
    ensure!(request.contains("dapr-api-token: secret"), "{request}");
    for _again in 0..2 {
        answer(&subscriber, "200 OK", &routes).await?;
    }
    eventually("the route is refused", async || {
        let output = publisher.output();
        ensure!(
            output.contains("a route is a URL of another host")
                && output.contains(&host.to_string()),
            "{output}"
        );
        Ok(())
    })
    .await?;
    ensure!(elsewhere.accept().is_err(), "the publisher connected");
    ensure!(
        !publisher.output().contains("hunter2"),
        "the log shows a password"
    );
    Ok(())
}

/// Neither the events nor the token go to a URL that another party may have named.
#[tokio::test]
async fn events_go_to_a_loopback_address_only_on_the_host_that_names_it() -> Outcome {
    let mut publisher = Service::publisher()?
        .with("AURA_CONFIGURATION_COLLECTIONS", FREE)
        .with("APP_API_TOKEN", "secret");
    publisher.start().await?;
    let api = publisher.api();
    api.create(FREE, &json!({"id": "a"})).await?.expect(201)?;
    let known = listener()?;
    let has_no_token = listener()?;
    let forwarded = listener()?;
    let token = ("dapr-api-token", "secret");
    let check_in = async |instance: &str,
                          listener: &std::net::TcpListener,
                          headers: &[(&str, &str)]| {
        let body = json!({
            "instance": instance, "bootId": "b", "baseUrl": format!("http://{}", listener.local_addr()?),
            "intervalMs": 60_000, "collections": {},
        });
        let path = format!("/v1/replicas/{instance}");
        api.send(Method::PUT, &path, headers, body.to_string())
            .await?
            .expect(200)
    };
    check_in("no-token", &has_no_token, &[]).await?;
    check_in("wrong-token", &has_no_token, &[("dapr-api-token", "guess")]).await?;
    check_in(
        "forwarded",
        &forwarded,
        &[token, ("x-forwarded-for", "192.0.2.1")],
    )
    .await?;
    check_in("known", &known, &[token]).await?;
    let known = TcpListener::from_std(known)?;
    api.put(FREE, "a", &numbered(0)).await?.expect(200)?;
    let request = answer(&known, "200 OK", "[]").await?;
    ensure!(request.contains("dapr-api-token: secret"), "{request}");
    // The list of replicas is read again in between.
    tokio::time::sleep(Duration::from_secs(5)).await;
    api.put(FREE, "a", &numbered(1)).await?.expect(200)?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    for unused in [&has_no_token, &forwarded] {
        ensure!(unused.accept().is_err(), "the publisher connected");
    }
    Ok(())
}

fn listener() -> anyhow::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Answers the next request, and returns it.
async fn answer(listener: &TcpListener, status: &str, body: &str) -> anyhow::Result<String> {
    let (mut stream, _peer) = timeout(TIMEOUT, listener.accept()).await??;
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        ensure!(stream.read_buf(&mut request).await? > 0, "half a request");
    }
    let answer = format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    Ok(String::from_utf8(request)?)
}

/// Writes until an event arrives. Writes before the publisher discovers the subscriber arrive by
/// the heads, which no replica reads here.
async fn until_events_arrive(publisher: &Api, subscriber: &Service) -> Outcome {
    let held = subscriber.api();
    eventually("new events arrive", async || {
        let next = publisher.head(FREE).await?.revision + 1;
        publisher
            .put(FREE, "a", &json!({"next": next}))
            .await?
            .expect(200)?;
        until_at(&held, next, Duration::from_secs(1)).await
    })
    .await
}

async fn until_at(api: &Api, revision: u64, patience: Duration) -> Outcome {
    within(patience, "the revision arrives", async || {
        let head = api.head(FREE).await?;
        ensure!(
            head.revision >= revision,
            "{} instead of {revision}",
            head.revision
        );
        Ok(())
    })
    .await
}
