//! Limits as settings: at the limit a request is answered, one beyond it is refused by a problem that
//! names the setting; and a replica is not kept out of step by other clients of its address.

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use anyhow::ensure;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    sync::mpsc,
    time::{sleep, timeout},
};

use super::{
    Outcome,
    testbed::{SKILLS, Testbed, context, create, subscriber_of, with_publisher},
};

const JSON: &str = "Content-Type: application/json\r\n";
const LIST: &str = "/v1/collections/Skills/documents";
const CHECK_IN: &str = "/v1/replicas/r";
/// A time that no test waits for unless it fails.
const DEADLINE: Duration = Duration::from_secs(20);

/// The statuses of so many requests, and the answer that was refused last.
async fn burst(
    publisher: &Testbed,
    count: usize,
    line: &str,
    body: &str,
) -> anyhow::Result<(Vec<u16>, Option<Value>)> {
    let mut statuses = Vec::new();
    let mut refusal = None;
    for number in 0..count {
        let body = body.replace("NUMBER", &number.to_string());
        let answer = publisher.ask(line, JSON, &body).await?;
        statuses.push(answer.status);
        if answer.status == 429 {
            let wait: u64 = answer.header("retry-after").unwrap_or_default().parse()?;
            assert!((1..=2).contains(&wait), "{answer:?}");
            refusal = Some(serde_json::from_str(&answer.body)?);
        }
    }
    Ok((statuses, refusal))
}

