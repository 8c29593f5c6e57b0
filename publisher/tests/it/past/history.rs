//! Which changes were made, and documents as they were.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use serde_json::{Value, json};

use super::{LIST, with_both_stores};
use crate::{
    Outcome,
    testbed::{AGENTS, SKILLS, with_publisher},
};

fn revisions(items: &[Value]) -> Vec<u64> {
    let all = items.iter();
    all.map(|item| item["revision"].as_u64().unwrap_or_default())
        .collect()
}

#[derive(Debug, Clone)]
enum Act {
    Put(u8, u8),
    Delete(u8),
    Set(u8, u8, u8),
}

fn acts() -> Vec<Act> {
    let act = prop_oneof![
        3 => (0..6_u8, any::<u8>()).prop_map(|(id, n)| Act::Put(id, n)),
        2 => (0..6_u8).prop_map(Act::Delete),
        1 => (0..6_u8, 1..6_u8, any::<u8>()).prop_map(|(id, other, n)| Act::Set(id, other, n)),
    ];
    let mut runner = TestRunner::deterministic();
    prop::collection::vec(act, 40)
        .new_tree(&mut runner)
        .expect("acts")
        .current()
}

#[tokio::test]
async fn every_revision_and_time_is_answered_as_it_was() -> Outcome {
    with_both_stores(async |publisher| {
        let mut states = vec![BTreeMap::new()];
        let mut state = BTreeMap::<String, Value>::new();
        for act in acts() {
            let mut put = async |id: String, n: u8| {
                let value = json!({"n": n});
                let written = publisher.put(&id, value.clone()).await?;
                if written["changed"] == true {
                    state.insert(id, value);
                    states.push(state.clone());
                }
                anyhow::Ok(())
            };
            match act {
                Act::Put(id, n) => put(id.to_string(), n).await?,
                Act::Delete(id) => {
                    if state.remove(&id.to_string()).is_some() {
                        publisher.delete(&id.to_string()).await?;
                        states.push(state.clone());
                    }
                }
                Act::Set(id, other, n) => {
                    // Each of two documents exists afterwards, with a value that is new to it.
                    let ids = [id.to_string(), ((id + other) % 6).to_string()];
                    if ids[0] == ids[1] {
                        continue;
                    }
                    let change = |id: &String| {
                        let op = if state.contains_key(id) {
                            "Replace"
                        } else {
                            "Create"
                        };
                        let value = json!({"set": states.len(), "n": n});
                        json!({"collection": SKILLS, "op": op, "id": id, "configData": value})
                    };
                    let changes: Vec<_> = ids.iter().map(change).collect();
                    publisher.set(json!(changes)).await?;
                    for (id, change) in ids.into_iter().zip(changes) {
                        state.insert(id, change["configData"].clone());
                        states.push(state.clone());
                    }
                }
            }
        }
        let history = publisher
            .pages("/v1/collections/Skills/history", "limit=256")
            .await?;
        ensure!(
            history.len() + 1 == states.len(),
            "{} changes",
            history.len()
        );
        for (revision, expected) in states.iter().enumerate() {
            let query = format!("?revision={revision}");
            ensure!(publisher.state(&query).await? == *expected, "at {revision}");
            for id in 0..6 {
                let path = format!("{LIST}/{id}{query}");
                let value = expected.get(&id.to_string());
                let status = if value.is_some() { 200 } else { 404 };
                let document = publisher
                    .json(("GET", &path), &[], &Value::Null, status)
                    .await?;
                ensure!(
                    value.is_none_or(|value| document["configData"] == *value),
                    "{path}"
                );
            }
        }
        // The time of a change answers the newest change of that millisecond.
        for item in &history {
            let time = item["time"].as_str().context("a time")?;
            let same = history.iter().find(|other| other["time"] == item["time"]);
            let revision = same
                .and_then(|item| item["revision"].as_u64())
                .context("a revision")?;
            let found = publisher.state(&format!("?at={time}")).await?;
            ensure!(found == states[usize::try_from(revision)?], "at {time}");
        }
        ensure!(
            publisher
                .state("?at=2020-01-01T00:00:00Z")
                .await?
                .is_empty()
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_answer_about_the_past_has_its_revision_digest_count_and_tag() -> Outcome {
    with_both_stores(async |publisher| {
        publisher.put("a", json!({"n": 1})).await?;
        let head = publisher.get("/v1/collections/Skills").await?;
        publisher.put("a", json!({"n": 2})).await?;
        let epoch = head["epoch"].as_str().unwrap_or_default();
        for path in [format!("{LIST}/a?revision=1"), format!("{LIST}?revision=1")] {
            let answer = publisher.ask(&format!("GET {path}"), "", "").await?;
            ensure!(answer.status == 200, "{answer:?}");
            ensure!(answer.header("confcast-revision") == Some(format!("{epoch}-1")));
            ensure!(answer.header("confcast-digest").as_deref() == head["digest"].as_str());
            ensure!(answer.header("confcast-count").as_deref() == Some("1"));
            ensure!(answer.header("cache-control").as_deref() == Some("private, max-age=60"));
            let etag = answer.header("etag").context("a tag")?;
            let known = format!("If-None-Match: {etag}\r\n");
            let answer = publisher.ask(&format!("GET {path}"), &known, "").await?;
            ensure!(answer.status == 304, "{answer:?}");
        }
        // Also an answer that says that a document did not exist.
        let line = format!("GET {LIST}/a?revision=0");
        let answer = publisher.ask(&line, "", "").await?;
        ensure!(answer.problem() == "no-data", "{answer:?}");
        ensure!(answer.header("confcast-revision") == Some(format!("{epoch}-0")));
        let lines = "Accept: application/x-ndjson\r\n";
        let line = format!("GET {LIST}?revision=1");
        let answer = publisher.ask(&line, lines, "").await?;
        ensure!(
            answer.body.contains(r#"{"end":true,"count":1}"#),
            "{answer:?}"
        );
        ensure!(
            answer.body.contains(r#""configData":{"n":1}"#),
            "{answer:?}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_point_that_cannot_be_answered_is_a_problem_that_says_why() -> Outcome {
    with_publisher(&[], async |publisher| {
        publisher.put("a", json!({"n": 1})).await?;
        for (query, status, problem, field) in [
            ("revision=2", 404, "no-revision", ""),
            ("revision=-1", 400, "bad-request", "revision"),
            (
                "revision=18446744073709551615",
                400,
                "bad-request",
                "revision",
            ),
            (
                "revision=1&at=2026-01-01T00:00:00Z",
                400,
                "bad-request",
                "at",
            ),
            ("revision=1&snapshot=x", 400, "bad-request", "snapshot"),
            ("at=yesterday", 400, "bad-request", "at"),
            ("snapshot=a/b", 400, "bad-request", "snapshot"),
            ("snapshot=none", 404, "no-snapshot", ""),
            ("rev=1", 400, "bad-request", "rev"),
        ] {
            for path in [format!("{LIST}/a?{query}"), format!("{LIST}?{query}")] {
                let answer = publisher.ask(&format!("GET {path}"), "", "").await?;
                let found: Value = serde_json::from_str(&answer.body)?;
                ensure!(
                    answer.status == status && answer.problem() == problem,
                    "{answer:?}"
                );
                ensure!(
                    found["field"].as_str().unwrap_or_default() == field,
                    "{found}"
                );
            }
        }
        for (query, field) in [
            ("op=Created", "op"),
            ("from=1", "from"),
            ("text=", "text"),
            ("before=x", "before"),
            ("id=a%20b", "id"),
            ("limit=x", "limit"),
            ("limit=-1", "limit"),
            ("limit=99999999999999999999", "limit"),
        ] {
            let answer = publisher
                .ask(&format!("GET /v1/history?{query}"), "", "")
                .await?;
            let found: Value = serde_json::from_str(&answer.body)?;
            ensure!(answer.status == 400, "{answer:?}");
            ensure!(
                found["field"].as_str().unwrap_or_default() == field,
                "{found}"
            );
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn history_is_paged_filtered_and_says_what_each_change_did() -> Outcome {
    with_both_stores(async |publisher| {
        for n in 0..5 {
            publisher.put("a", json!({"n": n, "same": true})).await?;
        }
        let author = [
            ("x-user-id", "ada"),
            ("x-organisation-id", "hectare"),
            ("x-correlation-id", "order-66"),
            ("x-change-reason", "a typing error"),
        ];
        let path = format!("{LIST}/a");
        let red = json!({"n": 5, "colour": "red"});
        let exact = [&author[..], &[("confcast-write", "exact")]].concat();
        publisher.json(("PUT", &path), &exact, &red, 200).await?;
        let set = publisher
            .set(json!([
                {"collection": AGENTS, "op": "Create", "id": "a", "configData": {}},
                {"collection": SKILLS, "op": "Create", "id": "b", "configData": {"x": 1}},
            ]))
            .await?;
        let set = set["id"].as_str().context("an id")?;
        publisher
            .json(("DELETE", &path), &author, &Value::Null, 200)
            .await?;

        let document = format!("{path}/history");
        for limit in [1, 2, 3, 256] {
            let found = publisher
                .pages(&document, &format!("limit={limit}"))
                .await?;
            ensure!(revisions(&found) == [8, 6, 5, 4, 3, 2, 1], "{found:?}");
            let found = publisher
                .pages("/v1/history", &format!("limit={limit}"))
                .await?;
            ensure!(found.len() == 9, "{found:?}");
        }
        let collection = "/v1/collections/Skills/history";
        for (query, expected) in [
            ("user=ada", &[8, 6][..]),
            ("user=ada&op=Update", &[6]),
            ("op=Create", &[7, 1]),
            ("op=Delete", &[8]),
            ("id=b", &[7]),
            ("text=%22colour%22", &[6]),
            ("text=RED", &[]),
            ("to=2020-01-01T00:00:00Z", &[]),
            ("from=2020-01-01T00:00:00Z&id=b", &[7]),
            (&format!("set={set}"), &[7]),
            ("set=none", &[]),
        ] {
            let found = publisher.pages(collection, query).await?;
            ensure!(revisions(&found) == expected, "{query} {found:?}");
        }
        let both = publisher
            .pages("/v1/history", &format!("set={set}"))
            .await?;
        ensure!(
            both.len() == 2 && both.iter().all(|item| item["setId"] == *set),
            "{both:?}"
        );

        let found = publisher.pages(&document, "limit=256").await?;
        let (deleted, red, created) = (&found[0], &found[1], &found[6]);
        for (member, value) in [
            ("userId", "ada"),
            ("organisationId", "hectare"),
            ("correlationId", "order-66"),
            ("reason", "a typing error"),
            ("collection", SKILLS),
            ("id", "a"),
        ] {
            ensure!(red[member] == value, "{red}");
        }
        let differences = json!([
            {"pointer": "/n", "before": 4, "after": 5},
            {"pointer": "/same", "before": true},
            {"pointer": "/colour", "after": "red"},
        ]);
        ensure!(red["diff"] == differences, "{red}");
        ensure!(red["crc"].is_string() && deleted["crc"].is_null());
        let whole = json!([{"pointer": "", "before": {"n": 5, "colour": "red"}}]);
        ensure!(
            deleted["op"] == "Delete" && deleted["diff"] == whole,
            "{deleted}"
        );
        let whole = json!([{"pointer": "", "after": {"n": 0, "same": true}}]);
        ensure!(
            created["op"] == "Create" && created["diff"] == whole,
            "{created}"
        );
        Ok(())
    })
    .await
}
