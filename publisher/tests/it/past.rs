//! The past over HTTP, on both stores: history, documents as they were, rollbacks and snapshots.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use e2e::testbed::{mongod::Mongod, wait::eventually};
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use serde_json::{Value, json};

use super::{
    Outcome,
    testbed::{AGENTS, SKILLS, Testbed, with_publisher},
};

const LIST: &str = "/v1/collections/Skills/documents";

/// Runs a test with the embedded store and with MongoDB.
async fn with_both_stores(test: impl AsyncFn(&mut Testbed) -> Outcome) -> Outcome {
    with_publisher(&[], &test)
        .await
        .context("the embedded store")?;
    let server = Mongod::start().await?;
    with_publisher(&["--store-url", &server.url("past")], &test)
        .await
        .context("MongoDB")
}

impl Testbed {
    /// Sends a request with a body and gives the answer as JSON, which must have this status.
    async fn json(
        &self,
        (method, path): (&str, &str),
        headers: &[(&str, &str)],
        body: &Value,
        status: u16,
    ) -> anyhow::Result<Value> {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let (found, text) = self.send(method, path, headers, &body).await?;
        ensure!(
            found == status,
            "{method} {path} {body} was answered {found}: {text}"
        );
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }

    async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.json(("GET", path), &[], &Value::Null, 200).await
    }

    async fn put(&self, id: &str, value: Value) -> anyhow::Result<Value> {
        let path = format!("{LIST}/{id}");
        let exact = [("confcast-write", "exact")];
        let (status, _text) = self.send("GET", &path, &[], "").await?;
        if status == 404 {
            let create = [("if-none-match", "*")];
            return self.json(("PUT", &path), &create, &value, 201).await;
        }
        self.json(("PUT", &path), &exact, &value, 200).await
    }

    async fn delete(&self, id: &str) -> anyhow::Result<Value> {
        let path = format!("{LIST}/{id}");
        self.json(("DELETE", &path), &[], &Value::Null, 200).await
    }

    async fn set(&self, changes: Value) -> anyhow::Result<Value> {
        let body = json!({"changes": changes});
        self.json(("POST", "/v1/changes"), &[], &body, 200).await
    }

    async fn roll_back(&self, path: &str, body: Value, status: u16) -> anyhow::Result<Value> {
        self.json(("POST", &format!("{path}/rollback")), &[], &body, status)
            .await
    }

    /// The values of all documents of `Skills`, now or with parameters of the past.
    async fn state(&self, query: &str) -> anyhow::Result<BTreeMap<String, Value>> {
        let list = self.get(&format!("{LIST}{query}")).await?;
        let items = list["items"].as_array().context("items")?;
        let value = |item: &Value| {
            let id = item["id"].as_str().unwrap_or_default().to_owned();
            (id, item["configData"].clone())
        };
        Ok(items.iter().map(value).collect())
    }

    async fn revision(&self) -> anyhow::Result<u64> {
        let head = self.get("/v1/collections/Skills").await?;
        head["revision"].as_u64().context("a revision")
    }

    /// All pages of a history.
    async fn pages(&self, path: &str, query: &str) -> anyhow::Result<Vec<Value>> {
        let mut items = Vec::new();
        let mut before = String::new();
        loop {
            let mut page = self.get(&format!("{path}?{query}{before}")).await?;
            if let Some(found) = page["items"].as_array_mut() {
                items.append(found);
            }
            match page["next"].as_str() {
                Some(next) => before = format!("&before={next}"),
                None => return Ok(items),
            }
        }
    }
}

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
            ("limit=x", ""),
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