/// Waits until the list is answered again.
async fn until_the_list_is_sent(publisher: &Testbed) -> Outcome {
    let begun = Instant::now();
    while publisher.send("GET", LIST, &[], "").await?.0 != 200 {
        assert!(begun.elapsed() < DEADLINE);
        sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

fn named(refusal: Option<Value>, setting: &str) {
    let refusal = refusal.unwrap_or_default();
    assert_eq!(
        refusal["type"], "urn:confcast:problem:too-many-requests",
        "{refusal}"
    );
    assert!(refusal["detail"].to_string().contains(setting), "{refusal}");
}

#[tokio::test]
async fn a_caller_beyond_its_rate_is_refused_and_its_replica_is_not() -> Outcome {
    let rates = [
        "--limit-reads-per-second",
        "2",
        "--limit-writes-per-second",
        "1",
    ];
    with_publisher(&rates, async |publisher| {
        let (statuses, refusal) = burst(publisher, 30, &format!("GET {LIST}"), "").await?;
        assert_eq!(statuses[..2], [200; 2]);
        assert!(statuses.contains(&429), "{statuses:?}");
        named(refusal, "AURA_CONFIGURATION_LIMIT_READS_PER_SECOND");
        let new = r#"{"id":"NUMBER"}"#;
        let (statuses, refusal) = burst(publisher, 30, &format!("POST {LIST}"), new).await?;
        assert_eq!(statuses[..1], [201]);
        named(refusal, "AURA_CONFIGURATION_LIMIT_WRITES_PER_SECOND");
        // Meanwhile, from the same address: what a replica sends, and the health of the process.
        let report = json!({
            "instance": "r", "bootId": "b", "intervalMs": 10_000, "collections": {},
        });
        let check_in = format!("PUT {CHECK_IN}");
        for (line, body) in [
            (check_in.as_str(), report.to_string()),
            ("GET /v1/changes?since=Skills:0", String::new()),
            ("GET /v1/snapshot", String::new()),
            ("GET /healthz", String::new()),
        ] {
            let (statuses, _refusal) = burst(publisher, 10, line, &body).await?;
            let all = |status| statuses == [status; 10];
            assert!(all(200) || all(204), "{line}: {statuses:?}");
        }
        // After the time that was named the caller is answered again.
        until_the_list_is_sent(publisher).await
    })
    .await
}

#[tokio::test]
async fn without_a_setting_no_rate_is_limited() -> Outcome {
    with_publisher(&[], async |publisher| {
        let (statuses, _refusal) = burst(publisher, 300, &format!("GET {LIST}"), "").await?;
        assert_eq!(statuses, [200; 300]);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_streams_of_the_setting_are_open_and_the_next_is_refused() -> Outcome {
    with_publisher(&["--limit-streams", "3"], async |publisher| {
        let url = format!("http://{}/v1/changes", publisher.address());
        let client = e2e::http().build().expect("a client");
        let open = || {
            client
                .get(&url)
                .header("accept", "text/event-stream")
                .send()
        };
        let mut streams = Vec::new();
        for _within in 0..3 {
            let stream = open().await?;
            assert_eq!(stream.status(), 200);
            streams.push(stream);
        }
        let refused = open().await?;
        assert_eq!(refused.status(), 503);
        let refused = refused.text().await?;
        assert!(
            refused.contains("limit of 3") && refused.contains("AURA_CONFIGURATION_LIMIT_STREAMS"),
            "{refused}"
        );
        streams.pop();
        let begun = Instant::now();
        while open().await?.status() != 200 {
            assert!(begun.elapsed() < DEADLINE);
            sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    })
    .await
}

/// A reader that takes the beginning of a list and then nothing more.
async fn stalled_list(publisher: &Testbed) -> anyhow::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(16 << 10)?;
    let mut reader = socket.connect(publisher.address().parse()?).await?;
    let request = format!("GET {LIST} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    reader.write_all(request.as_bytes()).await?;
    let mut status = [0; 12];
    timeout(DEADLINE, reader.read_exact(&mut status)).await??;
    assert_eq!(&status, b"HTTP/1.1 200");
    Ok(reader)
}

#[tokio::test]
async fn the_lists_of_the_setting_are_sent_and_the_next_is_refused() -> Outcome {
    with_publisher(&["--limit-lists", "2"], async |publisher| {
        // More than the kernel keeps for a reader that takes nothing.
        for number in 0..16 {
            let body = json!({"id": number.to_string(), "text": "x".repeat(200_000)});
            let answer = publisher
                .ask(&format!("POST {LIST}"), JSON, &body.to_string())
                .await?;
            assert_eq!(answer.status, 201);
        }
        let _first = stalled_list(publisher).await?;
        let second = stalled_list(publisher).await?;
        let refused = publisher.ask(&format!("GET {LIST}"), "", "").await?;
        assert_eq!(
            (refused.status, refused.problem().as_str()),
            (503, "loads-under-way"),
            "{refused:?}"
        );
        assert!(
            refused.body.contains("AURA_CONFIGURATION_LIMIT_LISTS"),
            "{refused:?}"
        );
        // Other reads need no slot.
        let (status, _head) = publisher
            .send("GET", "/v1/collections/Skills", &[], "")
            .await?;
        assert_eq!(status, 200);
        drop(second);
        until_the_list_is_sent(publisher).await
    })
    .await
}

/// Everything that comes until the connection ends. A refusal may end it with an error, as not all of
/// the request was read.
async fn answered(connection: &mut TcpStream) -> anyhow::Result<String> {
    let mut answer = Vec::new();
    let reading = async { while let Ok(1..) = connection.read_buf(&mut answer).await {} };
    timeout(DEADLINE, reading).await?;
    Ok(String::from_utf8(answer)?)
}

/// Longer than what is free of each body.
const COUNTED_BODY: usize = 70_000;

#[tokio::test]
async fn bodies_of_the_setting_arrive_together_and_the_next_is_refused() -> Outcome {
    const LIMIT: usize = 8_388_608;
    const HALF: usize = LIMIT / 2;
    // What is sent is far ahead of the minimum rate, so that the rest of a half may wait.
    const REST: usize = 64 << 10;
    with_publisher(
        &["--limit-bodies-bytes", &LIMIT.to_string()],
        async |publisher| {
            let address = publisher.address().to_owned();
            let begin = async |length: usize, sent: usize| {
                let mut body = TcpStream::connect(&address).await?;
                let head = format!(
                    "PUT {LIST}/a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{JSON}"
                );
                let length = format!("Content-Length: {length}\r\n\r\n");
                body.write_all((head + &length).as_bytes()).await?;
                body.write_all(&vec![b' '; sent]).await?;
                anyhow::Ok(body)
            };
            let mut halves = Vec::new();
            for _half in 0..2 {
                halves.push(begin(HALF, HALF - REST).await?);
            }
            let next = async || answered(&mut begin(COUNTED_BODY, COUNTED_BODY).await?).await;
            let refused = next().await?;
            assert!(
                refused.starts_with("HTTP/1.1 503")
                    && refused.contains("urn:confcast:problem:busy")
                    && refused.contains("AURA_CONFIGURATION_LIMIT_BODIES_BYTES"),
                "{refused}"
            );
            // Short bodies need nothing of it: this one is read, and there is no such document.
            let short = publisher.ask(&format!("PUT {LIST}/a"), JSON, "{}").await?;
            assert_eq!(short.status, 404, "{short:?}");
            for mut half in halves {
                half.write_all(&[b' '; REST]).await?;
                let answer = answered(&mut half).await?;
                assert!(answer.contains("urn:confcast:problem:bad-body"), "{answer}");
            }
            let answer = next().await?;
            assert!(answer.contains("urn:confcast:problem:bad-body"), "{answer}");
            Ok(())
        },
    )
    .await
}

#[tokio::test]
async fn a_local_subscriber_beyond_the_setting_gets_no_events() -> Outcome {
    with_publisher(&["--limit-local-subscribers", "1"], async |publisher| {
        let mut servers = Vec::new();
        let mut received = Vec::new();
        for name in ["within", "beyond"] {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let report = json!({
                "instance": name, "bootId": "b", "intervalMs": 10_000, "collections": {},
                "baseUrl": format!("http://{}", listener.local_addr()?),
            });
            let (sender, events) = mpsc::unbounded_channel();
            servers.push(subscriber_of(sender, listener)?);
            received.push(events);
            let line = format!("PUT /v1/replicas/{name}");
            let answer = publisher.ask(&line, JSON, &report.to_string()).await?;
            assert_eq!(answer.status, 200, "{answer:?}");
        }
        let events = async {
            let begun = Instant::now();
            // An event may be lost; the one that is not is proof.
            for number in 0.. {
                ensure!(begun.elapsed() < DEADLINE, "no event within the limit");
                let unit = publisher.changes.unit(context());
                unit.publish(create(SKILLS, &format!("d{number}"))).await?;
                // The one of the settings has no part in the limit.
                publisher.event().await?;
                if let Ok(event) = timeout(DEADLINE / 10, received[0].recv()).await {
                    ensure!(event.is_some(), "the subscriber within the limit ended");
                    break;
                }
            }
            Ok(())
        };
        tokio::select! {
            ended = futures_util::future::select_all(servers) => anyhow::bail!("{:?}", ended.0),
            events = events => events?,
        }
        assert!(received[1].try_recv().is_err(), "one beyond the limit");
        Ok(())
    })
    .await
}
