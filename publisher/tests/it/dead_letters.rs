//! Dead letters over HTTP: what is refused, what is sent again with `LOCAL`, and that letters in mass
//! cost no more than the bounds.

use std::{os::unix::fs::PermissionsExt as _, time::Duration};

use actix_web::{App, HttpResponse, HttpServer, http::StatusCode, web};
use anyhow::{Context as _, ensure};
use contract::{
    EventData,
    dead_letter::{DeadLetterId, DeadLetterReport, EventSummary, Original},
    signature::SigningKey,
};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    Outcome,
    testbed::{SKILLS, Testbed, context, create, with_publisher},
};

const LETTERS: &str = "/v1/dead-letters";

fn report(original: &Value) -> DeadLetterReport {
    let original = original.to_string();
    let event = EventSummary::of(original.as_bytes());
    DeadLetterReport {
        id: DeadLetterId::of(&event, original.as_bytes()),
        instance: "replica-1".to_owned(),
        cause: "wrong-type".to_owned(),
        detail: "the id is a number\u{1b}[2J".to_owned(),
        event,
        bytes: original.len() as u64,
        original: Original::of(original.as_bytes()),
    }
}

async fn status_of(testbed: &Testbed, report: &DeadLetterReport) -> anyhow::Result<u16> {
    let body = serde_json::to_string(report)?;
    Ok(testbed.send("POST", LETTERS, &[], &body).await?.0)
}

/// Reports an event, and gives the path of its letter.
async fn reported(testbed: &Testbed, original: &Value) -> anyhow::Result<String> {
    let body = serde_json::to_string(&report(original))?;
    let (status, answer) = testbed.send("POST", LETTERS, &[], &body).await?;
    ensure!(status == 200, answer);
    let answer: Value = serde_json::from_str(&answer)?;
    Ok(format!(
        "{LETTERS}/{}",
        answer["id"].as_str().unwrap_or_default()
    ))
}

fn event(data: &Value) -> Value {
    json!({"specversion": "1.0", "id": "1", "source": "s", "type": "t", "topic": SKILLS,
        "expiration": "2026-01-01T00:00:00Z", "data": data})
}