#[tokio::test]
async fn a_rollback_of_a_document_is_previewed_and_brings_back_exactly_what_was() -> Outcome {
    with_both_stores(async |publisher| {
        let first = json!({"n": 1, "metadata": {"owner": "ada"}});
        publisher.put("a", first.clone()).await?;
        publisher
            .put("a", json!({"n": 2, "metadata": {"later": true}}))
            .await?;
        let path = format!("{LIST}/a");

        let to_first = json!({"toRevision": 1, "dryRun": true});
        let shown = publisher.roll_back(&path, to_first, 200).await?;
        ensure!(shown["expected"] == 2 && shown["id"].is_null(), "{shown}");
        ensure!(publisher.revision().await? == 2, "a dry run writes nothing");
        let item = &shown["items"][0];
        ensure!(
            item["op"] == "Update" && item["replaced"] == 2 && item["restored"] == 1,
            "{item}"
        );
        ensure!(
            item["diff"].as_array().is_some_and(|diff| diff.len() == 3),
            "{item}"
        );

        let to_first = json!({"toRevision": 1, "expected": 2});
        let done = publisher.roll_back(&path, to_first, 200).await?;
        ensure!(done["items"][0]["revision"] == 3, "{done}");
        let document = publisher.get(&path).await?;
        ensure!(
            document["configData"] == first,
            "metadata is not merged: {document}"
        );
        let newest = publisher
            .pages(&format!("{path}/history"), "limit=1")
            .await?;
        ensure!(
            newest[0]["reason"] == "rollback to revision 1",
            "{newest:?}"
        );

        // A document that was deleted comes back, and one that did not exist is deleted.
        publisher.delete("a").await?;
        let back = publisher
            .roll_back(&path, json!({"toRevision": 3}), 200)
            .await?;
        ensure!(back["items"][0]["op"] == "Create", "{back}");
        ensure!(publisher.get(&path).await?["configData"] == first);
        let gone = publisher
            .roll_back(&path, json!({"toRevision": 0}), 200)
            .await?;
        ensure!(gone["items"][0]["op"] == "Delete", "{gone}");
        ensure!(publisher.read(SKILLS, "a").await?.is_none());
        let nothing = publisher
            .roll_back(&path, json!({"toRevision": 4}), 200)
            .await?;
        ensure!(
            nothing["items"] == json!([]) && nothing["expected"] == 0,
            "{nothing}"
        );
        ensure!(publisher.revision().await? == 6);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_change_between_preview_and_rollback_is_a_conflict_that_names_it() -> Outcome {
    with_both_stores(async |publisher| {
        publisher.put("a", json!({"n": 1})).await?;
        publisher.put("a", json!({"n": 2})).await?;
        publisher.put("b", json!({})).await?;
        let path = format!("{LIST}/a");
        let whole = "/v1/collections/Skills";
        let dry = json!({"toRevision": 1, "dryRun": true});
        let of_document = publisher.roll_back(&path, dry.clone(), 200).await?;
        let of_collection = publisher.roll_back(whole, dry, 200).await?;
        ensure!(of_collection["expected"] == 3, "{of_collection}");

        let author = [("x-user-id", "bob"), ("x-change-reason", "an urgent fix")];
        let value = json!({"n": 3});
        publisher.json(("PUT", &path), &author, &value, 200).await?;
        for (path, ids, expected) in [
            (&*path, None, &of_document["expected"]),
            (whole, None, &of_collection["expected"]),
            (whole, Some(json!(["a", "b"])), &of_collection["expected"]),
        ] {
            let mut body = json!({"toRevision": 1, "expected": expected});
            if let Some(ids) = &ids {
                body["ids"] = ids.clone();
            }
            let problem = publisher.roll_back(path, body, 412).await?;
            let change = &problem["lastChange"];
            ensure!(
                change["userId"] == "bob" && change["revision"] == 4,
                "{problem}"
            );
            ensure!(
                change["reason"] == "an urgent fix" && change["time"].is_string(),
                "{problem}"
            );
        }
        // A change of another document is no conflict for the named ones.
        let only_b = json!({"toRevision": 1, "expected": 3, "ids": ["b"]});
        let done = publisher.roll_back(whole, only_b, 200).await?;
        ensure!(
            done["items"][0]["id"] == "b" && done["items"][0]["op"] == "Delete",
            "{done}"
        );
        ensure!(publisher.state("").await? == BTreeMap::from([("a".into(), json!({"n": 3}))]));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_rollback_of_a_collection_restores_every_document_in_one_set() -> Outcome {
    with_both_stores(async |publisher| {
        for id in ["changed", "deleted", "same"] {
            publisher.put(id, json!({"id": id, "n": 1})).await?;
        }
        let then = publisher.state("").await?;
        let snapshot = ("PUT", "/v1/snapshots/before-release");
        let made = publisher
            .json(snapshot, &[("x-user-id", "ada")], &Value::Null, 201)
            .await?;
        ensure!(
            made["userId"] == "ada" && made["collections"][1]["revision"] == 3,
            "{made}"
        );
        publisher.json(snapshot, &[], &Value::Null, 409).await?;

        publisher.put("changed", json!({"n": 2})).await?;
        publisher.delete("deleted").await?;
        publisher.put("created", json!({})).await?;
        publisher.put("same", json!({"n": 7})).await?;
        publisher.put("same", json!({"id": "same", "n": 1})).await?;
        let wrong = publisher.state("").await?;

        let whole = "/v1/collections/Skills";
        let body = json!({"toSnapshot": "before-release", "dryRun": true});
        let shown = publisher.roll_back(whole, body, 200).await?;
        let of = |member: &str| -> Vec<_> {
            let items = shown["items"].as_array().into_iter().flatten();
            items.map(|item| item[member].clone()).collect()
        };
        ensure!(of("id") == ["changed", "created", "deleted"], "{shown}");
        ensure!(of("op") == ["Update", "Delete", "Create"], "{shown}");
        ensure!(
            shown["toRevision"] == 3 && shown["expected"] == 8,
            "{shown}"
        );

        let body = json!({"toSnapshot": "before-release", "expected": 8});
        let done = publisher.roll_back(whole, body, 200).await?;
        ensure!(done["expected"] == 11, "{done}");
        ensure!(publisher.state("").await? == then);
        let log = publisher.log(SKILLS).await?;
        let set = log.last().and_then(|change| change.change_set.as_ref());
        ensure!(set.is_some_and(|set| json!(set.id) == done["id"]), "{done}");

        // A rollback is a change set: it can be undone too.
        let undo = format!("/v1/sets/{}", done["id"].as_str().context("an id")?);
        publisher.roll_back(&undo, json!({}), 200).await?;
        ensure!(publisher.state("").await? == wrong);

        let named = publisher.get("/v1/snapshots/before-release").await?;
        ensure!(publisher.get("/v1/snapshots").await? == json!({"items": [named]}));
        let then_again = publisher.state("?snapshot=before-release").await?;
        ensure!(then_again == then);
        let delete = ("DELETE", "/v1/snapshots/before-release");
        publisher.json(delete, &[], &Value::Null, 204).await?;
        publisher.json(delete, &[], &Value::Null, 404).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_undo_of_a_change_set_needs_its_changes_to_be_the_newest() -> Outcome {
    with_both_stores(async |publisher| {
        publisher.put("a", json!({"n": 1})).await?;
        publisher.put("gone", json!({"n": 1})).await?;
        let set = publisher
            .set(json!([
                {"collection": SKILLS, "op": "Replace", "id": "a", "configData": {"n": 2}},
                {"collection": SKILLS, "op": "Delete", "id": "gone"},
                {"collection": AGENTS, "op": "Create", "id": "new", "configData": {}},
            ]))
            .await?;
        let undo = format!("/v1/sets/{}", set["id"].as_str().context("an id")?);
        let shown = publisher
            .roll_back(&undo, json!({"dryRun": true}), 200)
            .await?;
        ensure!(
            shown["items"]
                .as_array()
                .is_some_and(|items| items.len() == 3),
            "{shown}"
        );

        // Created and deleted again: the deletion of the set is no longer the newest change.
        publisher.put("gone", json!({"n": 9})).await?;
        publisher.delete("gone").await?;
        let problem = publisher.roll_back(&undo, json!({}), 409).await?;
        ensure!(problem["lastChange"]["revision"] == 6, "{problem}");
        ensure!(
            problem["current"].is_null() && problem.get("current").is_some(),
            "{problem}"
        );
        ensure!(publisher.get(&format!("{LIST}/a")).await?["configData"]["n"] == 2);

        // The state that the set left is made again, by other changes: still not its own.
        let none = publisher.roll_back("/v1/sets/none", json!({}), 404).await?;
        ensure!(none["type"] == "urn:confcast:problem:no-set", "{none}");

        let set = publisher
            .set(json!([
                {"collection": SKILLS, "op": "Replace", "id": "a", "configData": {"n": 3}},
                {"collection": AGENTS, "op": "Delete", "id": "new"},
            ]))
            .await?;
        let undo = format!("/v1/sets/{}", set["id"].as_str().context("an id")?);
        publisher.roll_back(&undo, json!({}), 200).await?;
        ensure!(publisher.get(&format!("{LIST}/a")).await?["configData"]["n"] == 2);
        ensure!(publisher.read(AGENTS, "new").await?.is_some());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn more_documents_than_a_set_may_have_are_rolled_back_in_parts() -> Outcome {
    with_publisher(&[], async |publisher| {
        for part in 0..3 {
            let create = |n: usize| {
                let id = format!("d{part}-{n}");
                json!({"collection": SKILLS, "op": "Create", "id": id, "configData": {}})
            };
            let changes: Vec<_> = (0..100).map(create).collect();
            publisher.set(json!(changes)).await?;
        }
        let whole = "/v1/collections/Skills";
        let problem = publisher
            .roll_back(whole, json!({"toRevision": 0}), 413)
            .await?;
        let detail = problem["detail"].as_str().unwrap_or_default();
        ensure!(detail.starts_with("300 documents"), "{problem}");
        ensure!(publisher.state("").await?.len() == 300, "nothing was done");

        let mut body = json!({"toRevision": 0, "expected": 300, "partial": true});
        let first = publisher.roll_back(whole, body.clone(), 200).await?;
        ensure!(
            first["more"] == true && publisher.state("").await?.len() == 44,
            "{first}"
        );
        body["expected"] = first["expected"].clone();
        let second = publisher.roll_back(whole, body, 200).await?;
        ensure!(second.get("more").is_none() && publisher.state("").await?.is_empty());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_rollback_request_that_is_not_one_is_refused_with_its_place() -> Outcome {
    with_publisher(&[], async |publisher| {
        publisher.put("a", json!({})).await?;
        let document = format!("{LIST}/a");
        let whole = "/v1/collections/Skills";
        for (path, body, status, pointer) in [
            (whole, json!({}), 400, ""),
            (whole, json!({"toRevision": 1, "toSnapshot": "x"}), 400, ""),
            (whole, json!({"toRevision": "1"}), 400, "/toRevision"),
            (whole, json!({"toRevision": 1, "to": 1}), 400, "/to"),
            (whole, json!({"toRevision": 1, "ids": []}), 400, "/ids"),
            (
                &document,
                json!({"toRevision": 1, "ids": ["a"]}),
                400,
                "/ids",
            ),
            (&document, json!({"toRevision": 2}), 404, ""),
            (whole, json!({"toSnapshot": "x"}), 404, ""),
            ("/v1/collections/Nowhere", json!({"toRevision": 1}), 404, ""),
        ] {
            let problem = publisher.roll_back(path, body.clone(), status).await?;
            let found = problem["pointer"].as_str().unwrap_or_default();
            ensure!(found == pointer, "{body} {problem}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_value_of_then_that_the_schema_of_today_refuses_does_not_come_back() -> Outcome {
    let folder = tempfile::tempdir()?;
    let schema = |name: &str, schema: Value| {
        let path = folder.path().join(format!("{name}.schema.json"));
        std::fs::write(path, schema.to_string())
    };
    schema(SKILLS, json!({"title": "first"}))?;
    schema(AGENTS, json!({}))?;
    let schemas = folder.path().display().to_string();
    with_publisher(&["--schemas-dir", &schemas], async |publisher| {
        publisher.put("a", json!({"n": 7})).await?;
        publisher.put("a", json!({"n": 1})).await?;
        schema(
            SKILLS,
            json!({"title": "second", "properties": {"n": {"maximum": 1}}}),
        )?;
        let publisher = &*publisher;
        eventually("the second schema", || async move {
            let schema = publisher.get("/v1/schemas/Skills").await?;
            ensure!(schema["title"] == "second", "{schema}");
            Ok(())
        })
        .await?;
        for (path, dry_run) in [
            (format!("{LIST}/a"), true),
            (format!("{LIST}/a"), false),
            ("/v1/collections/Skills".to_owned(), true),
            ("/v1/collections/Skills".to_owned(), false),
        ] {
            let body = json!({"toRevision": 1, "dryRun": dry_run});
            let problem = publisher.roll_back(&path, body, 422).await?;
            ensure!(problem["errors"][0]["pointer"] == "/n", "{problem}");
            let detail = problem["detail"].as_str().unwrap_or_default();
            ensure!(detail.contains("Skills/a had at revision 1"), "{problem}");
        }
        Ok(())
    })
    .await
}
