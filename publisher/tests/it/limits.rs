//! Limits as settings: at the limit a request is answered, one beyond it is refused by a problem that
//! names the setting; and a replica is not kept out of step by other clients of its address.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{
    Outcome,
    testbed::{Testbed, with_publisher},
};

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
    let json = "Content-Type: application/json\r\n";
    let mut statuses = Vec::new();
    let mut refusal = None;
    for number in 0..count {
        let body = body.replace("NUMBER", &number.to_string());
        let answer = publisher.ask(line, json, &body).await?;
        statuses.push(answer.status);
        if answer.status == 429 {
            let wait: u64 = answer.header("retry-after").unwrap_or_default().parse()?;
            assert!((1..=2).contains(&wait), "{answer:?}");
            refusal = Some(serde_json::from_str(&answer.body)?);
        }
    }
    Ok((statuses, refusal))
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
        let begun = Instant::now();
        while publisher.send("GET", LIST, &[], "").await?.0 != 200 {
            assert!(begun.elapsed() < DEADLINE);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
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
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    })
    .await
}
