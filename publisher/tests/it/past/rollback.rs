//! Rollbacks of documents, collections and change sets, and named snapshots.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use e2e::testbed::wait::eventually;
use serde_json::{Value, json};

use super::{LIST, with_both_stores};
use crate::{
    Outcome,
    testbed::{AGENTS, SKILLS, with_publisher},
};

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
        let expected = shown["expected"].as_str().unwrap_or_default();
        ensure!(
            expected.starts_with("2-") && shown["id"].is_null(),
            "revision and checksum: {shown}"
        );
        // The same revision with another value, as after a restore.
        let to_first = json!({"toRevision": 1, "expected": "2-00000000"});
        publisher.roll_back(&path, to_first, 412).await?;
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
        let expected = of_collection["expected"].as_str().unwrap_or_default();
        let epoch = expected.strip_suffix("-3").context("a revision")?;
        let declared = publisher.get(whole).await?;
        ensure!(declared["epoch"] == epoch, "{of_collection}");

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
        // A document that never was is no conflict; a revision that is not there yet is one.
        for (revision, status) in [(4, 200), (9, 412)] {
            let body = json!({"toRevision": 1, "expected": revision, "ids": ["a", "none"], "dryRun": true});
            publisher.roll_back(whole, body, status).await?;
        }
        // A change of another document is no conflict for the named ones.
        let only_b = json!({"toRevision": 1, "expected": 3, "ids": ["b"]});
        let done = publisher.roll_back(whole, only_b, 200).await?;
        ensure!(
            done["items"][0]["id"] == "b" && done["items"][0]["op"] == "Delete",
            "{done}"
        );
        ensure!(publisher.state("").await? == BTreeMap::from([("a".into(), json!({"n": 3}))]));
        publisher.json(("DELETE", &path), &author, &Value::Null, 200).await?;
        let body = json!({"toRevision": 1, "expected": 5, "ids": ["a"]});
        let problem = publisher.roll_back(whole, body, 412).await?;
        ensure!(problem["current"].is_null() && problem["lastChange"]["op"] == "Delete", "{problem}");
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
        // The same request again, because its answer was lost.
        let named = ("PUT", "/v1/snapshots/repeated");
        let request = [("x-correlation-id", "order-66")];
        let made = publisher.json(named, &request, &Value::Null, 201).await?;
        ensure!(publisher.json(named, &request, &Value::Null, 200).await? == made);
        let other = [("x-correlation-id", "order-67")];
        publisher.json(named, &other, &Value::Null, 409).await?;
        publisher
            .json(("DELETE", named.1), &[], &Value::Null, 204)
            .await?;

        publisher.put("changed", json!({"n": 2})).await?;
        publisher.delete("deleted").await?;
        publisher.put("created", json!({})).await?;
        publisher.put("same", json!({"n": 7})).await?;
        publisher.put("same", json!({"id": "same", "n": 1})).await?;
        let wrong = publisher.state("").await?;

        let whole = "/v1/collections/Skills";
        let head = publisher.get(whole).await?;
        let epoch = head["epoch"].as_str().context("an epoch")?;
        let body = json!({"toSnapshot": "before-release", "dryRun": true});
        let shown = publisher.roll_back(whole, body, 200).await?;
        let of = |member: &str| -> Vec<_> {
            let items = shown["items"].as_array().into_iter().flatten();
            items.map(|item| item[member].clone()).collect()
        };
        ensure!(of("id") == ["changed", "created", "deleted"], "{shown}");
        ensure!(of("op") == ["Update", "Delete", "Create"], "{shown}");
        ensure!(
            shown["toRevision"] == 3 && shown["expected"] == format!("{epoch}-8"),
            "{shown}"
        );

        let body = json!({"toSnapshot": "before-release", "expected": 8});
        let done = publisher.roll_back(whole, body, 200).await?;
        ensure!(done["expected"] == format!("{epoch}-11"), "{done}");
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
async fn what_a_preview_expected_is_not_met_in_another_epoch() -> Outcome {
    with_both_stores(async |publisher| {
        publisher.put("a", json!({"n": 1})).await?;
        publisher.put("a", json!({"n": 2})).await?;
        let whole = "/v1/collections/Skills";
        let dry = json!({"toRevision": 1, "dryRun": true});
        let shown = publisher.roll_back(whole, dry, 200).await?;
        let epoch = ("POST", "/v1/epoch");
        publisher.json(epoch, &[], &json!({}), 200).await?;

        for ids in [None, Some(["a"])] {
            let mut body = json!({"toRevision": 1, "expected": shown["expected"]});
            if let Some(ids) = ids {
                body["ids"] = json!(ids);
            }
            let problem = publisher.roll_back(whole, body, 412).await?;
            ensure!(
                problem["detail"]
                    .as_str()
                    .is_some_and(|it| it.contains("epoch")),
                "{problem}"
            );
        }
        // A number is a revision of the present epoch.
        let body = json!({"toRevision": 1, "expected": 2});
        publisher.roll_back(whole, body, 200).await?;
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
            (
                &document,
                json!({"toRevision": 1, "expected": "00000001-1-1"}),
                400,
                "/expected",
            ),
            (
                whole,
                json!({"toRevision": 1, "expected": "1-00000000"}),
                400,
                "/expected",
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