#[tokio::test]
async fn a_letter_is_sent_again_as_the_log_has_it_or_as_it_was() -> Outcome {
    with_publisher(&[], async |testbed| {
        testbed
            .changes
            .unit(context())
            .publish(create(SKILLS, "a"))
            .await?;
        let first = testbed.event().await?;
        // A forged value does not travel: the log decides.
        let mut forged = first.clone();
        forged["data"]["configData"] = json!({"forged": true});
        let letter = reported(testbed, &forged).await?;
        let (status, answer) = testbed
            .send("POST", &format!("{letter}/replay"), &[], "{}")
            .await?;
        ensure!(
            status == 200 && answer.contains(r#""sent":"change""#),
            "{status} {answer}"
        );
        let again = testbed.event().await?;
        ensure!(
            again["id"] == first["id"] && again["data"] == first["data"],
            "{again}"
        );

        let data = json!({"collection": SKILLS, "op": "Update", "id": "b", "n": 1.5});
        let letter = reported(testbed, &event(&data)).await?;
        let dry = r#"{"dryRun":true}"#;
        let path = format!("{letter}/replay");
        let (status, answer) = testbed.send("POST", &path, &[], dry).await?;
        ensure!(
            status == 200
                && answer.contains(r#""sent":"original""#)
                && !answer.contains(r#""replayed""#),
            "{status} {answer}"
        );
        ensure!(testbed.another_event().is_none(), "it was sent");
        let (status, answer) = testbed
            .send("POST", &format!("{letter}/replay"), &[], "{}")
            .await?;
        ensure!(
            status == 200 && answer.contains(r#""sent":"original","takenBy":1,"notTakenBy":0"#),
            "{status} {answer}"
        );
        let again = testbed.event().await?;
        ensure!(again["id"] == "1" && again["data"] == data, "{again}");
        ensure!(again["expiration"].as_str() > Some("2026-06"), "{again}");

        // What the log does not have is refused, and so is what no replica could read.
        let mut other = first.clone();
        other["id"] = json!("other");
        other["data"]["revision"] = json!(7);
        for (original, reason) in [
            (other, "has no revision 7"),
            (
                event(&json!({"collection": SKILLS, "op": "Update", "id": 7})),
                "no event of a collection",
            ),
            (
                event(&json!({"collection": "Unknown", "op": "Update", "id": "a"})),
                "does not serve",
            ),
        ] {
            testbed
                .send("DELETE", &format!("{LETTERS}?all=true"), &[], "")
                .await?;
            let letter = reported(testbed, &original).await?;
            let (status, answer) = testbed
                .send("POST", &format!("{letter}/replay"), &[], "{}")
                .await?;
            ensure!(
                status == 409 && answer.contains(reason),
                "{reason}: {status} {answer}"
            );
            let (_status, shown) = testbed.send("GET", &letter, &[], "").await?;
            ensure!(
                !shown.contains("\u{1b}") && !shown.contains("replayed"),
                "{shown}"
            );
        }
        ensure!(testbed.another_event().is_none(), "nothing was sent");
        Ok(())
    })
    .await
}

/// A port that refuses connections, and subscribers that answer in other ways than taking the event.
/// Another publisher may have another key, and this one knows no key of before its start.
#[tokio::test]
async fn a_true_event_of_a_key_that_is_not_known_becomes_a_letter_and_a_forged_one_does_not()
-> Outcome {
    let [key, other] = [1, 2].map(|byte| SigningKey::from_seed(&[byte; 32]));
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("signing-key.pem");
    std::fs::write(&file, key.to_pem()?)?;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))?;
    let flag = format!("--signing-key-file={}", file.display());
    with_publisher(&[&flag], async |testbed| {
        testbed
            .changes
            .unit(context())
            .publish(create(SKILLS, "a"))
            .await?;
        let by_this = testbed.event().await?;
        let signed_by_other = |change: &dyn Fn(&mut Value)| {
            let mut event = by_this.clone();
            change(&mut event["data"]);
            let data: EventData = serde_json::from_value(event["data"].clone())?;
            let statement = data.statement().context("a revision")?;
            event["data"]["signature"] = json!(other.sign(&statement));
            anyhow::Ok(event)
        };
        let letter = reported(testbed, &signed_by_other(&|_same| {})?).await?;
        let replay = format!("{letter}/replay");
        let (replayed, answer) = testbed.send("POST", &replay, &[], "{}").await?;
        ensure!(replayed == 200, answer);
        let again = testbed.event().await?;
        ensure!(again["data"] == by_this["data"], "{again}");

        for (name, value) in [
            ("id", json!("b")),
            ("lastSet", json!(1)),
            ("configData", json!({"forged": true})),
            ("epoch", json!("00000001-1")),
        ] {
            let mut forged = signed_by_other(&|data| data[name] = value.clone())?;
            let part = |member: &str| forged["data"][member].to_string().replace('"', "");
            forged["id"] = json!([part("collection"), part("epoch"), part("revision")].join(":"));
            ensure!(
                status_of(testbed, &report(&forged)).await? == 400,
                "{forged}"
            );
        }

        // Of a large event only a part is reported. What names a change of the log is kept.
        let part_of = |change: &dyn Fn(&mut EventSummary)| {
            let mut part = report(&by_this);
            change(&mut part.event);
            part.bytes = 1 << 20;
            part.original = Original::of(br#"{"specversion":"1.0","#);
            part
        };
        ensure!(status_of(testbed, &part_of(&|_same| {})).await? == 200);
        ensure!(
            status_of(
                testbed,
                &part_of(&|event| event.document = "b".parse().ok())
            )
            .await?
                == 400
        );
        ensure!(status_of(testbed, &part_of(&|event| event.revision = Some(2))).await? == 400);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_event_that_no_subscriber_took_leaves_its_letter_open() -> Outcome {
    for (answer, words) in [
        (None, "1 cannot be reached"),
        (Some(r#"{"status":"DROP"}"#), "1 answered DROP"),
        (Some(r#"{"status":"RETRY"}"#), "1 cannot be reached"),
        (Some("500"), "1 cannot be reached"),
        (Some("401"), "1 cannot be reached"),
    ] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}", listener.local_addr()?);
        let refusing = async {
            match answer {
                Some(answer) => Ok(answering(listener, answer)?.await?),
                None => {
                    drop(listener);
                    std::future::pending().await
                }
            }
        };
        let options = ["--local-subscribers", &url];
        let tested = with_publisher(&options, async |testbed| {
            let data = json!({"collection": SKILLS, "op": "Update", "id": "b"});
            let letter = reported(testbed, &event(&data)).await?;
            let replay = format!("{letter}/replay");
            let (status, answer) = testbed.send("POST", &replay, &[], "{}").await?;
            ensure!(
                status == 503 && answer.contains(words),
                "{words}: {status} {answer}"
            );
            let (_status, shown) = testbed.send("GET", &letter, &[], "").await?;
            ensure!(!shown.contains(r#""replayed""#), "{words}: {shown}");
            Ok(())
        });
        let outcome: Outcome = tokio::select! {
            ended = refusing => ended,
            tested = tested => tested,
        };
        outcome?;
    }
    Ok(())
}

/// A subscriber of the collection that answers every event with this status or body.
fn answering(
    listener: std::net::TcpListener,
    answer: &'static str,
) -> anyhow::Result<actix_web::dev::Server> {
    let server = HttpServer::new(move || {
        let topics = json!([{"pubsubname": "pubsub-config", "topic": SKILLS, "routes": {"default": "/events"}}]);
        let reply = move || {
            std::future::ready(match answer.parse::<u16>() {
                Ok(status) => {
                    HttpResponse::build(StatusCode::from_u16(status).expect("a status")).finish()
                }
                Err(_body) => HttpResponse::Ok().body(answer),
            })
        };
        App::new()
            .route(
                "/dapr/subscribe",
                web::get().to(move || std::future::ready(HttpResponse::Ok().json(&topics))),
            )
            .route("/events", web::post().to(reply))
    });
    Ok(server.workers(1).disable_signals().listen(listener)?.run())
}

/// Nothing but ids travels where ids alone are published.
#[tokio::test]
async fn an_id_only_event_is_sent_again_and_one_with_more_is_not() -> Outcome {
    let options = ["--id-only-collections", SKILLS];
    with_publisher(&options, async |testbed| {
        let letter = reported(testbed, &event(&json!({"id": "a"}))).await?;
        let filter = format!("{LETTERS}?collection={SKILLS}");
        let (_status, list) = testbed.send("GET", &filter, &[], "").await?;
        ensure!(list.contains(r#""document":"a""#), "{list}");
        let replay = format!("{letter}/replay");
        let (status, answer) = testbed.send("POST", &replay, &[], "{}").await?;
        ensure!(status == 200, answer);
        let again = testbed.event().await?;
        ensure!(again["data"] == json!({"id": "a"}), "{again}");

        let mut more = event(&json!({"collection": SKILLS, "op": "Update", "id": "a"}));
        more["id"] = json!("2");
        let letter = reported(testbed, &more).await?;
        let replay = format!("{letter}/replay");
        let (status, answer) = testbed.send("POST", &replay, &[], "{}").await?;
        ensure!(
            status == 409 && answer.contains("ids alone"),
            "{status} {answer}"
        );
        ensure!(testbed.another_event().is_none(), "it was sent");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn requests_that_are_not_valid_are_refused_and_change_nothing() -> Outcome {
    with_publisher(&[], async |testbed| {
        let letter = reported(testbed, &json!("x")).await?;
        let absent = format!("{LETTERS}/{}", "0".repeat(32));
        for (method, path, body, status) in [
            ("GET", absent.as_str(), "", 404),
            ("DELETE", &absent, "", 404),
            ("POST", &format!("{absent}/replay"), "{}", 404),
            ("POST", &format!("{letter}/replay"), "", 415),
            ("POST", &format!("{letter}/replay"), r#"{"a":1}"#, 400),
            ("GET", "/v1/dead-letters/x", "", 400),
            ("GET", "/v1/dead-letters?reason=lost", "", 400),
            ("GET", "/v1/dead-letters?before=x", "", 400),
            ("DELETE", LETTERS, "", 400),
            ("DELETE", "/v1/dead-letters?all=false", "", 400),
            ("POST", LETTERS, "{}", 400),
            ("POST", LETTERS, "[]", 400),
            ("POST", "/dapr/deadLetters", "", 415),
        ] {
            let (given, answer) = testbed.send(method, path, &[], body).await?;
            ensure!(given == status, "{method} {path} {body}: {given} {answer}");
        }
        let (_status, list) = testbed.send("GET", LETTERS, &[], "").await?;
        let list: Value = serde_json::from_str(&list)?;
        ensure!(list["kept"] == 1 && list["open"] == 1, "{list}");
        let (status, topics) = testbed.send("GET", "/dapr/subscribe", &[], "").await?;
        ensure!(status == 200 && topics == "[]", "{topics}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn forged_letters_in_mass_are_bounded_and_do_not_delay_writes() -> Outcome {
    with_publisher(&[], async |testbed| {
        let bodies: Vec<_> = (0..1_500)
            .map(|number| serde_json::to_string(&report(&json!(number))).expect("json"))
            .collect();
        let flood = async {
            for chunk in bodies.chunks(8) {
                let sent = chunk
                    .iter()
                    .map(|body| testbed.send("POST", LETTERS, &[], body));
                for answer in futures_util::future::join_all(sent).await {
                    let (status, answer) = answer?;
                    ensure!(status == 200, "{status} {answer}");
                }
            }
            anyhow::Ok(())
        };
        let writes = async {
            for number in 0..20 {
                let id = format!("w{number}");
                let unit = testbed.changes.unit(context());
                timeout(Duration::from_secs(10), unit.publish(create(SKILLS, &id))).await??;
            }
            anyhow::Ok(())
        };
        let (flooded, written) = tokio::join!(flood, writes);
        flooded?;
        written?;
        let newest = format!("{LETTERS}?limit=100");
        let (_status, list) = testbed.send("GET", &newest, &[], "").await?;
        let list: Value = serde_json::from_str(&list)?;
        ensure!(list["kept"] == 1_000, "{list}");
        let last = report(&json!(1_499)).id.to_string();
        let items = list["items"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        ensure!(
            items.iter().any(|item| item["id"] == last.as_str()),
            "{list}"
        );
        let (_status, metrics) = testbed.send("GET", "/metrics", &[], "").await?;
        ensure!(
            metrics.contains("confcast_dead_letters_evicted_total 500\n"),
            metrics
        );
        Ok(())
    })
    .await
}
