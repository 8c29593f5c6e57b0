//! `confcast dead-letters` at a real publisher, for people and for scripts.

use std::{
    net::TcpListener,
    process::{Command, Output},
};

use actix_web::{App, HttpResponse, HttpServer, dev::Server, web};
use anyhow::ensure;
use contract::dead_letter::{DeadLetterId, DeadLetterReport, EventSummary, Original};
use e2e::testbed::{FREE, dependencies, services::Service, wait::eventually};
use serde_json::{Value, json};

type Outcome = anyhow::Result<()>;

fn confcast(publisher: &Service, arguments: &[&str]) -> anyhow::Result<Output> {
    let mut command = Command::new(dependencies::own_program("confcast")?);
    command
        .args(["dead-letters"])
        .args(arguments)
        .args(["--publisher", &publisher.url()])
        .stdin(std::process::Stdio::null());
    Ok(command.output()?)
}

fn succeeds(publisher: &Service, arguments: &[&str]) -> anyhow::Result<String> {
    let output = confcast(publisher, arguments)?;
    ensure!(output.status.success(), "{arguments:?}: {output:?}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A subscriber that takes every event, while it is polled.
fn subscriber(listener: TcpListener) -> anyhow::Result<Server> {
    let server = HttpServer::new(|| {
        let routes = json!({"default": "/events"});
        let topics = json!([{"pubsubname": "pubsub-config", "topic": FREE, "routes": routes}]);
        let subscribe = move || std::future::ready(HttpResponse::Ok().json(&topics));
        let take = || async { HttpResponse::Ok().json(json!({"status": "SUCCESS"})) };
        App::new()
            .route("/dapr/subscribe", web::get().to(subscribe))
            .route("/events", web::post().to(take))
    });
    Ok(server.workers(1).disable_signals().listen(listener)?.run())
}

// With threads, because the commands block the one of the test.
#[tokio::test(flavor = "multi_thread")]
async fn confcast_lists_shows_replays_and_discards_dead_letters() -> Outcome {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let subscribers = format!("http://{}", listener.local_addr()?);
    let mut publisher = Service::publisher()?
        .with("AURA_CONFIGURATION_COLLECTIONS", FREE)
        .with("AURA_CONFIGURATION_LOCAL_SUBSCRIBERS", &subscribers);
    publisher.start().await?;
    let mut ids = Vec::new();
    for (number, id) in [json!("a"), json!(7), json!("c")].into_iter().enumerate() {
        let original =
            json!({"collection": FREE, "op": "Update", "id": id, "n": number}).to_string();
        let event = EventSummary::of(original.as_bytes());
        let report = DeadLetterReport {
            id: DeadLetterId::of(&event, original.as_bytes()),
            instance: "replica-1".to_owned(),
            cause: "wrong-type".to_owned(),
            detail: "forged\n\u{1b}[2J".to_owned(),
            event,
            bytes: original.len() as u64,
            original: Original::of(original.as_bytes()),
        };
        ids.push(report.id.to_string());
        let body = serde_json::to_string(&report)?;
        let send = publisher.api();
        let answer = send.send(reqwest::Method::POST, "/v1/dead-letters", &[], body);
        answer.await?.expect(200)?;
    }

    let shown = succeeds(&publisher, &["list"])?;
    ensure!(
        ids.iter().all(|id| shown.contains(id))
            && shown.contains("3 dead letters are kept, 3 of them open"),
        "{shown}"
    );
    ensure!(
        !shown.contains('\u{1b}') && shown.contains(r"forged\n\u001b[2J"),
        "{shown}"
    );
    let listed: Value =
        serde_json::from_str(&succeeds(&publisher, &["list", "--limit", "2", "--json"])?)?;
    ensure!(
        listed["items"].as_array().map(Vec::len) == Some(2),
        "{listed}"
    );
    let shown = succeeds(&publisher, &["show", &ids[0]])?;
    ensure!(
        shown.contains("replica-1") && shown.contains(r#""id":"a""#),
        "{shown}"
    );

    // A script has to say that it means it.
    for arguments in [&["replay", &ids[0]][..], &["discard", "--all"]] {
        let refused = confcast(&publisher, arguments)?;
        let reason = String::from_utf8_lossy(&refused.stderr);
        ensure!(
            !refused.status.success() && reason.contains("--yes"),
            "{reason}"
        );
    }
    // Nobody listens yet, so that no one takes the event.
    drop(listener);
    let refused = confcast(&publisher, &["replay", &ids[0], "--yes"])?;
    let reason = String::from_utf8_lossy(&refused.stderr);
    ensure!(
        refused.status.code() == Some(1) && reason.contains("no subscriber took it"),
        "{reason}"
    );
    let listener = TcpListener::bind(subscribers.trim_start_matches("http://"))?;
    #[expect(
        clippy::disallowed_methods,
        reason = "it ends with the runtime of the test"
    )]
    let _running = tokio::spawn(subscriber(listener)?);
    // The publisher pauses for a subscriber that could not be reached.
    let sent = eventually("the subscriber takes the event", async || {
        succeeds(&publisher, &["replay", &ids[0], "--yes"])
    });
    let sent = sent.await?;
    ensure!(sent.contains("subscribers that took it: 1"), "{sent}");
    let refused = confcast(&publisher, &["replay", &ids[1], &ids[2], "--yes"])?;
    let reason = String::from_utf8_lossy(&refused.stderr);
    ensure!(
        refused.status.code() == Some(1)
            && reason.contains("no event of a collection")
            && reason.contains("1 of 2"),
        "{reason}"
    );
    let left: Value = serde_json::from_str(&succeeds(&publisher, &["list", "--open", "--json"])?)?;
    ensure!(
        left["items"][0]["id"] == ids[1].as_str() && left["open"] == 1,
        "{left}"
    );
    let discarded = succeeds(&publisher, &["discard", "--replayed", "--yes"])?;
    ensure!(discarded.contains("removed: 2 dead letters"), "{discarded}");
    succeeds(&publisher, &["discard", &ids[1], "--yes"])?;
    let shown = succeeds(&publisher, &["list"])?;
    ensure!(shown.contains("0 dead letters are kept"), "{shown}");
    Ok(())
}
