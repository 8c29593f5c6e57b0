//! Writes that wait until replicas have applied them.

use std::time::Duration;

use anyhow::{Context, ensure};
use client::{
    Endpoint, Timeouts,
    live_feed::{FeedMessage, FeedStart},
};
use contract::{
    Written,
    applied::{Applied, NotAppliedReason},
    feed::Since,
};
use e2e::{
    client::{Answer, Api},
    testbed::{
        FREE, StoreKind, Testbed, Transport, dependencies, numbered, services::Service,
        wait::eventually,
    },
};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::Command,
    time::timeout,
};

type Outcome = anyhow::Result<()>;

async fn put(api: &Api, query: &str, number: u64) -> anyhow::Result<Answer> {
    let path = format!("/v1/collections/{FREE}/documents/a{query}");
    api.send(Method::PUT, &path, &[], numbered(number).to_string())
        .await
}

fn applied(answer: &Answer) -> anyhow::Result<Applied> {
    let written: Written = serde_json::from_str(&answer.body)?;
    written
        .applied
        .context("the answer says nothing of replicas")
}

/// All transports: events that ask for a check-in, and the feed, which does not.
#[tokio::test]
async fn a_write_is_answered_when_all_replicas_have_applied_it() -> Outcome {
    for (store, transport) in [
        (StoreKind::Embedded, Transport::Local),
        (StoreKind::Mongo, Transport::PubSub),
        (StoreKind::Embedded, Transport::Feed),
    ] {
        let testbed = Testbed::start(store, transport).await?;
        let api = testbed.publisher.api();
        api.create(FREE, &json!({"id": "a"})).await?.expect(201)?;
        testbed.until_same(FREE, "a").await?;
        for number in 1..=5 {
            let answer = put(&api, "?wait=all&timeout=20s", number)
                .await?
                .expect(200)?;
            let applied = applied(&answer)?;
            ensure!(
                (applied.reached, applied.replicas, applied.applied) == (true, 2, 2),
                "{applied:?}"
            );
            // What the answer says is true of every reader.
            for subscriber in &testbed.subscribers {
                let held = subscriber.api().document(FREE, "a").await?.expect(200)?;
                ensure!(
                    held.json()?["configData"] == numbered(number),
                    "{}",
                    held.body
                );
            }
        }
        let set = json!({"changes": [
            {"collection": FREE, "op": "Create", "id": "b", "configData": {}},
            {"collection": FREE, "op": "Delete", "id": "a"}]});
        let answer = api
            .send(
                Method::POST,
                "/v1/changes?wait=100%25",
                &[],
                set.to_string(),
            )
            .await?;
        let answer = answer.expect(200)?.json()?;
        ensure!(answer["applied"]["applied"] == 2, "{answer}");
        // Nothing to change, as when a rollback is asked for again: it waits for what is there.
        let head = api.head(FREE).await?;
        let to = json!({"toRevision": head.revision}).to_string();
        let path = format!("/v1/collections/{FREE}/documents/b/rollback?wait=all&timeout=20s");
        let answer = api.send(Method::POST, &path, &[], to).await?;
        let answer = answer.expect(200)?.json()?;
        ensure!(
            answer["items"] == json!([]) && answer["applied"]["applied"] == 2,
            "{answer}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_write_that_not_all_replicas_apply_in_time_names_those_that_have_not() -> Outcome {
    let mut testbed = Testbed::start(StoreKind::Embedded, Transport::Local).await?;
    let api = testbed.publisher.api();
    api.create(FREE, &json!({"id": "a"})).await?.expect(201)?;
    testbed.until_same(FREE, "a").await?;
    testbed.subscribers[0].pause()?;
    let answer = put(&api, "?wait=all&timeout=500ms", 1).await?.expect(202)?;
    let late = applied(&answer)?;
    ensure!(
        (late.reached, late.replicas, late.applied) == (false, 2, 1),
        "{late:?}"
    );
    let [missing] = &late.missing[..] else {
        anyhow::bail!("{late:?}");
    };
    ensure!(missing.reason == NotAppliedReason::Behind, "{missing:?}");
    ensure!(missing.detail.contains("revision"), "{missing:?}");
    // Fewer are enough, and the request says how many.
    for query in ["?wait=1", "?wait=50%25"] {
        let answer = put(&api, query, 2).await?.expect(200)?;
        ensure!(applied(&answer)?.reached, "{}", answer.body);
    }
    let path = format!("/v1/collections/{FREE}/applied?timeout=0s");
    let standing: Value = api.get(&path).await?.expect(200)?.json()?;
    ensure!(
        standing["reached"] == false && standing["missing"][0]["instance"] == missing.instance,
        "{standing}"
    );
    testbed.subscribers[0].resume()?;
    let path = format!("/v1/collections/{FREE}/applied?timeout=30s");
    let standing: Value = api.get(&path).await?.expect(200)?.json()?;
    ensure!(
        standing["reached"] == true && standing["applied"] == 2,
        "{standing}"
    );
    Ok(())
}

/// The command line: the exit code, and what it prints on both outputs.
async fn confcast(
    publisher: &Service,
    token: Option<&str>,
    arguments: &[&str],
) -> anyhow::Result<(Option<i32>, String)> {
    let mut command = Command::new(dependencies::own_program("confcast")?);
    command
        .args(arguments)
        .env("AURA_CONFIGURATION_API_URL", publisher.url())
        .current_dir(publisher.folder());
    if let Some(token) = token {
        command.env("AURA_CONFIGURATION_TOKEN", token);
    }
    let output = command.output().await?;
    let outputs = [output.stdout, output.stderr];
    let text = outputs.map(|text| String::from_utf8_lossy(&text).into_owned());
    Ok((output.status.code(), text.concat()))
}

#[tokio::test]
async fn a_command_ends_when_replicas_have_applied_its_write_and_fails_where_they_have_not()
-> Outcome {
    let mut testbed = Testbed::start(StoreKind::Embedded, Transport::Local).await?;
    let folder = testbed.publisher.folder();
    std::fs::write(folder.join("value"), r#"{"number":1}"#)?;
    std::fs::write(folder.join("other"), r#"{"number":2}"#)?;
    let line = json!({"collection": FREE, "id": "b", "configData": {}});
    std::fs::write(folder.join("lines"), format!("{line}\n"))?;
    let patient = ["--wait", "--timeout", "60s"];
    for command in [
        &["put", FREE, "a", "value"][..],
        &["import", "lines"],
        &["delete", FREE, "b"],
        &["put", FREE, "a", "other"],
        &["rollback", FREE, "a", "--to-revision", "1", "--yes"],
        &["rollback", FREE, "--to-revision", "2", "--yes"],
    ] {
        let line = [command, &patient].concat();
        let (code, said) = confcast(&testbed.publisher, None, &line).await?;
        ensure!(
            code == Some(0) && said.contains("applied by 2 of 2 replicas after "),
            "{command:?}: {code:?}: {said}"
        );
    }
    // What a program reads stays JSON.
    let json = ["rollback", FREE, "--to-revision", "1", "--yes", "--json"];
    let line = [&json[..], &patient].concat();
    let (code, said) = confcast(&testbed.publisher, None, &line).await?;
    let rollback: Value = serde_json::from_str(said.trim()).with_context(|| said.clone())?;
    ensure!(
        code == Some(0) && rollback["applied"]["applied"] == 2,
        "{said}"
    );

    testbed.subscribers[0].pause()?;
    let put = ["put", FREE, "a", "other"];
    for (wait, reached) in [("all", false), ("3", false), ("50%", true)] {
        let waiting = format!("--wait={wait}");
        let line = [&put[..], &[&waiting, "--timeout", "1500ms"]].concat();
        let (code, said) = confcast(&testbed.publisher, None, &line).await?;
        let expected = if reached { 0 } else { 3 };
        ensure!(code == Some(expected), "{wait}: {said}");
        if !reached {
            for text in [
                "is committed and stays",
                "applied by 1 of 2 replicas",
                "replica-1",
                "behind",
            ] {
                ensure!(said.contains(text), "{wait}: {text}: {said}");
            }
        }
    }
    let undo = ["rollback", FREE, "a", "--to-revision", "1", "--yes"];
    let line = [&undo[..], &["--wait", "--timeout", "500ms"]].concat();
    let (code, said) = confcast(&testbed.publisher, None, &line).await?;
    ensure!(
        code == Some(3) && said.contains("was rolled back") && said.contains("replica-1"),
        "{code:?}: {said}"
    );
    // A long wait goes on in steps until the replica is back.
    let line = [&put[..], &patient].concat();
    let waits = confcast(&testbed.publisher, None, &line);
    let written = async {
        let api = testbed.publisher.api();
        eventually("the write is committed", async || {
            let document = api.document(FREE, "a").await?.expect(200)?.json()?;
            ensure!(document["configData"]["number"] == 2, "{document}");
            Ok(())
        })
        .await?;
        testbed.subscribers[0].resume()
    };
    let (waited, resumed) = tokio::join!(waits, written);
    resumed?;
    let (code, said) = waited?;
    ensure!(
        code == Some(0) && said.contains("applied by 2 of 2 replicas"),
        "{code:?}: {said}"
    );
    Ok(())
}

/// A script must not take a write for one that failed.
#[tokio::test]
async fn a_write_without_an_answer_has_an_exit_code_of_its_own() -> Outcome {
    let mut testbed = Testbed::prepare(StoreKind::Embedded, Transport::Feed).await?;
    testbed.publisher.start().await?;
    let folder = testbed.publisher.folder();
    std::fs::write(folder.join("value"), r#"{"number":1}"#)?;
    testbed.publisher.pause()?;
    let (code, said) = confcast(&testbed.publisher, None, &["put", FREE, "a", "value"]).await?;
    testbed.publisher.resume()?;
    ensure!(
        code == Some(4) && said.contains("it is not known whether this was written"),
        "{code:?}: {said}"
    );
    // Nothing was sent.
    testbed.publisher.kill()?;
    let (code, said) = confcast(&testbed.publisher, None, &["put", FREE, "a", "value"]).await?;
    ensure!(
        code == Some(1) && said.contains("is it running?"),
        "{code:?}: {said}"
    );
    Ok(())
}

#[tokio::test]
async fn a_writer_waits_for_replicas_without_learning_their_names() -> Outcome {
    let mut testbed = Testbed::prepare(StoreKind::Embedded, Transport::Feed).await?;
    let records = testbed.publisher.folder().join("tokens");
    let records = records.display().to_string();
    let mut tokens = Vec::new();
    for (name, more) in [
        ("replica", &[][..]),
        ("writer", &[]),
        ("writer", &["--collections", FREE, "--id-prefix", "team."]),
    ] {
        let create = ["token", "create", "--offline", "--record-file", &records];
        let who = format!("{name}-{}", tokens.len());
        let line = [&create[..], &["--name", &who, "--role", name], more].concat();
        let (code, token) = confcast(&testbed.publisher, None, &line).await?;
        ensure!(code == Some(0), "{token}");
        // What it says beside the token follows.
        let token = token.lines().next().context("a token")?;
        tokens.push(token.to_owned());
    }
    testbed
        .publisher
        .set("AURA_CONFIGURATION_TOKENS_FILE", &records);
    for subscriber in &mut testbed.subscribers {
        subscriber.set("AURA_CONFIGURATION_TOKEN", &tokens[0]);
    }
    testbed.publisher.start().await?;
    testbed.start_subscribers().await?;
    let file = testbed.publisher.folder().join("value");
    std::fs::write(file, r#"{"number":1}"#)?;
    let put = ["put", FREE, "team.a", "value"];
    for token in &tokens[1..] {
        let line = [&put[..], &["--wait", "--timeout", "60s"]].concat();
        let (code, said) = confcast(&testbed.publisher, Some(token), &line).await?;
        ensure!(
            code == Some(0) && said.contains("applied by 2 of 2 replicas"),
            "{code:?}: {said}"
        );
    }
    testbed.subscribers[0].pause()?;
    for token in &tokens[1..] {
        let line = ["delete", FREE, "team.a", "--wait", "--timeout", "1500ms"];
        let (code, said) = confcast(&testbed.publisher, Some(token), &line).await?;
        ensure!(
            code == Some(3)
                && said.contains("applied by 1 of 2 replicas")
                && said.contains("the right observe")
                && !said.contains("replica-1"),
            "{code:?}: {said}"
        );
        let line = ["put", FREE, "team.a", "value"];
        confcast(&testbed.publisher, Some(token), &line).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_wait_of_another_form_is_refused_before_the_write() -> Outcome {
    let testbed = Testbed::start(StoreKind::Embedded, Transport::Local).await?;
    let api = testbed.publisher.api();
    api.create(FREE, &json!({"id": "a"})).await?.expect(201)?;
    for (query, field) in [
        ("?wait=some", "wait"),
        ("?wait=0", "wait"),
        ("?wait=101%25", "wait"),
        ("?wait=all&timeout=5", "timeout"),
        ("?wait=all&timeout=61s", "timeout"),
        ("?timeout=5", "timeout"),
        ("?wait=all&wait=1", "wait"),
    ] {
        let problem = put(&api, query, 1).await?.expect(400)?.json()?;
        ensure!(problem["field"] == field, "{query}: {problem}");
    }
    let path = format!("/v1/collections/{FREE}/applied?revision=99");
    let problem = api.get(&path).await?.expect(404)?.json()?;
    ensure!(
        problem["type"] == "urn:confcast:problem:no-revision",
        "{problem}"
    );
    ensure!(api.head(FREE).await?.revision == 1, "nothing was written");
    Ok(())
}

/// A client that gives up closes its connection, and what waits for it must not stay until its time is
/// over: the slots of all waits are bounded.
#[tokio::test]
async fn a_wait_ends_when_its_client_closes_the_connection() -> Outcome {
    let testbed = Testbed::start(StoreKind::Embedded, Transport::Local).await?;
    let subscriber = testbed.subscribers[0].port();
    for (port, path) in [
        (
            testbed.publisher.port(),
            format!("/v1/collections/{FREE}/applied?wait=250&timeout=60s"),
        ),
        (
            subscriber,
            format!("/v1/collections/{FREE}?min-revision=999&timeout=60s"),
        ),
    ] {
        let mut client = TcpStream::connect(("127.0.0.1", port)).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n");
        client.write_all(request.as_bytes()).await?;
        client.shutdown().await?;
        let mut answer = Vec::new();
        let ended = timeout(Duration::from_secs(20), client.read_to_end(&mut answer)).await;
        ensure!(ended.is_ok(), "{path} waits on");
        ensure!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
    }
    Ok(())
}

/// A replica that follows the feed is asked by it; no reader is asked where no request waits.
#[tokio::test]
async fn the_feed_asks_for_a_check_in_while_a_request_waits() -> Outcome {
    let mut testbed = Testbed::prepare(StoreKind::Embedded, Transport::Feed).await?;
    testbed.publisher.start().await?;
    let api = testbed.publisher.api();
    api.create(FREE, &json!({"id": "a"})).await?.expect(201)?;
    let head = api.head(FREE).await?;
    let since = Since::from([(head.collection, head.revision)]);
    let url = testbed.publisher.url().parse()?;
    let endpoint = Endpoint::new(&url, Timeouts::REPLICA)?;
    let start = FeedStart::After(&since, head.epoch);
    let mut feed = endpoint.live_feed(start).await?;
    let mut next = async || {
        let message = timeout(Duration::from_secs(20), feed.next_message()).await??;
        anyhow::Ok(match message.context("the feed ended")? {
            FeedMessage::Change { .. } => "change",
            FeedMessage::Confirm => "confirm",
            FeedMessage::End { .. } => "end",
        })
    };
    put(&api, "", 1).await?.expect(200)?;
    ensure!(next().await? == "change");
    // No nine replicas follow, so the request waits while the feed is read.
    let waiting = put(&api, "?wait=9&timeout=2s", 2);
    let reading = async { anyhow::Ok([next().await?, next().await?]) };
    let (answer, read) = tokio::try_join!(waiting, reading)?;
    answer.expect(202)?;
    ensure!(read == ["change", "confirm"], "{read:?}");
    Ok(())
}
